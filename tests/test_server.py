"""The rendered project as uvicorn serves it, seen by real clients."""

import asyncio
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import PATIENCE, Project, Server, edit, servers_of
from sites import logging, quiet
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

# Views that tell the log how their connections ended, and that end them themselves.
GOODBYES = """
from websocket.connection import WebSocketDisconnect


async def listen(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect as gone:
        print(f"the client left with {gone.code} {gone.reason!r}", flush=True)


async def leave(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("goodbye")
    await socket.close(4002, "enough")
"""

# As in docs/groups.md of the project.
EVENTS = """
from django.http import StreamingHttpResponse
from users.views import WALL
from websocket.groups import subscribe


async def events(request):
    async def stream():
        yield ": hello\\n\\n"
        try:
            async for message in subscribe(WALL):
                yield f"data: {message}\\n\\n"
        finally:
            print("the stream was left", flush=True)

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


urlpatterns += [path("events/", events)]
"""


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[Server]:
    with servers_of(project) as serve:
        yield serve()


@pytest.fixture
def client(server: Server) -> Iterator[ClientConnection]:
    with connect(f"{server.ws}/ws/") as client:
        yield client


def get(url: str) -> tuple[int, str]:
    """Return the status and the body of the answer to a browser's request."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_text_comes_back_as_text_and_bytes_as_bytes(client: ClientConnection) -> None:
    for message in (
        "hello",
        "",
        "\u0437\u0434\u0440\u0430\u0432\u043e \U0001f680",
        b"\x00\xff",
        b"",
    ):
        client.send(message)
        assert client.recv(timeout=10) == message


def test_a_message_of_a_mebibyte_comes_back_whole(client: ClientConnection) -> None:
    for message in ("x" * 2**20, bytes(range(256)) * 2**12):
        client.send(message)
        assert client.recv(timeout=10) == message


def test_a_message_in_fragments_comes_back_whole(client: ClientConnection) -> None:
    client.send(["he", "ll", "o"])
    assert client.recv(timeout=10) == "hello"


def test_messages_come_back_in_the_order_in_which_they_were_sent(client: ClientConnection) -> None:
    messages = [str(number) for number in range(1000)]
    for message in messages:
        client.send(message)
    assert [client.recv(timeout=10) for _ in messages] == messages


def test_a_ping_is_answered(client: ClientConnection) -> None:
    assert client.ping(b"are you there").wait(timeout=10)


@pytest.fixture(scope="module")
def goodbyes(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose project has the two views above."""
    copy = project.copy(tmp_path_factory.mktemp("goodbyes") / "project")
    views = copy.path / "users" / "views.py"
    views.write_text(views.read_text() + GOODBYES)
    urls = copy.path / "project" / "urls.py"
    urls.write_text(
        urls.read_text()
        + "from users.views import leave, listen\n"
        + 'urlpatterns += [websocket("leave/", leave), websocket("listen/", listen)]\n'
    )
    with servers_of(copy) as serve:
        yield serve()


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "to another page"), (4001, "na\u0161vidanje")]
)
def test_the_clients_close_code_and_reason_reach_the_view(
    goodbyes: Server, code: int, reason: str
) -> None:
    with connect(f"{goodbyes.ws}/listen/") as client:
        client.close(code, reason)
        assert client.close_code == code
    goodbyes.wait_for(f"the client left with {code} {reason!r}")


def test_the_views_close_code_and_reason_reach_the_client(goodbyes: Server) -> None:
    with connect(f"{goodbyes.ws}/leave/") as client:
        assert client.recv(timeout=10) == "goodbye"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4002, "enough")


def test_a_view_hears_of_a_client_that_vanished(goodbyes: Server) -> None:
    left = logging(goodbyes, "the client left with 100")
    with quiet(goodbyes), left, connect(f"{goodbyes.ws}/listen/") as client:
        client.socket.shutdown(socket.SHUT_RDWR)


def test_two_hundred_clients_are_served_at_once(server: Server) -> None:
    async def talk(number: int, everyone: asyncio.Barrier) -> str:
        async with async_connect(f"{server.ws}/ws/", open_timeout=30) as client:
            await everyone.wait()
            await client.send(f"client {number}")
            return await client.recv()

    async def talk_all() -> list[str]:
        everyone = asyncio.Barrier(200)
        async with asyncio.timeout(60):
            return await asyncio.gather(*(talk(number, everyone) for number in range(200)))

    assert asyncio.run(talk_all()) == [f"client {number}" for number in range(200)]


@pytest.mark.parametrize(
    "path", ["/nowhere/", "/ws/nowhere/", "/static/websocket/site.css", "/admin/", "/"]
)
def test_a_path_without_a_socket_refuses_the_handshake_with_404(server: Server, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(server.ws + path):
        pass
    assert refused.value.response.status_code == 404


def test_pages_and_their_static_files_are_served(server: Server) -> None:
    status, page = get(f"{server.url}/")
    assert status == 200
    files = set(re.findall(r'"(/static/[^"]+)"', page + get(f"{server.url}/admin/login/")[1]))
    assert {Path(file).suffix for file in files} >= {".css", ".js"}
    assert {file: get(server.url + file)[0] for file in files} == dict.fromkeys(files, 200)


def test_pages_and_their_static_files_are_served_in_production(
    serve: Callable[..., Server], workshop: Project
) -> None:
    env = {"ALLOWED_HOSTS": "127.0.0.1", "DEBUG": "false", "SECURE_SSL_REDIRECT": "false"}
    workshop.run("manage.py", "collectstatic", "--no-input", env={**workshop.env, **env})
    server = serve(env=env, path=workshop.path)
    page = get(f"{server.url}/")[1] + get(f"{server.url}/admin/login/")[1]
    files = set(re.findall(r'"(/static/[^"]+)"', page))
    # The name holds a hash of the content.
    assert any(re.search(r"\.[0-9a-f]{12}\.css$", file) for file in files)
    assert {file: get(server.url + file)[0] for file in files} == dict.fromkeys(files, 200)
    with connect(f"{server.ws}/ws/") as client:
        client.send("hello")
        assert client.recv(timeout=10) == "hello"


def test_a_server_that_stops_tells_its_clients_and_is_gone_in_seconds(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(f"{server.ws}/ws/")) for _ in range(10)]
        for client in clients:
            client.send("hello")
            assert client.recv(timeout=10) == "hello"
        server.stop()
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=10)
            assert closed.value.rcvd.code == 1012


def test_a_reloading_server_stops_at_a_mistake_in_a_view_and_waits_for_its_correction(
    workshop: Project,
) -> None:
    server = Server(workshop, ("--reload",), {})
    try:
        views = workshop.path / "users" / "views.py"
        correct = views.read_text()
        for number, mistake in enumerate(("import nothing_of_this_name", "oh no", "ohno"), 1):
            edit(views, f"{correct}\n{mistake}\n")
            server.wait_for("Error: ", times=number)
            edit(views, correct)
            server.wait_for("Application startup complete.", times=1 + number)
        for error in ("ModuleNotFoundError", "SyntaxError", "NameError"):
            assert re.search(f"^{error}: ", server.log(), re.MULTILINE)
        assert get(f"{server.url}/")[0] == 200
        server.stop()
    finally:
        server.kill()


def test_a_reloading_server_shows_an_edited_view_at_once(
    serve: Callable[..., Server], workshop: Project
) -> None:
    server = serve("--reload", path=workshop.path)
    with connect(f"{server.ws}/ws/") as client:
        client.send("hello")
        assert client.recv(timeout=10) == "hello"
        views = workshop.path / "users" / "views.py"
        before = views.read_text()
        after = before.replace("send_message(message)", "send_message(message + ' again')")
        assert after != before
        edit(views, after)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=60)
        assert closed.value.rcvd.code == 1012
    server.wait_for("Application startup complete.", times=2)
    with connect(f"{server.ws}/ws/") as client:
        client.send("hello")
        assert client.recv(timeout=10) == "hello again"


def test_a_reloading_server_ends_open_event_streams_and_is_back_at_once(
    serve: Callable[..., Server], workshop: Project
) -> None:
    urls = workshop.path / "project" / "urls.py"
    edit(urls, urls.read_text() + EVENTS)
    server = serve("--reload", path=workshop.path)
    with urllib.request.urlopen(f"{server.url}/events/", timeout=PATIENCE) as stream:
        assert stream.readline() == b": hello\n"
        edit(urls, urls.read_text().replace(": hello", ": hello again"))
        # It ends as a response does that is complete: a browser's EventSource connects again.
        assert stream.read() == b"\n"
        server.wait_for("Application startup complete.", times=2)
        with urllib.request.urlopen(f"{server.url}/events/", timeout=PATIENCE) as again:
            assert again.readline() == b": hello again\n"
    assert "the stream was left" in server.log()
    assert "ERROR" not in server.log()


def test_a_server_that_stops_does_not_wait_for_a_client_that_does_not_read_its_event_stream(
    serve: Callable[..., Server], workshop: Project
) -> None:
    urls = workshop.path / "project" / "urls.py"
    flood = EVENTS.replace('yield ": hello\\n\\n"', 'while True: yield "x" * 2**16')
    assert flood != EVENTS
    edit(urls, urls.read_text() + flood)
    server = serve(path=workshop.path)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        server.stop()
