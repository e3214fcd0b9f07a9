"""Groups under real servers: slow clients, bursts, many processes, a Redis that goes away."""

import asyncio
import contextlib
import json
import select
import socket
import statistics
import time
import urllib.request
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, Project, Server, run
from services import Redis, Wire, running_redis
from sites import cookie_of, get, quiet, serving
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

SITE = {"DJANGO_SETTINGS_MODULE": "groupsite.settings", "WEBSOCKET_DISCONNECT_GRACE": "1"}

# No pings: members compare what they receive byte by byte.
NO_PINGS = ("--ws-ping-interval", "600")

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def redis() -> Iterator[Redis]:
    with running_redis() as redis:
        yield redis


# --- members -----------------------------------------------------------------------------------


def text(number: int, size: int) -> bytes:
    """Return the text of a message, as the site publishes it."""
    return f"{number:06}".ljust(size, ".").encode()


def frames(numbers: range, size: int) -> list[bytes]:
    """Return messages as a server sends them (RFC 6455, section 5.2)."""
    head = bytes([0x81, size]) if size < 126 else bytes([0x81, 126, *size.to_bytes(2, "big")])
    return [head + text(number, size) for number in numbers]


class Member(asyncio.Protocol):
    """A client that is as fast as they come: of what it receives it keeps but a checksum."""

    pid: int
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.head = b""
        self.joined = asyncio.get_running_loop().create_future()
        self.size = 0
        self.checksum = 0
        self.wanted = 0
        self.news = asyncio.Event()
        self.is_lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.joined.done():
            self.head += data
            answer, end, rest = self.head.partition(b"\r\n\r\n")
            if end and len(rest) >= 10:  # A frame of eight digits.
                assert answer.startswith(b"HTTP/1.1 101 "), answer
                self.pid = int(rest[2:10])
                self.joined.set_result(None)
                data = rest[10:]
            else:
                return
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)
        if self.size >= self.wanted:
            self.news.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.news.set()

    async def until(self, size: int) -> None:
        """Wait until so many bytes have come."""
        self.wanted = size
        self.news.clear()
        while self.size < size:
            assert not self.is_lost, "The server closed the connection."
            await self.news.wait()
            self.news.clear()

    def has_all(self, messages: list[bytes]) -> bool:
        """Tell whether these messages came, in this order, and nothing else."""
        data = b"".join(messages)
        return (self.size, self.checksum) == (len(data), zlib.crc32(data))


async def join(server: Server, path: str, cookie: str = "") -> Member:
    loop = asyncio.get_running_loop()
    _, member = await loop.create_connection(Member, "127.0.0.1", server.port)
    member.transport.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: {cookie}\r\n\r\n".encode()
    )
    await member.joined
    return member


@contextlib.asynccontextmanager
async def joined(server: Server, path: str, count: int) -> AsyncIterator[list[Member]]:
    members: list[Member] = []
    try:
        for _ in range(count):
            members.append(await join(server, path))
        yield members
    finally:
        for member in members:
            member.transport.abort()


async def until_all(members: list[Member], messages: list[bytes]) -> None:
    """Wait until every member has received these messages; fail where one received others."""
    size = sum(map(len, messages))
    try:
        async with asyncio.timeout(5 * PATIENCE):
            await asyncio.gather(*(member.until(size) for member in members))
    except TimeoutError:
        pytest.fail(f"Of {size} bytes, members got {sorted({m.size for m in members})}.")
    assert all(member.has_all(messages) for member in members)


class Sleeper:
    """A client that joins and then reads no more, until it is told to."""

    def __init__(self, server: Server, path: str) -> None:
        self.socket = socket.socket()
        # The less its own system takes, the sooner the server has to keep it.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = b""
        while len(head.partition(b"\r\n\r\n")[2]) < 10:
            head += self.socket.recv(1)

    def read_until(self, end: bytes) -> bytes:
        """Read until this is the last that has come; return all of it."""
        data = bytearray()
        while not data.endswith(end):
            chunk = self.socket.recv(MIB)
            assert chunk, "The server closed the connection."
            data += chunk
        return bytes(data)

    def is_reset(self) -> bool:
        """Tell, without reading, whether the server drops the connection."""
        poll = select.poll()
        poll.register(self.socket, 0)  # Errors alone.
        return bool(poll.poll(PATIENCE * 1000))


async def publish_paced(
    server: Server, name: str, count: int, size: int, pace: Member
) -> list[float]:
    """Publish, as fast as one member receives; return how long each 100 took."""
    frame = len(frames(range(1), size)[0])
    times = []
    async with connect(f"{server.ws}/speaker/{name}/", compression=None) as speaker:
        for start in range(0, count, 100):
            before = time.monotonic()
            await speaker.send(f"[{start}, 100, {size}]")
            await speaker.recv()
            await pace.until((start + 100) * frame)
            times.append(time.monotonic() - before)
    return times


# --- slow clients ------------------------------------------------------------------------------


def test_a_client_that_stops_reading_costs_its_outbox_and_delays_nobody(
    project: Project, tmp_path: Path
) -> None:
    messages = frames(range(25_000), KIB)

    async def crowd(server: Server) -> None:
        async with joined(server, "/room/a/", 24) as members:
            never = Sleeper(server, "/sleepy/a/")
            late = Sleeper(server, "/sleepy/a/")
            before = (await asyncio.to_thread(get, f"{server.url}/state/"))["memory"]
            publishing = asyncio.create_task(
                publish_paced(server, "a", len(messages), KIB, members[0])
            )
            # As soon as they are found to be slow, they are no members, and their views end.
            await asyncio.to_thread(server.wait_for, "it is closed.", times=2)
            # Who reads again in time learns why; who does not is cut off.
            reading = asyncio.to_thread(late.read_until, b"\x03\xf5Too slow to read.")
            received = asyncio.create_task(reading)
            state = await asyncio.to_thread(get, f"{server.url}/state/")
            assert state["members"]["a"] == len(members)
            assert state["counters"]["closed"] == 2
            await asyncio.to_thread(server.wait_for, "sleepy ended", times=2)
            assert state["memory"] - before < 20 * MIB
            assert (await received).startswith(b"".join(messages[:1000]))
            assert await asyncio.to_thread(never.is_reset)
            times = await publishing
            await until_all(members, messages)
            after = (await asyncio.to_thread(get, f"{server.url}/state/"))["memory"]
            assert after - before < 20 * MIB
            # At no time did the others wait for them; how fast a machine is, it says itself.
            assert max(times) < max(2, 20 * statistics.median(times))

    env = {**SITE, "WEBSOCKET_DISCONNECT_GRACE": "5"}
    with serving(project, tmp_path, *NO_PINGS, **env) as server, quiet(server):
        asyncio.run(crowd(server))


@pytest.mark.parametrize(
    "args",
    [("--loop", "asyncio"), ("--ws", "websockets", "--loop", "uvloop")],
    ids=lambda args: "-".join(args),
)
def test_a_client_that_stops_reading_is_dropped_by_every_implementation(
    project: Project, tmp_path: Path, args: tuple[str, ...]
) -> None:
    messages = frames(range(10_000), KIB)

    async def crowd(server: Server) -> None:
        async with joined(server, "/room/a/", 3) as members:
            never = Sleeper(server, "/sleepy/a/")
            await publish_paced(server, "a", len(messages), KIB, members[0])
            await until_all(members, messages)
            assert await asyncio.to_thread(never.is_reset)
            assert get(f"{server.url}/state/")["members"] == {"a": 3}
            await asyncio.to_thread(server.wait_for, "sleepy ended")

    with serving(project, tmp_path, *NO_PINGS, *args, **SITE) as server, quiet(server):
        asyncio.run(crowd(server))


def test_the_policy_drop_keeps_a_slow_client_and_drops_the_oldest(
    project: Project, tmp_path: Path
) -> None:
    messages = frames(range(15_000), KIB)

    async def crowd(server: Server) -> None:
        async with joined(server, "/room/a/", 3) as members:
            slow = Sleeper(server, "/room/a/")
            await publish_paced(server, "a", len(messages), KIB, members[0])
            await until_all(members, messages)
            state = get(f"{server.url}/state/")
            assert state["members"] == {"a": 4}
            received = await asyncio.to_thread(slow.read_until, messages[-1])
            frame = len(messages[0])
            parts = [received[at : at + frame] for at in range(0, len(received), frame)]
            # A beginning and an end, whole and in order, and nothing of what is between them.
            ends = len(parts) - next(
                at for at, part in enumerate(reversed(parts)) if part != messages[-1 - at]
            )
            assert parts[:ends] == messages[:ends]
            assert parts[ends:] == messages[ends - len(parts) :]
            assert len(parts) - ends > 900  # Nearly a mebibyte, the outbox.
            assert state["counters"]["dropped"] == len(messages) - len(parts)
            server.wait_for("messages to it are dropped.")
            assert server.log().count("messages to it are dropped.") == 1

    env = {**SITE, "WEBSOCKET_SLOW_CLIENT": '"drop"'}
    with serving(project, tmp_path, *NO_PINGS, **env) as server, quiet(server):
        asyncio.run(crowd(server))


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_who_publishes_without_a_pause_loses_no_client_that_keeps_up(
    project: Project, tmp_path: Path, where: str
) -> None:
    messages = frames(range(10_000), KIB)

    async def crowd(server: Server) -> None:
        async with joined(server, "/room/a/", 10) as members:
            await asyncio.to_thread(get, f"{server.url}/{where}/a/{len(messages)}/{KIB}/")
            await until_all(members, messages)

    with serving(project, tmp_path, *NO_PINGS, **SITE) as server, quiet(server):
        asyncio.run(crowd(server))


def test_a_server_with_members_under_load_stops_in_time(project: Project, tmp_path: Path) -> None:
    async def crowd(server: Server) -> None:
        async with (
            joined(server, "/sleepy/a/", 20),
            connect(f"{server.ws}/load/a/") as load,
            connect(f"{server.ws}/room/a/") as member,
        ):
            slow = Sleeper(server, "/sleepy/a/")
            await load.recv()
            await member.recv()
            with contextlib.closing(slow.socket):
                await asyncio.to_thread(server.stop)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await member.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012

    with serving(project, tmp_path, **SITE) as server, quiet(server):
        asyncio.run(crowd(server))


# --- Redis, and many processes -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def on_both(
    server: Server, path: str, count: int, cookie: str = ""
) -> AsyncIterator[list[Member]]:
    """Join until so many have, and both of the server's processes have some of them."""
    members: list[Member] = []
    try:
        while len(members) < count or len({member.pid for member in members}) < 2:
            assert len(members) < count + 200, "One process takes all connections."
            members.append(await join(server, path, cookie))
        yield members
    finally:
        for member in members:
            member.transport.abort()


@pytest.fixture
def workers(project: Project, tmp_path: Path, redis: Redis) -> Iterator[Server]:
    """Two processes behind one port."""
    with serving(
        project, tmp_path, *NO_PINGS, "--workers", "2", REDIS_URL=redis.url, **SITE
    ) as server:
        server.wait_for("Application startup complete.", times=2)
        yield server


def test_a_burst_from_outside_reaches_the_members_in_all_processes_in_order(
    workers: Server,
) -> None:
    messages = frames(range(10_000), 6)
    command = (
        "from websocket.groups import publish\n"
        f"for number in range({len(messages)}): publish('a', f'{{number:06}}')"
    )

    async def crowd() -> None:
        async with on_both(workers, "/room/a/", 40) as members:
            await asyncio.to_thread(
                run,
                *(workers.project.python, "manage.py", "shell", "-c", command),
                cwd=workers.project.path,
                env=workers.env,
            )
            await until_all(members, messages)

    with quiet(workers):
        asyncio.run(crowd())


def test_logging_out_closes_the_sockets_in_all_processes_within_a_second(workers: Server) -> None:
    ada, bob = cookie_of(workers, "ada"), cookie_of(workers, "bob")
    request = urllib.request.Request(f"{workers.url}/log-out/", headers={"Cookie": ada})

    async def crowd() -> None:
        async with (
            on_both(workers, "/members/", 4, ada) as hers,
            on_both(workers, "/members/", 4, bob) as his,
        ):
            start = time.monotonic()
            await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=60).close())
            closing = b"\x88\x18\x03\xf4The login has changed."
            # A second; on a machine on which logging out takes long, as much longer.
            async with asyncio.timeout(max(1, 10 * (time.monotonic() - start))):
                await asyncio.gather(*(member.until(len(closing)) for member in hers))
            assert all(member.has_all([closing]) for member in hers)
            assert not any(member.size for member in his)

    with quiet(workers):
        asyncio.run(crowd())


async def until(load: Any, wanted: str) -> None:
    """Wait until a message was published well, or went wrong."""
    async with asyncio.timeout(PATIENCE):
        while True:
            went, seconds = json.loads(await load.recv())
            assert seconds < 5, "Publishing took too long."
            if went == wanted:
                return


def test_a_redis_that_is_killed_and_comes_back_is_found_again(
    project: Project, tmp_path: Path, redis: Redis
) -> None:
    async def crowd(server: Server) -> None:
        async with (
            joined(server, "/room/a/", 10) as members,
            connect(f"{server.ws}/load/a/") as load,
        ):
            await until(load, "well")
            redis.kill()
            await until(load, "wrong")
            redis.start()
            await until(load, "well")
            # Messages may have been lost, so the members are closed, and load again.
            async with asyncio.timeout(PATIENCE):
                for member in members:
                    while not member.is_lost:
                        member.news.clear()
                        await member.news.wait()
        async with (
            joined(server, "/room/a/", 10) as members,
            connect(f"{server.ws}/load/a/") as load,
        ):
            await until(load, "well")
            async with asyncio.timeout(PATIENCE):
                for member in members:
                    await member.until(member.size + 80)
            # In the same process as before.
            assert {member.pid for member in members} == {server.process.pid}

    env = {**SITE, "REDIS_URL": redis.url, "WEBSOCKET_REDIS_TIMEOUT": "1"}
    with serving(project, tmp_path, *NO_PINGS, **env) as server:
        asyncio.run(crowd(server))
        assert server.process.poll() is None
        log = server.log()
        assert "Traceback" not in log, log
        assert log.count("Redis does not answer (") == log.count("Redis is back (") == 1


def test_a_redis_that_hangs_up_again_and_again_is_lost_and_found_without_a_traceback(
    project: Project, tmp_path: Path, redis: Redis
) -> None:
    # With uvloop, a connection that ends while redis-py opens it is a RuntimeError.
    async def talk(server: Server, wire: Wire) -> None:
        async with connect(f"{server.ws}/load/a/") as load:
            for _ in range(30):
                await until(load, "well")
                # It may be closed once Redis is back.
                async with joined(server, "/room/a/", 1):
                    wire.tear()
                    for _ in range(3):
                        await until(load, "wrong")
                    wire.mend()
            await until(load, "well")
            async with joined(server, "/room/a/", 1) as (member,):
                await member.until(8)

    with contextlib.closing(Wire(redis.port)) as wire:
        env = {**SITE, "REDIS_URL": f"redis://127.0.0.1:{wire.port}/0"}
        with serving(project, tmp_path, *NO_PINGS, "--loop", "uvloop", **env) as server:
            asyncio.run(talk(server, wire))
            assert "Traceback" not in server.log(), server.log()


def test_sockets_that_use_no_groups_need_no_redis(project: Project, tmp_path: Path) -> None:
    async def talk(server: Server) -> None:
        async with connect(f"{server.ws}/echo/") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
        async with connect(f"{server.ws}/room/a/") as client:
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011

    env = {**SITE, "REDIS_URL": "redis://127.0.0.1:1/0", "WEBSOCKET_REDIS_TIMEOUT": "0.5"}
    with serving(project, tmp_path, **env) as server:
        asyncio.run(talk(server))
        server.wait_for("Redis cannot be reached to join 'a'")
