"""Bounds on what one client can make the server keep."""

import asyncio
from unittest import mock

from django.test import SimpleTestCase

from websocket import pending, sweep
from websocket.counters import counters
from websocket.link import FRAGMENTS, PONGS, Link
from websocket.pending import Pending
from websocket.tests.uvicorn_server import (
    connect,
    frame,
    open_socket,
    until_left,
    uvicorn_serves,
)
from websocket.tests.wire import ServerWithTransport, until


async def nothing(scope, receive, send):
    raise AssertionError("No request is complete.")


async def accept(scope, receive, send):
    await send({"type": "websocket.accept"})
    await until_left(receive)


class OverflowTests(SimpleTestCase):
    def setUp(self):
        self.server = ServerWithTransport()
        self.link = Link(self.server.send)

    def look(self, unsent, messages_out=0):
        """Look once a second; return whether the client makes the server keep too much."""
        self.server.transport.unsent = unsent
        return self.link.overflows(messages_out)

    def test_a_client_that_reads_does_not_overflow(self):
        self.assertFalse(self.look(0))
        self.assertFalse(self.look(0))

    def test_pongs_for_a_client_that_does_not_read_do(self):
        before = counters["flooded"]
        self.assertFalse(self.look(PONGS))
        self.assertEqual(counters["flooded"], before)
        self.assertTrue(self.look(PONGS + 1))
        self.assertEqual(counters["flooded"], before + 1)

    def test_it_does_not_matter_how_slowly_they_come(self):
        for unsent in range(0, PONGS + 1, 1024):
            self.assertFalse(self.look(unsent))
        self.assertTrue(self.look(PONGS + 1))

    def test_messages_for_a_slow_client_do_not(self):
        for messages_out in range(1, 100):
            self.assertFalse(self.look(messages_out * 2**20, messages_out))

    def test_a_slow_client_may_take_its_time_over_a_large_message(self):
        self.assertFalse(self.look(2**26, 1))
        for _ in range(100):
            self.assertFalse(self.look(2**26 + PONGS, 1))

    def test_pongs_behind_messages_do(self):
        self.assertFalse(self.look(2**20, 1))
        self.assertTrue(self.look(2**20 + PONGS + 1, 1))

    def test_a_client_that_reads_a_little_in_between_has_only_so_many_pongs(self):
        self.assertFalse(self.look(2**20, 1))
        self.assertFalse(self.look(2**10, 1))
        self.assertTrue(self.look(2**10 + PONGS + 1, 1))

    def test_fragments_without_end_do(self):
        self.server.frames = [b""] * FRAGMENTS
        self.assertFalse(self.look(0))
        self.server.frames += [b""]
        self.assertTrue(self.look(0))

    def test_nothing_is_added_once_the_connection_is_closing(self):
        self.server.transport.closing = True
        self.assertFalse(self.look(2**26))

    def test_a_server_without_transport_shows_nothing(self):
        async def send(event):
            pass

        hidden = Link(send)
        hidden.pause()
        hidden.resume()
        hidden.drop_if_left()
        hidden.abort()
        hidden.end()
        self.assertFalse(hidden.overflows(0))


class EndTests(SimpleTestCase):
    """What is left to do after the view."""

    def setUp(self):
        self.enterContext(mock.patch.object(sweep, "INTERVAL", 0))
        self.server = ServerWithTransport()
        self.transport = self.server.transport
        self.link = Link(self.server.send)

    def is_looked_at(self):
        return self.link in sweep.everything()

    async def test_a_client_that_has_read_everything_is_not_looked_at(self):
        self.transport.closing = True
        self.link.end()
        self.assertFalse(self.is_looked_at())

    async def test_a_client_that_reads_in_time_gets_everything(self):
        self.transport.closing, self.transport.unsent = True, 100
        self.link.end()
        self.link.look()
        self.assertTrue(self.is_looked_at())
        self.transport.unsent = 0
        await until(lambda: not self.is_looked_at())
        self.assertFalse(self.transport.aborted)

    async def test_a_client_that_does_not_is_dropped(self):
        self.transport.closing, self.transport.unsent = True, 100
        self.link.end(seconds=0.01)
        await until(lambda: not self.is_looked_at())
        self.assertTrue(self.transport.aborted)

    async def test_what_was_sent_since_the_last_look_is_not_taken_for_pongs(self):
        self.transport.unsent = PONGS + 1
        self.link.end()
        self.link.look()
        self.assertFalse(self.transport.aborted)

    async def test_a_client_that_does_not_answer_the_close_is_left_to_the_server(self):
        self.link.end(seconds=0.01)
        await until(lambda: not self.is_looked_at())
        self.assertFalse(self.transport.aborted)

    async def test_a_client_that_floods_after_the_close_is_dropped_at_once(self):
        self.link.end()
        self.link.look()
        self.transport.unsent = PONGS + 1
        await until(lambda: self.transport.aborted)
        await until(lambda: not self.is_looked_at())


class PendingTests(SimpleTestCase):
    async def test_a_request_has_to_be_complete_in_time(self):
        async with uvicorn_serves(nothing) as (server, port):
            look = Pending(server.server_state.connections).look
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /ws/ HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Up")
            await until(lambda: bool(server.server_state.connections))
            look()
            with mock.patch.object(pending, "TIMEOUT", 0):
                look()
            with self.assertRaises(ConnectionResetError):
                await reader.read()
            writer.close()

    async def test_an_open_socket_has_all_the_time(self):
        async with uvicorn_serves(accept) as (server, port):
            reader, writer = await open_socket(port)
            with mock.patch.object(pending, "TIMEOUT", 0):
                Pending(server.server_state.connections).look()
            writer.write(frame(9, b"still there?"))
            self.assertEqual(await reader.readexactly(14), b"\x8a\x0cstill there?")
            writer.close()

    async def test_a_handshake_that_the_server_cannot_read_is_refused_logged_and_counted(self):
        before = counters["handshake 400"]
        async with uvicorn_serves(nothing) as (server, port):
            reader, writer = await connect(port, b"Content-Length: 1\r\n\r\n1")
            look = Pending(server.server_state.connections).look
            answer = asyncio.create_task(reader.read())
            with self.assertLogs("django.websocket", "WARNING") as logs:
                while not answer.done():
                    look()
                    await asyncio.sleep(0)
            self.assertIn(b" 400 Bad Request", answer.result())
            self.assertIn("A handshake from 127.0.0.1", logs.output[0])
            self.assertEqual((len(logs.output), counters["handshake 400"]), (1, before + 1))
            writer.close()
