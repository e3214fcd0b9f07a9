"""The load for a deploy: clients that come back as client.js does, and count what they missed."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from picows import WSFrame, WSMsgType, WSTransport, ws_connect

from benchmarks.load import AT_ONCE, PATIENCE, Client, Figures, addresses, close_all, percentile
from benchmarks.servers import Server, serve_nginx

#: As in client.js, in seconds.
FIRST_DELAY = 1.0
MAX_DELAY = 30.0
STABLE = 5.0

#: Members of each group.
MEMBERS = 50

#: Seconds between two messages to a group, where there are many groups.
PAUSE = 2

#: Seconds after which all clients of a replaced process ought to be back: its drain, and ten more.
IN_TIME = 20.0

#: Seconds for a handshake: browsers wait longer.
HANDSHAKE = 60.0

#: Starts the process that publishes to so many rooms, so many messages a second.
Publisher = Callable[[int, int], Awaitable[Process]]


class Returning(Client):
    """A client that comes back after a delay as client.js does, where it left off."""

    def __init__(self, crowd: Crowd, room: int, cookie: str) -> None:
        super().__init__()
        self.crowd = crowd
        self.room = room
        self.headers = {"Cookie": cookie, "Origin": f"http://127.0.0.1:{crowd.port}"}
        self.id = self.position = ""
        #: The numbers of the messages that came.
        self.received: set[int] = set()
        self.is_in = False
        self.attempt = 0
        self.opened = 0.0
        #: When it asked for an echo that has not come.
        self.sent = 0.0
        #: Since when it is away, and for how long it was in the end.
        self.left: float | None = None
        self.away = 0.0

    async def come(self) -> None:
        """Open a connection; if that fails, try again later."""
        query = f"?resume={self.id},{self.position}"
        try:
            await ws_connect(
                lambda: self,
                f"ws://127.0.0.1:{self.crowd.port}/join/room.{self.room}/{query}",
                extra_headers=self.headers,
                local_addr=(next(addresses), 0),
                websocket_handshake_timeout=HANDSHAKE,
            )
        except Exception:
            self.retry(1006)

    def retry(self, code: int) -> None:
        if self.closing:
            return
        span = min(MAX_DELAY, FIRST_DELAY * 2**self.attempt)
        share = random.random() + 1 if code == 1012 else random.random() * 2
        self.attempt += 1
        self.crowd.come_later(self, share * span / 2)

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        self.opened = perf_counter()
        self.code = 1006
        self.sent = 0.0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            self.code = frame.get_close_code()
            transport.disconnect()
            return
        line, separator, text = frame.get_payload_as_utf8_text().partition("\n")
        if separator:
            self.position = line or self.position
        elif len(line) == 32:
            self.id = line
        elif "." in line:
            self.position = line
            self.arrive()
        else:
            text = line  # Of a server that does not know `resume`.
        if text == "joined":
            self.arrive()
        elif text == "echo":
            self.crowd.echoes.append(perf_counter() - self.sent)
            self.sent = 0.0
        elif text:
            self.received.add(int(text))

    def arrive(self) -> None:
        """Note that the client is in its group, and how long it was away."""
        if not self.is_in:
            self.is_in = True
            if self.left is not None:
                self.away = perf_counter() - self.left
            self.crowd.come_in()

    def echo(self) -> None:
        """Ask for an echo, unless the last one is still to come."""
        if self.is_in and not self.sent:
            self.sent = perf_counter()
            self.transport.send(WSMsgType.TEXT, b"echo")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.closing:
            return
        now = perf_counter()
        if self.is_in:
            self.is_in = False
            self.left = now
            self.crowd.go_out()
        if now - self.opened >= STABLE:
            self.attempt = 0
        self.retry(self.code)


class Crowd:
    """Clients in groups, all of whom come back when they are sent away."""

    def __init__(self, server: Server, cookies: Sequence[str]) -> None:
        self.server = server
        self.port = server.port
        self.rooms = -(-len(cookies) // MEMBERS)
        self.clients = [
            Returning(self, number % self.rooms, cookie) for number, cookie in enumerate(cookies)
        ]
        self.inside = 0
        self.all_in = asyncio.Event()
        #: When the last one came in.
        self.last_in = 0.0
        self.echoes: list[float] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        for start in range(0, len(self.clients), AT_ONCE):
            await asyncio.gather(*(one.come() for one in self.clients[start : start + AT_ONCE]))
        await self.until_all_in(PATIENCE)

    async def until_all_in(self, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await self.all_in.wait()
        except TimeoutError:
            away = len(self.clients) - self.inside
            raise self.server.failed(f"{away} clients are away after {patience} seconds.") from None

    def come_later(self, client: Returning, delay: float) -> None:
        def start() -> None:
            task = asyncio.create_task(client.come())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

        asyncio.get_running_loop().call_later(delay, start)

    def come_in(self) -> None:
        self.inside += 1
        self.last_in = perf_counter()
        if self.inside == len(self.clients):
            self.all_in.set()

    def go_out(self) -> None:
        self.inside -= 1
        self.all_in.clear()

    def away(self) -> list[float]:
        """Return for how long the clients that were sent away were away."""
        return [client.away for client in self.clients if client.left is not None]

    def received(self) -> int:
        """Return how many messages have come, to all clients together."""
        return sum(len(client.received) for client in self.clients)

    def missed(self, published: int) -> int:
        """Return how many messages did not reach a client, of so many to the rooms in turn."""
        return sum(
            len(range(client.room, published, self.rooms)) - len(client.received)
            for client in self.clients
        )

    def close(self) -> None:
        close_all(self.clients)
        for task in self.tasks:
            task.cancel()


async def publishing(crowd: Crowd, publisher: Publisher) -> Process:
    """Start to publish to the crowd, and return once the first message has come."""
    process = await publisher(crowd.rooms, max(5, crowd.rooms // PAUSE))
    deadline = perf_counter() + PATIENCE
    while not any(client.received for client in crowd.clients):
        if process.returncode is not None or perf_counter() > deadline:
            raise crowd.server.failed("Nothing that was published came.")
        await asyncio.sleep(0.05)
    return process


async def published(crowd: Crowd, process: Process) -> int:
    """Stop to publish, and return how many messages there were, once no more come."""
    process.terminate()
    output, _ = await process.communicate()
    before, deadline = -1, perf_counter() + PATIENCE
    while (now := crowd.received()) > before and perf_counter() < deadline:
        before = now
        await asyncio.sleep(1)
    return int(output)


async def deploy(
    server: Server, cookies: Sequence[str], publisher: Publisher, patience: float
) -> Figures:
    """Restart the server under its clients, and wait until all are back."""
    crowd = Crowd(server, cookies)
    await crowd.open()
    process = await publishing(crowd, publisher)
    try:
        start = perf_counter()
        await server.restart()
        down, cpu = perf_counter() - start, server.cpu()
        await crowd.until_all_in(patience)
        cpu = server.cpu() - cpu
        number = await published(crowd, process)
    finally:
        crowd.close()
        if process.returncode is None:
            process.kill()
    away = crowd.away()
    return {
        "seconds": crowd.last_in - start,
        "down_s": down,
        "p50_s": percentile(away, 50),
        "p99_s": percentile(away, 99),
        "cpu_us": cpu / len(cookies) * 1e6,
        "missed": crowd.missed(number),
    }


async def replace(
    servers: Sequence[Server], cookies: Sequence[str], publisher: Publisher, patience: float
) -> Figures:
    """Restart one of two servers behind nginx, while every socket echoes once a second."""
    async with serve_nginx(servers) as nginx:
        crowd = Crowd(nginx, cookies)
        await crowd.open()
        process = await publishing(crowd, publisher)
        echoing = asyncio.create_task(echo(crowd))
        try:
            await asyncio.sleep(2)
            crowd.echoes.clear()
            start = perf_counter()
            await servers[0].restart()
            stopped = perf_counter() - start
            await crowd.until_all_in(patience)
            await asyncio.sleep(1)
            number = await published(crowd, process)
        finally:
            echoing.cancel()
            crowd.close()
            if process.returncode is None:
                process.kill()
    away = crowd.away()
    in_time = sum(one.left + one.away < start + IN_TIME for one in crowd.clients if one.left)
    return {
        "back_percent": 100 * in_time / len(away),
        "echo_p50_ms": percentile(crowd.echoes, 50) * 1e3,
        "echo_p99_ms": percentile(crowd.echoes, 99) * 1e3,
        "moved": len(away),
        "seconds": crowd.last_in - start,
        "down_s": stopped,
        "p50_s": percentile(away, 50),
        "p99_s": percentile(away, 99),
        "missed": crowd.missed(number),
    }


async def echo(crowd: Crowd, parts: int = 50) -> None:
    """Let every client ask for an echo once a second, a part of them at a time."""
    start = perf_counter()
    for turn in range(sys.maxsize):
        for client in crowd.clients[turn % parts :: parts]:
            client.echo()
        await asyncio.sleep(max(0.0, start + (turn + 1) / parts - perf_counter()))
