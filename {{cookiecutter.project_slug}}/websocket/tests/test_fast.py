"""Private details of picows, uvicorn and websockets that websocket/fast.py relies on.

Each test is named after the private name, and fails when a release changes it.
"""

import asyncio
import gc
import tempfile
import unittest
from typing import Any

import uvicorn
from django.test import SimpleTestCase

from websocket.tests.uvicorn_server import connect, frame, open_socket, uvicorn_serves
from websocket.tests.wire import Transport, until

try:
    import picows
    from picows.picows import WSProtocol  # type: ignore[attr-defined]
except ModuleNotFoundError as error:
    raise unittest.SkipTest("picows is not installed: pip install -e '.[fast]'") from error


from websocket import fast

CLOSE_4001 = frame(8, (4001).to_bytes(2, "big") + b"why")


class Pipe(Transport):
    """A transport for picows: without a socket, and with what was written."""

    def __init__(self):
        super().__init__()
        self.written: list[bytes] = []

    def get_extra_info(self, name, default=None):
        return self if name == "socket" else None

    def fileno(self):
        return -1  # picows fails to write to it, and then uses `write`.

    def write(self, data):
        self.written.append(bytes(data))


class Listener(picows.WSListener):
    """What `Parser` needs of a `Protocol`."""

    def __init__(self):
        self.config = uvicorn.Config("no:application", ws_max_size=1000)
        self.transport = Pipe()
        self.wire = None
        self.frames: list[tuple[picows.WSMsgType, bytes, int]] = []

    def on_ws_frame(self, wire, frame):
        self.frames.append((frame.msg_type, frame.get_payload_as_bytes(), frame.tail_size))


def parser_for(listener: Any) -> Any:
    return fast.Parser(listener)


class PicowsTests(SimpleTestCase):
    def setUp(self):
        self.listener = Listener()

    async def test_ws_protocol(self):
        parser = parser_for(self.listener)
        self.assertIsInstance(parser, WSProtocol)
        self.assertIsInstance(parser, asyncio.BufferedProtocol)
        self.assertIs(parser.listener, self.listener)
        self.assertIsInstance(parser.transport, picows.WSTransport)
        # Nothing of its handshake reaches the client, whom uvicorn has answered.
        self.assertEqual(self.listener.transport.written, [b""])
        parser.feed(frame(1, b"a") + frame(2, b"b"))
        self.assertEqual(
            self.listener.frames, [(fast.TEXT, b"a", len(frame(2, b"b"))), (fast.BINARY, b"b", 0)]
        )

    async def test_get_buffer_and_buffer_updated(self):
        parser = parser_for(self.listener)
        sizes = []
        for _ in range(20):
            buffer = parser.get_buffer(-1)
            sizes.append(len(buffer))
            messages = frame(10, b"b") * (len(buffer) // 7)
            buffer[: len(messages)] = messages
            parser.buffer_updated(len(messages))
        # It starts small, and doubles when it was full, up to what may be read at once.
        self.assertLess(sizes[0], 4096)
        self.assertEqual(sizes[-1], fast.CHUNK)
        self.assertEqual(len(self.listener.frames), sum(size // 7 for size in sizes))

    async def test_is_close_frame_sent(self):
        parser = parser_for(self.listener)
        parser.feed(frame(1, b"a"))
        self.assertFalse(parser.transport.is_close_frame_sent)
        parser.feed(frame(3))
        self.assertTrue(parser.transport.is_close_frame_sent)
        self.assertEqual(parser.transport.close_handshake.sent.code, 1002)

    async def test_send(self):
        wire = parser_for(self.listener).transport
        written = self.listener.transport.written
        written.clear()
        wire.send(fast.CLOSE, b"\x0f\xa1")
        self.assertFalse(wire.is_close_frame_sent)
        wire.send_close(4001, "why")
        wire.send(fast.TEXT, "after the close")
        self.assertEqual(written, [b"\x88\x02\x0f\xa1", b"\x88\x05\x0f\xa1why"])

    async def test_writelines(self):
        wire = parser_for(self.listener).transport
        written = self.listener.transport.written
        written.clear()
        for size in (10_000, 20_000):
            wire.send(fast.BINARY, bytes(size))
        self.assertEqual([len(data) for data in written], [10_004, 20_004])
        self.assertEqual(written[0][:4], b"\x82\x7e" + (10_000).to_bytes(2, "big"))


class UvicornTests(SimpleTestCase):
    def serve(self, application=None, **options):
        """Serve an application, or one that keeps what it receives until the client has left."""
        self.received: list[dict[str, Any]] = []
        self.protocols: asyncio.Queue[Any] = asyncio.Queue()

        async def keep(scope, receive, send):
            self.protocols.put_nowait(send.__self__)
            while True:
                event = await receive()
                self.received.append(event)
                if event["type"] == "websocket.connect":
                    await send({"type": "websocket.accept"})
                elif event["type"] == "websocket.disconnect":
                    return

        options = {"ws": fast.Protocol, "loop": "asyncio", **options}
        return uvicorn_serves(application or keep, **options)

    async def test_available_extensions(self):
        async with self.serve(ws_per_message_deflate=True) as (_, port):
            reader, writer = await connect(port, b"Sec-WebSocket-Extensions: permessage-deflate")
            answer = await reader.readuntil(b"\r\n\r\n")
            self.assertIn(b"HTTP/1.1 101 ", answer)
            self.assertNotIn(b"xtensions", answer)
            writer.close()

    async def test_conn_and_request_and_response(self):
        async with self.serve() as (_, port):
            _, writer = await open_socket(port)
            protocol = await self.protocols.get()
            await until(lambda: isinstance(protocol.conn, fast.Sender))
            self.assertFalse(hasattr(protocol, "request") or hasattr(protocol, "response"))
            writer.close()

    async def test_queue(self):
        async with self.serve() as (_, port):
            _, writer = await open_socket(port)
            writer.write(frame(1, b"a") + frame(2, b"b") + CLOSE_4001)
            await until(lambda: len(self.received) == 4)
            writer.close()
        self.assertEqual(
            self.received,
            [
                {"type": "websocket.connect"},
                {"type": "websocket.receive", "text": "a"},
                {"type": "websocket.receive", "bytes": b"b"},
                {"type": "websocket.disconnect", "code": 4001, "reason": "why"},
            ],
        )

    async def test_handshake_initiated_and_handshake_complete(self):
        may_accept = asyncio.Event()

        async def hesitate(scope, receive, send):
            await receive()
            self.protocols.put_nowait(send.__self__)
            await may_accept.wait()
            await send({"type": "websocket.accept"})
            self.received.append(await receive())

        async with self.serve(hesitate) as (_, port):
            _, writer = await connect(port)
            protocol = await self.protocols.get()
            self.assertTrue(protocol.handshake_initiated)
            self.assertFalse(protocol.handshake_complete)
            writer.write(frame(1, b"early"))
            await until(lambda: bool(protocol.early))
            self.assertFalse(protocol.transport.is_reading())
            may_accept.set()
            await until(lambda: bool(self.received))
            self.assertEqual(self.received, [{"type": "websocket.receive", "text": "early"}])
            writer.close()

    async def test_frames(self):
        async with self.serve(ws_max_size=10) as (_, port):
            reader, writer = await open_socket(port)
            protocol = await self.protocols.get()
            writer.write(frame(1, b"a", fin=False) + frame(0, b"b", fin=False))
            await until(lambda: protocol.frames == [b"a", b"b"])
            writer.write(frame(0, b"c"))
            await until(lambda: {"type": "websocket.receive", "text": "abc"} in self.received)
            writer.write(frame(2, bytes(6), fin=False) + frame(0, bytes(6)))
            self.assertEqual((await reader.readexactly(4))[2:], (1009).to_bytes(2, "big"))
            writer.close()

    async def test_read_paused(self):
        may_receive = asyncio.Event()

        async def busy(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            self.protocols.put_nowait(send.__self__)
            await may_receive.wait()
            while (event := await receive())["type"] == "websocket.receive":
                self.received.append(event)

        async with self.serve(busy) as (_, port):
            _, writer = await open_socket(port)
            protocol = await self.protocols.get()
            writer.write(frame(2) * 10_000)
            await until(lambda: protocol.read_paused)
            self.assertFalse(protocol.transport.is_reading())
            self.assertLess(len(protocol.queue.events), 5000)
            may_receive.set()
            await until(lambda: len(self.received) == 10_000)
            self.assertFalse(protocol.read_paused)
            writer.close()

    async def test_setsockopt(self):
        # picows sets options that a Unix socket does not have.
        async def echo(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": (await receive())["text"]})

        with tempfile.TemporaryDirectory() as folder:
            config = uvicorn.Config(
                echo, ws=fast.Protocol, uds=f"{folder}/s", lifespan="off", log_config=None
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            await until(lambda: server.started)
            reader, writer = await asyncio.open_unix_connection(f"{folder}/s")
            writer.write(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            self.assertIn(b" 101 ", await reader.readuntil(b"\r\n\r\n"))
            writer.write(frame(1, b"hello"))
            self.assertEqual(await reader.readexactly(7), b"\x81\x05hello")
            writer.close()
            server.should_exit = True
            await serving

    async def test_writable(self):
        async def push(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            self.protocols.put_nowait(send.__self__)
            for _ in range(64):
                event = {"type": "websocket.send", "bytes": bytes(2**20)}
                await send(event)
                self.received.append(event)

        async with self.serve(push) as (_, port):
            reader, writer = await open_socket(port)
            protocol = await self.protocols.get()
            await until(lambda: not protocol.writable.is_set())
            self.assertLess(len(self.received), 64)
            for _ in range(64):
                await reader.readexactly(10 + 2**20)
            await until(lambda: len(self.received) == 64)
            writer.close()

    async def test_handle_pong(self):
        async with self.serve(ws_ping_interval=0.01, ws_ping_timeout=10) as (_, port):
            reader, writer = await open_socket(port)
            for _ in range(3):
                ping = await reader.readexactly(6)
                self.assertEqual(ping[:2], b"\x89\x04")
                writer.write(frame(10, b"other") + frame(10, ping[2:]))
            writer.close()

    async def test_keepalive_timeout(self):
        async with self.serve(ws_ping_interval=0.01, ws_ping_timeout=0.01) as (_, port):
            reader, writer = await open_socket(port)
            data = await reader.read()
            self.assertEqual(data[6:], b"\x88\x18\x03\xf3keepalive ping timeout")
            writer.close()
        self.assertEqual(self.received[-1]["code"], 1011)

    async def test_handle_close(self):
        async def close(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 4000, "reason": "bye"})
            self.protocols.put_nowait(send.__self__)

        async with self.serve(close) as (_, port):
            reader, writer = await open_socket(port)
            self.assertEqual(await reader.readexactly(7), b"\x88\x05\x0f\xa0bye")
            protocol = await self.protocols.get()
            self.assertIsNotNone(protocol.close_timer)
            writer.write(frame(1, b"late") + CLOSE_4001)
            self.assertEqual(await reader.read(), b"")  # Without waiting for the timer.
            writer.close()

    async def test_send_text_and_send_binary(self):
        async def send_late(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            self.received.append(await receive())
            for message in ({"text": "late"}, {"bytes": b"late"}):
                with self.assertRaises(OSError):
                    await send({"type": "websocket.send", **message})
            self.received.append({"type": "refused"})

        async with self.serve(send_late) as (_, port):
            reader, writer = await open_socket(port)
            writer.write(CLOSE_4001)
            self.assertEqual(await reader.read(), b"\x88\x05\x0f\xa1why")
            await until(lambda: len(self.received) == 2)
            writer.close()

    async def test_handle_parser_exception(self):
        async with self.serve() as (_, port):
            reader, writer = await open_socket(port)
            writer.write(frame(1, b"a") + frame(3))
            self.assertEqual((await reader.read())[2:4], (1002).to_bytes(2, "big"))
            writer.close()
        self.assertEqual([event.get("text") for event in self.received[1:]], ["a", None])
        self.assertEqual(self.received[-1]["code"], 1002)

    async def test_shutdown(self):
        async with self.serve() as (server, port):
            reader, writer = await open_socket(port)
            await self.protocols.get()
            server.should_exit = True
            self.assertEqual(await reader.read(), b"\x88\x02\x03\xf4")
            writer.close()
        self.assertEqual(self.received[1]["code"], 1012)

    async def test_connection_lost(self):
        async with self.serve() as (server, port):
            for _ in range(3):
                _, writer = await open_socket(port)
                protocol = await self.protocols.get()
                writer.transport.abort()
                await until(lambda: not server.server_state.connections)
                self.assertIsNone(protocol.wire)
                with self.assertRaises(OSError):
                    await protocol.send({"type": "websocket.send", "text": "to nobody"})
            del protocol
            gc.collect()
            left = [thing for thing in gc.get_objects() if isinstance(thing, fast.Parser)]
            self.assertEqual(left, [])
