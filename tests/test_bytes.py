"""Bytes that no decent client sends: nothing hangs, nothing grows, nothing is a traceback.

Each connection is made of a seed, which a failure names: `Connection(SEED)` makes it again.
test_hostile.py has what single mistakes lead to.
"""

import asyncio
import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import PATIENCE, Project, Server, wait_until
from sites import catch_up, frame, get, handshake_of, peak_memory, quiet, serving

# Connections, and how many of them at a time.
CONNECTIONS = 1500
AT_A_TIME = 50

# What clients must not make the server keep, and what a flood sends at the most, in bytes; and the
# seconds that it takes at the most.
MAX_GROWTH = 64 * 2**20
FLOOD = 100 * 2**20
SECONDS = 3

# Views that read, that push, that do neither, and that do not accept; and no view.
PATHS = ("echo", "chat", "push", "sleep", "two_ways", "hesitant", "unavailable", "members", "none")

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc"), reason="only Linux tells what a process uses"
)


class Script(Server):
    """The project as `serve` starts it."""

    def command(self) -> list[str]:
        return [str(self.project.path / "serve"), "--port", str(self.port)]


class Process:
    """What the server's process holds."""

    def __init__(self, server: Server, *, reset: bool = False) -> None:
        self.tasks = get(f"{server.url}/state/")["tasks"]
        self.files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        self.peak = peak_memory(server, reset=reset)

    def __repr__(self) -> str:
        return f"{self.tasks} tasks, {self.files} files, {self.peak >> 20} MiB at the most"

    def holds_more_than(self, other: "Process") -> bool:
        return self.tasks > other.tasks or self.files > other.files


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bytes")
    env = {"DEBUG": "true", "UVICORN_LOG_LEVEL": "info"}
    with serving(project, folder, kind=Script, **env) as server:
        yield server


@pytest.fixture
def unharmed(server: Server) -> Iterator[Server]:
    """A server that in the end holds no more than before, and has logged no error."""
    get(f"{server.url}/state/")  # The first page makes threads.
    before = Process(server, reset=True)
    with quiet(server):
        yield server
    wait_until(
        lambda: not Process(server).holds_more_than(before),
        lambda: f"{before} before, and {Process(server)} after",
    )
    assert Process(server).peak - before.peak < MAX_GROWTH


# --- what a client may send --------------------------------------------------------------------


class Connection:
    """What one client sends, piece by piece, and how it leaves."""

    def __init__(self, seed: object) -> None:
        self.seed = seed
        self.random = random.Random(str(seed))
        path = self.random.choice(PATHS)
        head = handshake_of(f"/{path}/", "127.0.0.1", *self.lines())
        is_whole = self.random.random() < 0.7
        frames = b"".join(self.frame() for _ in range(self.random.randrange(12)))
        self.head = self.cut(head if is_whole else self.mutate(head))
        self.frames = self.cut(frames)
        #: Whether the server has to answer, and whether the frames wait for that, or how long.
        self.is_answered = is_whole and path != "hesitant"
        self.is_early = not self.is_answered or self.random.random() < 0.3
        self.pause = self.random.choice([0, 0.05])
        self.ending = self.random.choice(["shut", "close", "reset", "linger"])

    def lines(self) -> list[str]:
        """Return headers that a handshake does not need."""
        size = self.random.choice([0, 10, 9000])
        return self.random.choice(
            [
                [],
                [],
                ["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"],
                ["Sec-WebSocket-Protocol: a, b, \xff"],
                ["Cookie: a=" + "b" * size],
                [f"X-{number}: a" for number in range(self.random.choice([5, 150]))],
                ["Origin: https://elsewhere.example"],
                ["Content-Length: 5"],
                ["Transfer-Encoding: chunked"],
                ["X-Caf\xe9: \xff"],
            ]
        )

    def frame(self) -> bytes:
        """Return a frame, right or wrong."""
        data = self.random.randbytes(self.random.choice([0, 1, 2, 5, 125, 126, 3000]))
        text = data.hex().encode()
        code = self.random.choice([0, 999, 1000, 1001, 1004, 1005, 1006, 1011, 1015, 3000, 65535])
        reason = self.random.choice([b"", b"why", b"\xff", bytes(200)])
        whole = self.random.choice([True, True, False])
        return self.random.choice(
            [
                lambda: frame(1, text, fin=whole),
                lambda: frame(1, data, fin=whole),
                lambda: frame(2, data, fin=whole),
                lambda: frame(0, text, fin=whole),
                lambda: frame(1, b"a", fin=False) + frame(9, b"ping") + frame(0, b"b"),
                lambda: frame(9, data, fin=whole),
                lambda: frame(10, data),
                lambda: frame(8, b""),
                lambda: frame(8, b"\x03"),
                lambda: frame(8, struct.pack("!H", code) + reason),
                lambda: frame(self.random.randrange(16), data),
                lambda: frame(1, text, masked=False),
                # Reserved bits.
                lambda: bytes([0x80 | self.random.randrange(128)]) + frame(1, text)[1:],
                # Lengths that lie: more than comes, more than there can be, and 1 MiB and a byte.
                lambda: frame(2, bytes(100))[:-50],
                lambda: b"\x82\xff" + b"\xff" * 8 + bytes(4),
                lambda: b"\x82\xff" + struct.pack("!Q", 2**20 + 1) + bytes(4),
                lambda: b"\x82\xfe" + struct.pack("!H", 3) + bytes(7),
                lambda: self.mutate(frame(1, text)),
                lambda: self.random.randbytes(20),
            ]
        )()

    def mutate(self, data: bytes) -> bytes:
        """Return data that has been changed, doubled or cut at some places."""
        changed = bytearray(data)
        for _ in range(self.random.randrange(1, 4)):
            start = self.random.randrange(len(changed) + 1)
            end = start + self.random.randrange(10)
            changed[start:end] = self.random.choice(
                [b"", b"\r\n", b"\0", b"\xff", b":", b" ", changed[start:end] * 2, b"%00%0a"]
            )
        return bytes(changed[: self.random.choice([None, None, len(changed) // 2])])

    def cut(self, data: bytes) -> list[bytes]:
        """Return data in some pieces."""
        places = sorted(self.random.randrange(len(data) + 1) for _ in range(2))
        return [data[: places[0]], data[places[0] : places[1]], data[places[1] :]]

    async def run(self, port: int) -> None:
        """Send all, and see that the server answers and lets go."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            # The server may close at any time: that is an answer too.
            with contextlib.suppress(OSError):
                await self.send(writer, self.head)
                if self.is_early:
                    await asyncio.sleep(self.pause)
                    await self.send(writer, self.frames)
                if self.is_answered:
                    answer = await reader.read(1)
                    assert answer or self.is_early, "It was closed without an answer."
                if not self.is_early:
                    await self.send(writer, self.frames)
                if self.ending == "shut":
                    writer.write_eof()
                    while await reader.read(2**16):
                        pass
                elif self.ending == "linger":
                    await asyncio.sleep(0.5)
                elif self.ending == "close":
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def send(self, writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()


# --- the tests ---------------------------------------------------------------------------------


async def run_all(server: Server, seed: object) -> None:
    """Run many connections, some at a time; the first that is wrong fails."""
    free = asyncio.Semaphore(AT_A_TIME)

    async def run(number: int) -> None:
        connection = Connection(f"{seed}-{number}")
        async with free:
            try:
                async with asyncio.timeout(PATIENCE):
                    await connection.run(server.port)
            except Exception as error:
                error.add_note(f"Connection({connection.seed!r}): {vars(connection)}")
                raise

    async with asyncio.TaskGroup() as tasks:
        for number in range(CONNECTIONS):
            tasks.create_task(run(number))


def test_clients_that_send_anything_are_answered_and_let_go(unharmed: Server) -> None:
    asyncio.run(run_all(unharmed, os.environ.get("SEED", "bytes")))


FLOODS = {
    "early pings": ("hesitant", frame(9, bytes(125))),
    "early messages": ("hesitant", frame(2, bytes(100))),
    "messages to a view that does not receive": ("sleep", frame(2, bytes(100))),
    "empty messages to a view that does not receive": ("sleep", frame(2, b"")),
    "messages whose echoes are not read": ("echo", frame(2, bytes(1000))),
    "pings": ("echo", frame(9, bytes(125))),
    "pongs": ("echo", frame(10, bytes(125))),
    "messages after a close": ("echo", frame(8, b"\x03\xe8") + frame(2, bytes(1000))),
}


def flood(server: Server, path: str, data: bytes) -> None:
    """Send the same again and again, read nothing, and leave."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=1) as client:
        client.sendall(handshake_of(f"/{path}/", "127.0.0.1"))
        # In the end, a reset: a FIN would wait behind what the server does not read.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        catch_up(server)  # By now the handshake has been read.
        block, sent, deadline = data * (2**16 // len(data)), 0, time.monotonic() + SECONDS
        with contextlib.suppress(ConnectionError):
            while sent < FLOOD and time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    sent += client.send(block)


def test_floods_from_all_sides_are_not_kept(unharmed: Server) -> None:
    threads = [threading.Thread(target=flood, args=[unharmed, *what]) for what in FLOODS.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
