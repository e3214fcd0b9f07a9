"""How connections live and end under a real server: pushing, leaving, failing, stopping."""

import asyncio
import contextlib
import email
import itertools
import re
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from conftest import PATIENCE, Project, Server, wait_until
from sites import RawClient, cookie_of, frame, logging, quiet, serving
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

GRACE = 1.0

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


@pytest.fixture(scope="module")
def site(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"WEBSOCKET_DISCONNECT_GRACE": str(GRACE), "WEBSOCKET_MAX_MESSAGE_SIZE": "100000"}
    with serving(project, tmp_path_factory.mktemp("site"), **env) as server:
        yield server


# --- views that push, and clients that leave ---------------------------------------------------


def test_a_view_that_only_pushes_survives_a_client_that_sends_without_end(
    project: Project, tmp_path: Path
) -> None:
    pings = ("--ws-ping-interval", "1", "--ws-ping-timeout", "2")

    async def talk_and_listen(server: Server) -> list[str | bytes]:
        async with async_connect(f"{server.ws}/push/", ping_interval=None) as client:

            async def talk() -> None:
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await client.send("x" * 1000)
                        await asyncio.sleep(0.001)

            talking = asyncio.create_task(talk())
            try:
                # Twice as long as the server needs to miss a pong.
                async with asyncio.timeout(60):
                    return [await client.recv() for _ in range(24)]
            finally:
                talking.cancel()

    with serving(project, tmp_path, *pings) as server, quiet(server), logging(server, "push ended"):
        assert asyncio.run(talk_and_listen(server)) == ["tick"] * 24


@pytest.mark.parametrize("view", ["push", "sleep", "wait"])
def test_a_view_that_does_not_receive_ends_soon_after_its_client_left(
    site: Server, view: str
) -> None:
    with quiet(site), logging(site, f"{view} ended"):
        with connect(f"{site.ws}/{view}/") as client:
            client.recv(timeout=30)
            leaves = time.monotonic()
        left = time.monotonic()
    ended = time.monotonic()
    assert ended - left < GRACE + 10
    if view != "push":  # Which notices when it sends; the others have their grace.
        assert ended - leaves >= GRACE


def test_a_view_that_is_busy_when_its_client_leaves_may_finish(site: Server) -> None:
    with quiet(site), logging(site, "busy no more"), connect(f"{site.ws}/busy/") as client:
        client.send("work")


def test_what_a_client_sent_before_it_left_can_still_be_read(site: Server) -> None:
    with quiet(site), logging(site, "late: 4001 done"), connect(f"{site.ws}/late/") as client:
        for number in range(10):
            client.send(f"message {number}")
        client.close(4001, "done")
    read = re.findall("late: message ([0-9]+)", site.log())
    assert read == [str(number) for number in range(10)]


def test_a_started_task_pushes_while_the_view_waits_for_its_client(site: Server) -> None:
    with quiet(site), connect(f"{site.ws}/chat/") as client:
        pushed = [client.recv(timeout=30) for _ in range(3)]
        assert pushed == ["1", "2", "3"]
        client.send("hello")
        while (message := client.recv(timeout=30)) != "hello":
            assert message.isdecimal()


def test_a_started_task_ends_with_its_view(site: Server) -> None:
    with quiet(site), logging(site, "push ended"), connect(f"{site.ws}/chat/") as client:
        client.send("enough")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.recv(timeout=30)
        assert closed.value.rcvd.code == 1000
    ends = re.findall("view ended|push ended", site.log())
    assert ends[-2:] == ["view ended", "push ended"]


def test_a_task_group_of_the_views_own_ends_quietly_too(site: Server) -> None:
    lines = "WebSocket /two_ways/"
    with quiet(site), logging(site, lines, 2), connect(f"{site.ws}/two_ways/") as client:
        assert client.recv(timeout=30) == "tick"


def test_a_subclass_that_the_view_creates_of_its_socket_serves_the_client(site: Server) -> None:
    line = "WebSocket /subclass/ 127.0.0.1 - 1000"
    with quiet(site), logging(site, line), connect(f"{site.ws}/subclass/") as client:
        client.send("hello")
        assert client.recv(timeout=30) == "HELLO"


@pytest.mark.parametrize("view", ["hesitant", "tardy"])
def test_a_client_that_leaves_during_the_handshake_ends_the_view_quietly(
    site: Server, view: str
) -> None:
    word = {"hesitant": "hesitates", "tardy": "tarries"}[view]
    with quiet(site), logging(site, f"{view} ended"):
        with logging(site, word):
            client = RawClient(site, f"/{view}/", handshake=False)
        client.close()


def test_clients_that_leave_at_once_leave_nothing_behind(site: Server) -> None:
    with quiet(site):
        for _ in range(50):
            RawClient(site, "/echo/", handshake=False).reset()
            RawClient(site, "/echo/", handshake=False).close()
            RawClient(site, "/echo/").reset()
            RawClient(site, "/echo/").close()
        with connect(f"{site.ws}/echo/") as client:
            client.send("hello")
            assert client.recv(timeout=30) == "hello"
    # Every line of an open socket has its line of a closed one.
    wait_until(
        lambda: (
            len(re.findall("WebSocket /echo/ .* open", site.log()))
            == len(re.findall("WebSocket /echo/ .* out", site.log()))
        ),
        site.log,
    )


# --- servers that stop -------------------------------------------------------------------------


async def open_some(stack: contextlib.AsyncExitStack, server: Server) -> list[ClientConnection]:
    """Open 200 sockets: asleep, in a thread, and blocked as they send."""
    clients = []

    async def open_one(view: str) -> None:
        options = {"compression": None, "open_timeout": 60, "ping_interval": None}
        client = await async_connect(f"{server.ws}/{view}/", **options)
        stack.push_async_callback(client.close)
        clients.append(client)

    # The handshakes after those in threads would wait for their turn there.
    for view in ("sleep", "wait", "flood", "thread"):
        await asyncio.gather(*(open_one(view) for _ in range(50)))
    return clients


async def code_of(client: ClientConnection) -> int | None:
    """Read to the end, and return with which code that came."""
    try:
        while True:
            await client.recv()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


def assert_every_finally_ran_once(server: Server, sockets: int) -> None:
    ended = re.findall("(?:sleep|thread|flood|wait) ended ([0-9a-f]+)", server.log())
    assert (len(ended), len(set(ended))) == (sockets, sockets)


def test_a_server_that_stops_is_held_up_by_no_view(project: Project, tmp_path: Path) -> None:
    async def stop() -> None:
        async with contextlib.AsyncExitStack() as stack:
            # One of the clients never reads what is sent to it.
            deaf = RawClient(server, "/flood/")
            stack.callback(deaf.close)
            clients = await open_some(stack, server)
            stopping = asyncio.create_task(asyncio.to_thread(server.stop, timeout=PATIENCE))
            async with asyncio.timeout(PATIENCE):
                codes = await asyncio.gather(*(code_of(client) for client in clients))
                await stopping
            assert set(codes) == {1012}

    with serving(project, tmp_path, WEBSOCKET_DISCONNECT_GRACE=str(GRACE)) as server:
        with quiet(server):
            asyncio.run(stop())
        assert_every_finally_ran_once(server, 201)


def test_a_server_that_reloads_is_held_up_by_no_view(workshop: Project, tmp_path: Path) -> None:
    async def reload() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = await open_some(stack, server)
            (workshop.path / "users" / "views.py").touch()
            async with asyncio.timeout(PATIENCE):
                codes = await asyncio.gather(*(code_of(client) for client in clients))
            assert set(codes) == {1012}

    env = {"WEBSOCKET_DISCONNECT_GRACE": str(GRACE)}
    with serving(workshop, tmp_path, "--reload", **env) as server:
        with quiet(server), logging(server, "Application startup complete."):
            asyncio.run(reload())
        assert_every_finally_ran_once(server, 200)


def ready(server: Server) -> tuple[int, bool]:
    """Return the status of the server's readiness, and whether it says that it is stopping."""
    answer = requests.get(f"{server.url}/health/ready", timeout=30)
    return answer.status_code, answer.json()["stopping"]


async def echoing(client: ClientConnection) -> tuple[float, int, str]:
    """Talk until the close; return when it came, and its code and reason."""
    with contextlib.suppress(ConnectionClosed):
        for number in itertools.count():
            await client.send(str(number))
            assert await client.recv() == str(number)
            await asyncio.sleep(0.02)
    return time.monotonic(), client.close_code, client.close_reason


@pytest.mark.parametrize("args", [(), ("--workers", "2")])
def test_a_server_that_drains_says_so_and_closes_its_sockets_one_after_the_other(
    project: Project, tmp_path: Path, args: tuple[str, ...]
) -> None:
    async def drain() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(async_connect(f"{server.ws}/echo/"))
                for _ in range(20)
            ]
            assert await asyncio.to_thread(ready, server) == (200, False)
            talking = [asyncio.create_task(echoing(client)) for client in clients]
            stopping = asyncio.create_task(asyncio.to_thread(server.stop, timeout=PATIENCE))
            async with asyncio.timeout(PATIENCE):
                await asyncio.wait(talking, return_when=asyncio.FIRST_COMPLETED)
                assert await asyncio.to_thread(ready, server) == (503, True)
                closes = await asyncio.gather(*talking)
                await stopping
            assert {close[1:] for close in closes} == {
                (1012, "The server is stopping; connect again.")
            }
            times = sorted(close[0] for close in closes)
            # The last is closed 1.9 s after the first, less how long that may be on its way.
            assert times[-1] - times[0] > 1

    env = {"WEBSOCKET_DRAIN_SECONDS": "3"}
    with serving(project, tmp_path, *args, **env) as server, quiet(server):
        asyncio.run(drain())


def test_a_second_signal_ends_a_drain_at_once(project: Project, tmp_path: Path) -> None:
    async def drain() -> None:
        async with async_connect(f"{server.ws}/echo/") as client:
            talking = asyncio.create_task(echoing(client))
            server.process.terminate()
            await asyncio.to_thread(server.wait_for, "Stopping: ")
            assert await asyncio.to_thread(ready, server) == (503, True)
            await asyncio.to_thread(server.stop, timeout=PATIENCE)
            assert (await talking)[1:] == (1012, "")

    with serving(project, tmp_path, WEBSOCKET_DRAIN_SECONDS="3600") as server, quiet(server):
        asyncio.run(drain())


def test_a_client_that_reads_slowly_gets_all_that_was_sent_before_the_close(site: Server) -> None:
    client = RawClient(site, "/give/")
    # The less its own system takes, the more the server has to keep.
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    data = bytearray()
    while chunk := client.socket.recv(2**16):
        data += chunk
        time.sleep(0.02)  # It takes longer than WEBSOCKET_DISCONNECT_GRACE.
    client.close()
    head, close = b"\x82\x7f" + (12 * 2**20).to_bytes(8), b"\x88\x02\x03\xe8"
    assert (data[:10], data[-4:]) == (head, close)
    assert len(data) == len(head) + 12 * 2**20 + len(close)


# --- many handshakes at once -------------------------------------------------------------------


def test_an_open_socket_is_answered_while_500_slow_handshakes_wait(
    project: Project, tmp_path: Path
) -> None:
    slow = {"X-Sleep": "0.05"}

    async def come(numbers: list[int], number: int) -> None:
        options = {"compression": None, "open_timeout": None, "ping_interval": None}
        url = f"{server.ws}/echo/"
        async with async_connect(url, additional_headers=slow, **options):
            numbers.append(number)

    async def crowd() -> None:
        delays: list[float] = []
        numbers: list[int] = []
        async with async_connect(f"{server.ws}/echo/") as client:
            start = time.monotonic()
            coming = [asyncio.create_task(come(numbers, number)) for number in range(500)]
            while len(numbers) < 500:
                for task in coming:
                    assert not task.done() or task.exception() is None
                asked = time.monotonic()
                await client.send("hello")
                assert await client.recv() == "hello"
                delays.append(time.monotonic() - asked)
                await asyncio.sleep(0.005)
            await asyncio.gather(*coming)
        # They take three seconds, or more where others use the machine: this client is not in their
        # queue.
        assert statistics.median(delays) < (time.monotonic() - start) / 20

    with serving(project, tmp_path) as server, quiet(server):
        asyncio.run(asyncio.wait_for(crowd(), PATIENCE))


def test_what_does_not_fit_into_the_queue_is_refused_and_logged_in_a_line(
    project: Project, tmp_path: Path
) -> None:
    async def come() -> int:
        headers = {"X-Sleep": "0.2"}
        try:
            async with async_connect(
                f"{server.ws}/echo/", additional_headers=headers, open_timeout=None
            ):
                return 101
        except InvalidStatus as refused:
            assert refused.response.headers["Retry-After"] == "5"
            return refused.response.status_code

    async def crowd() -> list[int]:
        return await asyncio.gather(*(come() for _ in range(200)))

    with serving(project, tmp_path, WEBSOCKET_HANDSHAKE_QUEUE="10") as server:
        with quiet(server):
            statuses = asyncio.run(asyncio.wait_for(crowd(), PATIENCE))
        assert set(statuses) == {101, 503}
        refused = re.findall(r"WebSocket /echo/ 127\.0\.0\.1 - refused: 503\n", server.log())
        assert len(refused) == statuses.count(503)


# --- errors ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mail")


@pytest.fixture(scope="module")
def production(
    project: Project, mail: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The site as it is deployed, which writes its admins a letter about every error."""
    env = {
        "ALLOWED_HOSTS": "127.0.0.1",
        "DEBUG": "false",
        "EMAIL_FILE_PATH": str(mail),
        "SECRET_KEY": "k" * 50,
        "SECURE_SSL_REDIRECT": "false",
        "WEBSOCKET_DISCONNECT_GRACE": str(GRACE),
    }
    with serving(project, tmp_path_factory.mktemp("production"), **env) as server:
        yield server


@pytest.mark.parametrize(
    ("view", "outcome", "message"),
    [
        ("fail_before", 500, "failed before the accept"),
        ("fail_after", 1011, "failed after the accept"),
        ("fail_in_task", 1011, "failed in a task"),
        ("fail_by_cancelled", 1011, "The view awaited something that was cancelled."),
        ("fail_in_finally", None, "failed in finally"),
        ("fail_in_decorator", 500, "failed in a decorator"),
        ("fail_in_async_decorator", 1011, "failed in an async decorator"),
    ],
)
def test_an_error_is_reported_once_and_the_client_told(
    production: Server, mail: Path, view: str, outcome: int | None, message: str
) -> None:
    lines = len(production.lines)
    cookie = {"Cookie": cookie_of(production, "ada")}
    url = f"{production.ws}/{view}/"
    with logging(production, f"got_request_exception /{view}/"):
        if outcome == 500:
            with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=cookie):
                pass
            assert refused.value.response.status_code == 500
            assert b"<title>Server Error</title>" in refused.value.response.body
        else:
            with connect(url, additional_headers=cookie) as client:
                if outcome is None:
                    client.close()
                else:
                    with pytest.raises(ConnectionClosed) as closed:
                        client.recv(timeout=30)
                    assert closed.value.rcvd.code == outcome
    if outcome != 500:
        production.wait_for(f"/{view}/ 127.0.0.1 ada 10", timeout=30)  # The line of its end.
    log = "".join(production.lines[lines:])
    assert log.count(f"Internal Server Error: /{view}/") == 1, log
    assert len(re.findall(f"Error: {message}", log)) == 1, log
    assert log.count("testsite/views.py") >= 1, log  # In the traceback.
    assert "ERROR" not in log, log  # The server has nothing to add.
    (body,) = (body for body in bodies(mail) if f"Error at /{view}/" in body)
    assert "USER: ada" in body
    assert message in body


def bodies(mail: Path) -> Iterator[str]:
    """Yield the bodies of the letters that Django has put into a folder, several to a file."""
    for path in mail.iterdir():
        for letter in path.read_bytes().split(b"\n" + b"-" * 79 + b"\n"):
            if letter:
                yield email.message_from_bytes(letter).get_payload(decode=True).decode()


# --- limits and the log ------------------------------------------------------------------------


def test_a_message_that_is_too_large_closes_with_1009_before_the_view_sees_it(
    site: Server,
) -> None:
    with quiet(site), logging(site, "read ended"), connect(f"{site.ws}/read/") as client:
        client.send("a" * 100_000)
        client.send("b" * 100_001)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=30)
        assert closed.value.rcvd.code == 1009
    assert "read: 'aaa" in site.log()
    assert "read: 'bbb" not in site.log()


def test_a_message_that_is_too_large_closes_a_view_that_does_not_receive(site: Server) -> None:
    with quiet(site), logging(site, "sleep ended"), connect(f"{site.ws}/sleep/") as client:
        assert client.recv(timeout=30) == "asleep"
        client.send("b" * 100_001)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=30)
        assert closed.value.rcvd.code == 1009


def test_a_socket_has_a_line_when_it_opens_and_one_when_it_closes(site: Server) -> None:
    before = len(site.lines)
    cookie = {"Cookie": cookie_of(site, "ada")}
    with quiet(site), logging(site, "WebSocket /work/", 2):
        url = f"{site.ws}/work/?token=secret"
        with connect(url, additional_headers=cookie) as client:
            for message in ("hello", "world"):
                client.send(message)
                assert client.recv(timeout=30) == message
            client.close(4001)
    lines = [line for line in site.lines[before:] if line.startswith("WebSocket ")]
    assert len(lines) == 2
    assert lines[0] == "WebSocket /work/ 127.0.0.1 ada open\n"
    ends = r"WebSocket /work/ 127\.0\.0\.1 ada 4001 \d+\.\d s, 2 in, 2 out\n"
    assert re.fullmatch(ends, lines[1]), lines[1]


# --- clients that misbehave --------------------------------------------------------------------

BREACHES = {
    "invalid UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "an unmasked frame": (frame(TEXT, b"hello", masked=False), 1002),
    "an oversized control frame": (frame(PING, bytes(126)), 1002),
    "a control frame in fragments": (frame(PING, b"", fin=False), 1002),
    "an unknown opcode": (frame(3, b""), 1002),
    "a continuation of nothing": (frame(0, b"hello"), 1002),
    "a reserved bit": (b"\xc1\x80\x00\x00\x00\x00", 1002),
    "a close frame with half a code": (frame(CLOSE, b"\x03"), 1002),
    "a close frame with invalid UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("breach", BREACHES)
@pytest.mark.parametrize("view", ["read", "push"])
def test_a_breach_of_the_protocol_ends_the_connection_quietly(
    site: Server, view: str, breach: str
) -> None:
    data, code = BREACHES[breach]
    with quiet(site), logging(site, f"{view} ended"):
        client = RawClient(site, f"/{view}/")
        client.send(data)
        answer = client.read_to_end()
        client.close()
    assert b"\x88" in answer and code.to_bytes(2, "big") in answer


def test_a_view_ends_whose_client_breaks_the_protocol_and_leaves_before_the_accept(
    site: Server,
) -> None:
    with quiet(site), logging(site, "hesitant ended"):
        with logging(site, "hesitates"):
            client = RawClient(site, "/hesitant/", handshake=False)
        client.send(BREACHES["an unmasked frame"][0])
        client.close()


@pytest.mark.parametrize("view", ["read", "push"])
def test_a_reset_in_the_middle_of_a_message_ends_the_connection_quietly(
    site: Server, view: str
) -> None:
    with quiet(site), logging(site, f"{view} ended"):
        client = RawClient(site, f"/{view}/")
        client.send(frame(TEXT, b"x" * 1000)[:500])
        client.reset()


def test_a_client_that_is_gone_without_a_word_is_noticed(project: Project, tmp_path: Path) -> None:
    env = {"WEBSOCKET_DISCONNECT_GRACE": str(GRACE), "WEBSOCKET_MAX_MESSAGE_SIZE": "100000"}
    pings = ("--ws-ping-interval", "1", "--ws-ping-timeout", "1")
    views = ("read", "sleep", "flood", "nap")
    with serving(project, tmp_path, *pings, **env) as server, quiet(server):
        with contextlib.ExitStack() as stack:
            for view in views:
                stack.enter_context(logging(server, f"{view} ended"))
            # They answer no ping, and read nothing of what the second but last sends.
            clients = {view: RawClient(server, f"/{view}/") for view in views}
            # The last one has sent more than is kept for its view.
            for _ in range(200):
                clients["nap"].send(frame(TEXT, b"x" * 1000))
        for client in clients.values():
            client.close()
