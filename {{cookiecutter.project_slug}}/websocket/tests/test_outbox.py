"""Slow clients: they wait, or they go, and nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from django.test import SimpleTestCase, override_settings

from websocket.connection import WebSocket
from websocket.groups import Message, apublish, counters, get_hub, publish
from websocket.outbox import Outbox
from websocket.protocol import Event, Scope
from websocket.testing import ClientSocket, connect
from websocket.tests.redis_server import OnRedis
from websocket.urls import websocket


async def listen(socket: WebSocket) -> None:
    """Join a room, and wait for the client to leave."""
    await socket.accept()
    await socket.join("a")
    await socket.send_text("joined")
    async for _ in socket:
        pass


async def sleepy(socket: WebSocket) -> None:
    """Join a room, and wait for nothing; tell the others at the end."""
    await socket.accept()
    await socket.join("a")
    await socket.send_text("joined")
    try:
        await asyncio.sleep(3600)
    finally:
        await apublish("a", "ended")


urlpatterns = [websocket("listen/", listen), websocket("sleepy/", sleepy)]


class StoppedTests(SimpleTestCase):
    async def test_nothing_is_kept_once_messages_may_have_been_missed(self) -> None:
        async def send(event: Event) -> None:
            await asyncio.Event().wait()

        outbox = Outbox("", send, lambda error: None, lambda: None, lambda: None)
        outbox.push(Message.encode("sent"))
        outbox.missed()
        outbox.push(Message.encode("later"))
        self.assertEqual((len(outbox.waiting), outbox.size), (0, 0))


class SlowClient(ClientSocket):
    """A client that may stop reading, so that what is sent to it has to wait, as in uvicorn."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.reads = asyncio.Event()
        self.reads.set()
        #: Where a server's `send` is a method, its object has the connection's transport.
        self.transport = self
        self.is_aborted = False

    async def _send(self, event: Event) -> None:
        await self.reads.wait()
        if event.get("text") == "fail":
            raise ValueError("A middleware fails.")
        if self.is_aborted:
            raise ConnectionResetError("The connection was aborted.")
        await super()._send(event)

    def abort(self) -> None:
        self.is_aborted = True
        self.reads.set()
        self._receive_event({"type": "websocket.disconnect", "code": 1006})

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_aborted

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@asynccontextmanager
async def connect_slow(path: str) -> AsyncIterator[Any]:
    """Connect as `connect` does, a client that hears that it has joined and then stops reading."""
    with mock.patch("websocket.testing.ClientSocket", SlowClient):
        connection = connect(path)
        client: Any = await connection.__aenter__()
    try:
        assert await client.receive() == "joined"
        client.reads.clear()
        yield client
    finally:
        client.reads.set()
        await connection.__aexit__(None, None, None)


class SlowClients:
    async def test_a_slow_client_delays_nobody(self: Any) -> None:
        async with connect_slow("/listen/"), connect("/listen/") as fast:
            await fast.receive()
            for number in range(100):
                await apublish("a", f"{number}")
                self.assertEqual(await fast.receive(), f"{number}")

    async def test_who_reads_again_in_time_gets_everything_in_order(self: Any) -> None:
        async with connect_slow("/listen/") as slow, connect("/listen/") as fast:
            await fast.receive()
            for number in range(50):
                await apublish("a", f"{number}")
                await fast.receive()
            slow.reads.set()
            for number in range(50, 100):
                await apublish("a", f"{number}")
            for number in range(100):
                self.assertEqual(await slow.receive(), f"{number}")

    @override_settings(WEBSOCKET_OUTBOX_SIZE=1000)
    async def test_one_message_is_never_too_much(self: Any) -> None:
        async with connect_slow("/listen/") as slow, connect("/listen/") as fast:
            await fast.receive()
            for message in ("small", "x" * 5000):
                await apublish("a", message)
                self.assertEqual(await fast.receive(), message)
            slow.reads.set()
            self.assertEqual(await slow.receive(), "small")
            self.assertEqual(await slow.receive(), "x" * 5000)

    async def test_a_slow_client_that_leaves_leaves_nothing_behind(self: Any) -> None:
        async with connect("/listen/") as fast:
            await fast.receive()
            tasks = len(asyncio.all_tasks())
            async with connect_slow("/listen/") as slow:
                for number in range(10):
                    await apublish("a", f"{number}")
                    await fast.receive()
                await slow.close()
                await slow.wait_closed()
                self.assertEqual(len(get_hub().members["a"]), 1)
                self.assertEqual(len(asyncio.all_tasks()), tasks)

    async def test_a_connection_that_breaks_is_left_out(self: Any) -> None:
        async with connect("/listen/") as fast:
            await fast.receive()
            async with connect_slow("/listen/") as broken:
                for number in range(3):
                    await apublish("a", f"{number}")
                    await fast.receive()
                broken.abort()
                await apublish("a", "next")
                self.assertEqual(await fast.receive(), "next")
                await broken.wait_closed()
                self.assertEqual(len(get_hub().members["a"]), 1)

    async def test_a_send_that_fails_ends_its_view_and_is_reported_as_the_views_error(
        self: Any,
    ) -> None:
        async with connect("/listen/") as other:
            await other.receive()
            for reads in (True, False):
                with (
                    self.assertLogs("django.request", "ERROR") as logs,
                    self.assertRaisesRegex(ValueError, "A middleware fails"),
                ):
                    async with connect_slow("/listen/") as client:
                        if reads:
                            client.reads.set()
                        for message in ("first", "fail", "last"):
                            await apublish("a", message)
                            self.assertEqual(await other.receive(), message)
                        client.reads.set()
                        self.assertEqual(await client.receive(), "first")
                        self.assertEqual(await client.wait_closed(), 1011)
                self.assertEqual(len(logs.records), 1)
            self.assertEqual(len(get_hub().members["a"]), 1)


class ClosingThem:
    async def overflow(self: Any, fast: ClientSocket) -> None:
        """Publish more than is kept for one client."""
        for number in range(20):
            await apublish("a", f"{number}" + "x" * 1000)
            await fast.receive()

    async def test_who_is_too_slow_is_closed_at_once(self: Any) -> None:
        async with connect_slow("/sleepy/") as slow, connect("/listen/") as fast:
            await fast.receive()
            before = counters["closed"]
            with self.assertLogs("django.websocket", "WARNING") as logs:
                for _ in range(12):
                    await apublish("a", "x" * 1000)
                # The view has ended, though its client reads nothing.
                while await fast.receive() != "ended":
                    pass
            self.assertEqual(len(get_hub().members["a"]), 1)
            self.assertEqual(counters["closed"], before + 1)
            self.assertEqual(len(logs.records), 1)
            self.assertIn("/sleepy/ ", logs.output[0])
            self.assertIn("is slow to read: it is closed", logs.output[0])
            slow.reads.set()
            # What it was being sent when it stopped reading may still come.
            self.assertEqual(await slow.wait_closed(), 1013)
            self.assertEqual(slow.close_reason, "Too slow to read.")

    @override_settings(WEBSOCKET_DISCONNECT_GRACE=0.05)
    async def test_who_never_reads_again_has_its_connection_dropped(self: Any) -> None:
        async with connect_slow("/listen/") as slow, connect("/listen/") as fast:
            await fast.receive()
            with self.assertLogs("django.websocket", "WARNING"):
                await self.overflow(fast)
                await slow.wait_closed()
            self.assertTrue(slow.is_aborted)

    async def test_it_is_closed_once_however_fast_it_overflows(self: Any) -> None:
        async with connect_slow("/listen/") as slow:
            before = counters["closed"]
            with self.assertLogs("django.websocket", "WARNING") as logs:
                for _ in range(100):
                    publish("a", "x" * 1000)
                async with asyncio.timeout(30):
                    while "a" in get_hub().members:
                        await asyncio.sleep(0.01)
                await apublish("a", "last")
            self.assertEqual(counters["closed"], before + 1)
            self.assertEqual(len(logs.records), 1)
            slow.reads.set()
            self.assertEqual(await slow.wait_closed(), 1013)


class DroppingMessages:
    async def test_who_is_too_slow_loses_the_oldest_messages(self: Any) -> None:
        async with connect_slow("/listen/") as slow, connect("/listen/") as fast:
            await fast.receive()
            before = counters["dropped"]
            with self.assertLogs("django.websocket", "WARNING") as logs:
                for number in range(100):
                    await apublish("a", f"{number} " + "x" * 1000)
                    await fast.receive()
            self.assertEqual(len(logs.records), 1)
            self.assertIn("messages to it are dropped", logs.output[0])
            slow.reads.set()
            received = [int((await slow.receive()).split()[0])]  # Already on its way.
            while received[-1] != 99:
                received.append(int((await slow.receive()).split()[0]))
            self.assertEqual(received, [0, *range(received[1], 100)])
            self.assertGreater(len(received), 5)
            self.assertEqual(counters["dropped"] - before, 100 - len(received))
            await apublish("a", "in time")
            self.assertEqual(await slow.receive(), "in time")


@override_settings(ROOT_URLCONF=__name__)
class SlowClientsOnMemoryTests(SlowClients, SimpleTestCase):
    pass


@override_settings(ROOT_URLCONF=__name__)
class SlowClientsOnRedisTests(SlowClients, OnRedis):
    pass


@override_settings(ROOT_URLCONF=__name__, WEBSOCKET_OUTBOX_SIZE=10_000)
class ClosingThemOnMemoryTests(ClosingThem, SimpleTestCase):
    pass


@override_settings(ROOT_URLCONF=__name__, WEBSOCKET_OUTBOX_SIZE=10_000)
class ClosingThemOnRedisTests(ClosingThem, OnRedis):
    pass


@override_settings(
    ROOT_URLCONF=__name__, WEBSOCKET_OUTBOX_SIZE=10_000, WEBSOCKET_SLOW_CLIENT="drop"
)
class DroppingMessagesOnMemoryTests(DroppingMessages, SimpleTestCase):
    pass


@override_settings(
    ROOT_URLCONF=__name__, WEBSOCKET_OUTBOX_SIZE=10_000, WEBSOCKET_SLOW_CLIENT="drop"
)
class DroppingMessagesOnRedisTests(DroppingMessages, OnRedis):
    pass
