import asyncio
from unittest import mock

from django.test import SimpleTestCase, override_settings

from websocket import inbox
from websocket.connection import State, WebSocket, WebSocketDisconnect
from websocket.counters import counters
from websocket.inbox import OVERHEAD
from websocket.lookout import Lookout
from websocket.tests.wire import (
    CONNECT,
    Server,
    ServerWithTransport,
    binary,
    left,
    make_scope,
    open_socket,
    text,
    until,
)


async def look_often(lookout: Lookout) -> None:
    """Look, each time after what the last look began has been done."""
    for _ in range(5):
        lookout.look()
        for _ in range(20):
            await asyncio.sleep(0)


class InboxTests(SimpleTestCase):
    async def test_a_view_that_does_not_receive_is_read_for(self):
        socket, server = await open_socket(text("a"), binary(b"b"))
        lookout = Lookout(socket._connection)
        lookout.look()
        await until(server.drained.is_set)
        self.assertEqual(socket.messages_in, 0)
        self.assertEqual(await socket.receive_text(), "a")
        self.assertEqual(await socket.receive_bytes(), b"b")

    async def test_messages_keep_their_order_when_the_view_receives_again(self):
        socket, server = await open_socket(text("0"), text("1"))
        lookout = Lookout(socket._connection)
        lookout.look()
        await until(server.drained.is_set)
        server.events.put_nowait(text("2"))
        received = [await socket.receive_text() for _ in range(3)]
        server.events.put_nowait(text("3"))
        received.append(await socket.receive_text())
        self.assertEqual(received, ["0", "1", "2", "3"])

    async def test_a_view_that_waits_is_woken_by_what_comes_next(self):
        socket, server = await open_socket()
        lookout = Lookout(socket._connection)
        lookout.look()
        await until(server.drained.is_set)
        receiver = asyncio.create_task(socket.receive_text())
        await asyncio.sleep(0)
        server.events.put_nowait(text("a"))
        server.events.put_nowait(text("b"))
        self.assertEqual(await receiver, "a")
        self.assertEqual(server.events.qsize(), 1)  # Nobody reads ahead any more.

    async def test_a_view_that_receives_is_left_alone(self):
        socket, server = await open_socket(text("a"), text("b"), text("c"))
        lookout = Lookout(socket._connection)
        await socket.receive_text()
        lookout.look()
        await asyncio.sleep(0)
        self.assertEqual(server.events.qsize(), 2)  # It has received since the last look.
        await socket.receive_text()
        await socket.receive_text()
        receiver = asyncio.create_task(socket.receive_text())
        await until(server.drained.is_set)
        lookout.look()
        lookout.look()  # It is waiting, and there is one reader at a time.
        server.events.put_nowait(text("d"))
        self.assertEqual(await receiver, "d")

    async def test_a_client_is_seen_to_leave_though_the_view_does_not_receive(self):
        socket, _ = await open_socket(text("the last words"), left(1001))
        lookout = Lookout(socket._connection)
        lookout.look()
        await until(lambda: socket.client_state is State.DISCONNECTED)
        with self.assertRaises(WebSocketDisconnect):
            await socket.send_text("too late")
        # What it sent before it left can still be read.
        self.assertEqual(await socket.receive_text(), "the last words")
        with self.assertRaises(WebSocketDisconnect) as caught:
            await socket.receive_text()
        self.assertEqual(caught.exception.code, 1001)

    async def test_a_view_may_take_its_time_to_accept(self):
        server = Server(CONNECT)
        socket = WebSocket(make_scope(), server.receive, server.send)
        lookout = Lookout(socket._connection)
        lookout.look()
        await until(server.drained.is_set)
        await socket.accept()
        server.events.put_nowait(text("a"))
        self.assertEqual(await socket.receive_text(), "a")

    async def test_a_client_is_seen_to_leave_before_the_accept(self):
        server = Server(CONNECT, left(1006))
        socket = WebSocket(make_scope(), server.receive, server.send)
        lookout = Lookout(socket._connection)
        lookout.look()
        await until(lambda: socket.client_state is State.DISCONNECTED)
        with self.assertRaises(WebSocketDisconnect):
            await socket.accept()

    @mock.patch.object(inbox, "SIZE", 3 * OVERHEAD)
    async def test_a_busy_view_is_read_for_until_the_inbox_is_full(self):
        socket, server = await open_socket(*(text(str(number)) for number in range(10)))
        lookout = Lookout(socket._connection)
        await socket.receive_text()
        lookout.look()  # Has received since the last look.
        lookout.look()
        for _ in range(20):
            await asyncio.sleep(0)
        self.assertEqual(server.events.qsize(), 6)  # The client has to wait now.
        received = [await socket.receive_text() for _ in range(9)]
        self.assertEqual(received, [str(number) for number in range(1, 10)])

    @mock.patch.object(inbox, "SIZE", 3 * OVERHEAD)
    async def test_a_view_that_takes_its_time_before_it_first_receives_loses_nothing(self):
        messages = [str(number) for number in range(10)]
        socket, server = await open_socket(*map(text, messages), left())
        lookout = Lookout(socket._connection)
        await look_often(lookout)
        self.assertEqual(server.events.qsize(), 8)  # The client has to wait now.
        self.assertEqual([message async for message in socket], messages)

    @mock.patch.object(inbox, "SIZE", 3 * OVERHEAD)
    async def test_a_view_that_only_pushes_is_read_for_without_end(self):
        socket, server = await open_socket(*(text(str(number)) for number in range(10)))
        lookout = Lookout(socket._connection)
        server.ping_timeout = 0  # As if its client had waited for long.
        before = counters["unread"]
        with self.assertLogs("django.websocket", "WARNING") as logs:
            await look_often(lookout)
        self.assertEqual(len(logs.records), 1)
        self.assertIn("has received nothing", logs.output[0])
        self.assertEqual(counters["unread"], before + 10)
        server.events.put_nowait(left())
        await until(lambda: socket.client_state is State.DISCONNECTED)

    @mock.patch.object(inbox, "SIZE", 3 * OVERHEAD)
    async def test_a_view_that_receives_after_all_is_read_for_like_any_other(self):
        socket, server = await open_socket(*(text(str(number)) for number in range(10)))
        lookout = Lookout(socket._connection)
        server.ping_timeout = 0
        with self.assertLogs("django.websocket", "WARNING"):
            await look_often(lookout)
        messages = [str(number) for number in range(10, 20)]
        for message in messages:
            server.events.put_nowait(text(message))
        received = [await socket.receive_text()]
        await look_often(lookout)
        received += [await socket.receive_text() for _ in range(9)]
        self.assertEqual(received, messages)

    async def test_a_view_that_has_caught_up_receives_from_the_server_again(self):
        socket, server = await open_socket(text("a"), text("b"))
        lookout = Lookout(socket._connection)
        lookout.look()
        await until(server.drained.is_set)
        self.assertEqual([await socket.receive_text() for _ in range(2)], ["a", "b"])
        server.events.put_nowait(text("c"))
        self.assertEqual(await socket.receive_text(), "c")
        lookout.look()
        self.assertIsNone(socket._connection.inbox)

    @override_settings(WEBSOCKET_MAX_MESSAGE_SIZE=4)
    async def test_a_message_that_is_too_large_closes_while_nobody_receives(self):
        socket, server = await open_socket(text("abcde"))
        lookout = Lookout(socket._connection)
        lookout.look()
        await until(lambda: bool(server.sent))
        self.assertEqual([event["code"] for event in server.sent], [1009])
        with self.assertRaises(WebSocketDisconnect) as caught:
            await socket.receive_text()
        self.assertEqual(caught.exception.code, 1009)

    async def test_after_a_close_nothing_more_is_received(self):
        socket, server = await open_socket()
        receiver = asyncio.create_task(socket.receive_text())
        await until(server.drained.is_set)
        socket._connection.close_soon(3000)
        server.events.put_nowait(text("too late"))
        with self.assertRaises(WebSocketDisconnect) as caught:
            await receiver
        self.assertEqual(caught.exception.code, 3000)

    async def test_a_receive_that_is_given_up_loses_no_message(self):
        socket, server = await open_socket()
        lookout = Lookout(socket._connection)
        lookout.look()
        await until(server.drained.is_set)
        with self.assertRaises(TimeoutError):
            await asyncio.wait_for(socket.receive_text(), 0.001)
        server.events.put_nowait(text("a"))
        self.assertEqual(await socket.receive_text(), "a")

    async def test_a_connection_that_the_server_gave_up_is_over(self):
        server = ServerWithTransport(CONNECT)
        socket = WebSocket(make_scope(), server.receive, server.send)
        lookout = Lookout(socket._connection)
        await socket.accept()
        lookout.look()
        await socket.send_text("in time")
        server.transport.closing = True
        lookout.look()
        with self.assertRaises(WebSocketDisconnect):
            await socket.send_text("too late")
