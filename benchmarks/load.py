"""The load: clients fast enough not to be what is measured."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import random
import sys
import zlib
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.servers import Server

# What browsers send.
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}

#: Starts a process.
Command = Callable[[], Awaitable[Process]]

#: What was measured, by names of report.FIGURES.
Figures = dict[str, float]

#: Seconds without an answer after which a server counts as stalled.
PATIENCE = 10.0

#: And after which a group counts as stopped by one of its members.
STALLED = 3.0

#: How many connections are opened at a time.
AT_ONCE = 50

#: How many visitors are on their way in or out at a time.
VISITORS = 10

# Clients have several addresses, for each has no more than 28,000 ports.
addresses = itertools.cycle(f"127.0.0.{number}" for number in range(2, 10))


def text_of(size: int) -> bytes:
    """Return JSON of this size, as little alike within itself as what people write."""
    choice = random.Random(size)
    text = "".join(choice.choices("etaoinshrdlu ", k=size - 12))
    return json.dumps({"text": f"{text}."}).encode()


class Client(WSListener):
    """One connection, which is to stay open until it is closed from here."""

    def __init__(self) -> None:
        self.closing = False
        self.lost = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.lost = not self.closing

    def close(self) -> None:
        self.closing = True
        if hasattr(self, "transport"):  # It may not have got in.
            self.transport.disconnect(False)


async def connect(
    client: Client,
    server: Server,
    path: str,
    headers: dict[str, str] | None = None,
    patience: float = PATIENCE,
) -> None:
    """Open a connection as a browser does, with an Origin."""
    try:
        await ws_connect(
            lambda: client,
            f"ws://127.0.0.1:{server.port}{path}",
            extra_headers={"Origin": f"http://127.0.0.1:{server.port}", **(headers or {})},
            local_addr=(next(addresses), 0),
            websocket_handshake_timeout=patience,
        )
    except Exception as error:
        raise server.failed(f"A handshake failed: {error!r}") from error


async def connect_all(
    clients: Sequence[Client], server: Server, path: str, headers: dict[str, str] | None = None
) -> None:
    """Open many connections, some at a time."""
    for start in range(0, len(clients), AT_ONCE):
        batch = clients[start : start + AT_ONCE]
        await asyncio.gather(*(connect(client, server, path, headers) for client in batch))


class Load:
    """Clients that work for some time, again and again, and what that cost the servers."""

    def __init__(self, *servers: Server) -> None:
        self.servers = servers
        #: The Redis of these servers, if they use one.
        self.redis: Server | None = None
        self.clients: Sequence[Client] = ()
        self.running = False
        self.finished = asyncio.Event()
        self.error: Exception | None = None
        #: Seconds for an answer, after which the load has failed.
        self.patience = PATIENCE
        self.reset()

    def reset(self) -> None:
        """Forget what was measured so far, such as a warm-up."""
        self.count = 0
        self.cpu = 0.0
        self.redis_cpu = 0.0
        self.seconds = 0.0
        self.delays: list[float] = []

    async def open(self) -> None:
        """Open the connections that stay open."""

    async def work(self, seconds: float) -> int:
        """Work so long, wait for the last answer, and return how much was done."""
        raise NotImplementedError

    async def run(self, seconds: float) -> None:
        cpu, redis_cpu, start = self.read_cpu(), self.read_redis_cpu(), perf_counter()
        gc.disable()
        try:
            async with asyncio.timeout(seconds + self.patience):
                self.count += 0 if self.error else await self.work(seconds)
        except TimeoutError:
            raise self.servers[0].failed(f"No answer for {self.patience} seconds.") from None
        finally:
            gc.enable()
        self.cpu += self.read_cpu() - cpu
        self.redis_cpu += self.read_redis_cpu() - redis_cpu
        self.seconds += perf_counter() - start
        if self.error is not None:
            raise self.error

    def read_cpu(self) -> float:
        return sum(server.cpu() for server in self.servers)

    def read_redis_cpu(self) -> float:
        return self.redis.cpu() if self.redis is not None else 0.0

    def fail(self, why: str) -> None:
        if self.error is None:  # What follows from it says no more.
            self.error = self.servers[0].failed(why)
        self.finished.set()

    def close(self) -> None:
        close_all(self.clients)

    def figures(self) -> Figures:
        figures = {
            "cpu_us": self.cpu / self.count * 1e6,
            "per_second": self.count / self.seconds,
            "p50_ms": percentile(self.delays, 50) * 1e3,
            "p99_ms": percentile(self.delays, 99) * 1e3,
        }
        if self.redis is not None:
            figures["redis_us"] = self.redis_cpu / self.count * 1e6
        return figures


def percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[len(values) * percent // 100]


class Echo(Load):
    """Clients that send a message and wait for its echo, with so many on their way at a time.

    They offer to compress messages where that is asked for; the server decides.
    """

    clients: Sequence[EchoClient]

    def __init__(
        self, server: Server, clients: int, size: int, in_flight: int, deflate: bool
    ) -> None:
        super().__init__(server)
        self.message = text_of(size)
        self.compressed = compress(self.message)
        self.headers = DEFLATE if deflate else {}
        self.in_flight = in_flight
        self.on_their_way = 0
        self.clients = [EchoClient(self) for _ in range(clients)]

    async def open(self) -> None:
        await connect_all(self.clients, self.servers[0], "/ws/", self.headers)

    async def work(self, seconds: float) -> int:
        before = len(self.delays)
        self.finished.clear()
        self.running = True
        asyncio.get_running_loop().call_later(seconds, self.stop)
        self.on_their_way = len(self.clients) * self.in_flight
        for client in self.clients:
            for _ in range(self.in_flight):
                client.send()
        await self.finished.wait()
        return len(self.delays) - before

    def stop(self) -> None:
        self.running = False


class EchoClient(Client):
    def __init__(self, load: Echo) -> None:
        super().__init__()
        self.load = load
        self.sent: deque[float] = deque()

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        self.deflate = "Sec-WebSocket-Extensions" in transport.response.headers
        self.payload = self.load.compressed if self.deflate else self.load.message

    def send(self) -> None:
        self.sent.append(perf_counter())
        self.transport.send(WSMsgType.TEXT, self.payload, True, self.deflate)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        load = self.load
        if frame.payload_size != len(load.message) and not self.deflate:
            load.fail(f"This is no echo: {frame}")
            return
        load.delays.append(perf_counter() - self.sent.popleft())
        if load.running:
            self.send()
            return
        load.on_their_way -= 1
        if not load.on_their_way:
            load.finished.set()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.closing:
            self.load.fail("A connection was lost.")


def compress(message: bytes) -> bytes:
    """Return a message as permessage-deflate sends it (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Handshakes(Load):
    """Visitors who come, are let in, get so many messages, and leave at once."""

    def __init__(
        self, server: Server, cookie: str = "", path: str = "/ws/", messages: int = 0
    ) -> None:
        super().__init__(server)
        self.path = path
        self.messages = messages
        self.headers = {"Cookie": cookie} if cookie else {}

    async def work(self, seconds: float) -> int:
        before = len(self.delays)
        until = perf_counter() + seconds
        await asyncio.gather(*(self.visit(until) for _ in range(VISITORS)))
        # The connection is closed before the server is done with it.
        await asyncio.sleep(0.05)
        return len(self.delays) - before

    async def visit(self, until: float) -> None:
        """Come and go once, and again until the time is up."""
        while True:
            start = perf_counter()
            client = Visitor(self.messages)
            await connect(client, self.servers[0], self.path, self.headers)
            await client.served.wait()
            self.delays.append(perf_counter() - start)
            client.closing = True
            client.transport.send_close(WSCloseCode.OK)
            await client.transport.wait_disconnected()
            if perf_counter() >= until:
                return


class Visitor(Client):
    def __init__(self, messages: int) -> None:
        super().__init__()
        self.waits_for = messages
        self.served = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        if not self.waits_for:
            self.served.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect(False)
            return
        self.waits_for -= 1
        if not self.waits_for:
            self.served.set()


class Group(Load):
    """Members of a group, spread over the servers, and clients that have messages published.

    Whenever all members have got one more, the next is sent: so many are on their way at a time.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        members: int,
        size: int = 32,
        in_flight: int = 1,
        limit: int = sys.maxsize,
        publishers: int = 1,
    ) -> None:
        self.members = [CountingMember(self) for _ in range(members)]
        super().__init__(*servers)
        self.message = text_of(size)
        self.in_flight = in_flight
        self.limit = limit
        self.publishers = [Client() for _ in range(publishers)]
        self.turns = itertools.cycle(self.publishers)
        self.clients = [*self.members, *self.publishers]
        self.sent: list[float] = []

    async def open(self) -> None:
        for number, server in enumerate(self.servers):
            await join_all(self.members[number :: len(self.servers)], server)
        await connect_all(self.publishers, self.servers[0], "/publish/")

    async def work(self, seconds: float) -> int:
        """Publish so long, or up to the limit, and return the number of deliveries."""
        before = len(self.delays)
        self.finished.clear()
        self.running = True
        asyncio.get_running_loop().call_later(seconds, self.stop)
        for _ in range(self.in_flight):
            self.publish()
        await self.finished.wait()
        return len(self.delays) - before

    def reset(self) -> None:
        super().reset()
        self.sent = []
        for member in self.members:
            member.received = 0

    def stop(self) -> None:
        self.running = False

    def publish(self) -> None:
        self.sent.append(perf_counter())
        next(self.turns).transport.send(WSMsgType.TEXT, self.message)

    def all_got_one_more(self) -> None:
        if self.running and len(self.sent) < self.limit:
            self.publish()
        elif len(self.delays) == len(self.sent) * len(self.members):
            self.finished.set()


class Member(Client):
    """A member of the group, which is told first that it has joined, and then counts messages."""

    def __init__(self) -> None:
        super().__init__()
        self.joined = asyncio.Event()
        self.received = 0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.joined.is_set():
            self.on_message(frame)
        self.joined.set()

    def on_message(self, frame: WSFrame) -> None:
        self.received += 1


async def join_all(members: Sequence[Member], server: Server) -> None:
    """Open many connections to the group, and wait until all have joined."""
    await connect_all(members, server, "/join/")
    await all_joined(members, server)


async def all_joined(members: Sequence[Member], server: Server) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            for member in members:
                await member.joined.wait()
    except TimeoutError:
        raise server.failed(f"A member has not joined within {PATIENCE} seconds.") from None


class CountingMember(Member):
    """A member that tells the load of each message."""

    def __init__(self, load: Group) -> None:
        super().__init__()
        self.load = load

    def on_message(self, frame: WSFrame) -> None:
        load = self.load
        if frame.payload_size != len(load.message):
            load.fail(f"This was not published: {frame}")
            return
        load.delays.append(perf_counter() - load.sent[self.received])
        self.received += 1
        if not len(load.delays) % len(load.members):
            load.all_got_one_more()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.closing:
            self.load.fail("A member's connection was lost.")


async def idle(server: Server, connections: int, deflate: bool = False) -> Figures:
    """Measure the memory that connections take while they only exist."""
    warm_up = [Client() for _ in range(AT_ONCE)]
    await connect_all(warm_up, server, "/ws/")
    close_all(warm_up)
    await asyncio.sleep(0.5)
    clients = [Client() for _ in range(connections)]
    memory = server.memory()
    await connect_all(clients, server, "/ws/", DEFLATE if deflate else {})
    await asyncio.sleep(1.5)
    taken = server.memory() - memory
    lost = sum(client.lost for client in clients)
    close_all(clients)
    if lost:
        raise server.failed(f"{lost} of {connections} connections were lost.")
    return {"memory_kib": taken / connections / 1024}


def close_all(clients: Sequence[Client]) -> None:
    for client in clients:
        client.close()


async def burst(
    servers: Sequence[Server], members: int, messages: int, publisher: Command, patience: float
) -> Figures:
    """Count what reaches members while another process publishes as fast as it can."""
    clients = [Member() for _ in range(members)]
    for number, server in enumerate(servers):
        await join_all(clients[number :: len(servers)], server)
    cpu, start = sum(server.cpu() for server in servers), perf_counter()
    delivered, first, last = 0, start, start
    process = await publisher()
    try:
        # To the last message, or until nothing has come for a while.
        while delivered < messages * members and perf_counter() < start + patience:
            await asyncio.sleep(0.05)
            before, delivered = delivered, sum(client.received for client in clients)
            if delivered > before or process.returncode is None:
                last = perf_counter()
                first = first if before else last
            elif perf_counter() > last + PATIENCE:
                break
        if process.returncode:
            raise servers[0].failed(f"The publisher ended with {process.returncode}.")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    cpu = sum(server.cpu() for server in servers) - cpu
    close_all(clients)
    if not delivered:
        raise servers[0].failed("Nothing of the burst was delivered.")
    return {
        "lost_percent": 100 * (1 - delivered / messages / members),
        "seconds": last - first,
        "cpu_us": cpu / delivered * 1e6,
    }


async def stalled(
    server: Server, members: int, messages: int, size: int, patience: float, gone_within: float
) -> Figures:
    """Publish to a group in which one member stops to read."""
    group = Group([server], members - 1, size, in_flight=8, limit=messages)
    await group.open()
    reader_who_stops = Member()
    await join_all([reader_who_stops], server)
    transport = reader_who_stops.transport.underlying_transport
    address = transport.get_extra_info("sockname")
    transport.pause_reading()
    memory = server.memory()
    peak, progress = memory, perf_counter()
    work = asyncio.create_task(group.work(patience))
    delivered = 0
    while not work.done() and perf_counter() < progress + STALLED:
        await asyncio.wait([work], timeout=0.1)
        peak = max(peak, server.memory())
        if len(group.delays) > delivered:
            delivered, progress = len(group.delays), perf_counter()
    is_stalled = not work.done()
    work.cancel()
    deadline = perf_counter() + gone_within
    while server.holds(address) and perf_counter() < deadline:
        await asyncio.sleep(0.1)
    gone = not server.holds(address)
    close_all([*group.clients, reader_who_stops])
    if group.error is not None:
        raise group.error
    if not group.delays:
        raise server.failed("Nothing was delivered.")
    return {
        "messages": delivered / len(group.members),
        "stalled": is_stalled,
        "gone": gone,
        "p99_ms": percentile(group.delays, 99) * 1e3,
        "memory_mib": (peak - memory) / 2**20,
    }
