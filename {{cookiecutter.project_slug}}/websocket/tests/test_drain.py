"""A uvicorn that closes its sockets one after the other before it stops."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from unittest import mock

from django.test import SimpleTestCase, override_settings

from websocket import drain
from websocket.testing import connections_kept
from websocket.tests.uvicorn_server import connect, frame, open_socket, uvicorn_serves
from websocket.tests.wire import serving, until

TEXT, CLOSE = 1, 8


async def echo(socket):
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


async def closed(reader):
    """Wait for the close; return its time, its code, and whether it came from the drain."""
    opcode, length = await reader.readexactly(2)
    assert opcode == 0x80 | CLOSE
    data = await reader.readexactly(length)
    return asyncio.get_running_loop().time(), int.from_bytes(data[:2]), b"stopping" in data


@override_settings(
    ALLOWED_HOSTS=["localhost"],
    WEBSOCKET_DRAIN_SECONDS=0.6,
    WEBSOCKET_THREADS=8,  # New threads, without an earlier test's connection.
)
class DrainTests(SimpleTestCase):
    def setUp(self):
        # In the end, uvicorn raises the signal for the handler that was there before.
        before = signal.signal(signal.SIGTERM, lambda *args: None)
        self.addCleanup(signal.signal, signal.SIGTERM, before)
        self.enterContext(mock.patch.object(drain, "_task", None))
        self.enterContext(connections_kept())

    def run_site(self, main):
        """Run a test in the main thread, as uvicorn runs: only there can it hear the signal."""
        from project.asgi import application

        async def serve_and_run():
            async with uvicorn_serves(application, lifespan="on") as (server, port):
                await until(lambda: server.started)
                with serving(echo):
                    await main(server, port)

        asyncio.run(serve_and_run())

    @asynccontextmanager
    async def sockets(self, port, count=6):
        streams = [await open_socket(port) for _ in range(count)]
        yield [reader for reader, _ in streams]
        for _, writer in streams:
            writer.close()

    def test_a_busy_event_loop_closes_several_sockets_in_a_turn(self):
        async def main(server, port):
            loop = asyncio.get_running_loop()
            turns, is_over = 0, False

            def take_a_turn():
                nonlocal turns
                turns += 1
                time.sleep(0.02)
                if not is_over:
                    loop.call_soon(take_a_turn)

            async with self.sockets(port, 60) as readers:
                take_a_turn()
                terminate()
                closes = await asyncio.gather(*map(closed, readers))
                is_over = True
                self.assertEqual({close[1:] for close in closes}, {(1012, True)})
                self.assertLess(turns, 60)

        self.run_site(main)

    def test_sockets_are_closed_one_after_the_other_and_work_until_then(self):
        async def main(server, port):
            loop = asyncio.get_running_loop()
            async with self.sockets(port) as readers:
                begun = loop.time()
                with self.assertLogs("django.websocket", "INFO"):
                    terminate()
                    await until(drain.has_begun)
                    reader, writer = await open_socket(port)  # A load balancer knows nothing yet.
                    writer.write(frame(TEXT, b"hello"))
                    self.assertEqual((await reader.readexactly(7))[2:], b"hello")
                    closes = await asyncio.gather(*map(closed, readers))
                    self.assertEqual({close[1:] for close in closes}, {(1012, True)})
                    times = sorted(time - begun for time, *_ in closes)
                    self.assertGreaterEqual(times[0], 0.2)
                    self.assertGreaterEqual(times[-1] - times[0], 0.2)
                    await until(lambda: server.should_exit)
                    writer.close()

        self.run_site(main)

    def test_handshakes_that_come_too_late_are_refused_with_503(self):
        async def main(server, port):
            async with self.sockets(port) as readers:
                terminate()
                closes = [asyncio.ensure_future(closed(reader)) for reader in readers]
                await asyncio.wait(closes, return_when=asyncio.FIRST_COMPLETED)
                reader, writer = await connect(port)
                answer = await reader.read()
                self.assertTrue(answer.startswith(b"HTTP/1.1 503 "), answer)
                self.assertIn(b"\r\nretry-after: 5\r\n", answer.lower())
                writer.close()
                await asyncio.wait(closes)

        self.run_site(main)

    @override_settings(WEBSOCKET_DRAIN_SECONDS=3600)
    def test_a_second_signal_closes_the_rest_at_once(self):
        async def main(server, port):
            async with self.sockets(port) as readers:
                terminate()
                await until(drain.has_begun)
                self.assertFalse(server.should_exit)
                terminate()
                closes = await asyncio.gather(*map(closed, readers))
                self.assertEqual({close[1:] for close in closes}, {(1012, False)})

        self.run_site(main)

    @override_settings(WEBSOCKET_DRAIN_SECONDS=0)
    def test_without_the_setting_uvicorn_closes_all_at_once(self):
        async def main(server, port):
            async with self.sockets(port) as readers:
                terminate()
                closes = await asyncio.gather(*map(closed, readers))
                self.assertEqual({close[1:] for close in closes}, {(1012, False)})
                self.assertFalse(drain.has_begun())

        self.run_site(main)

    def test_a_server_without_sockets_stops_after_the_notice(self):
        async def main(server, port):
            terminate()
            await until(lambda: server.should_exit)

        self.run_site(main)

    def test_an_error_does_not_keep_the_server_from_stopping(self):
        async def main(server, port):
            async with self.sockets(port) as readers:
                with (
                    mock.patch("websocket.state.Connection.close_soon", side_effect=KeyError),
                    self.assertLogs("django.websocket", "ERROR"),
                ):
                    terminate()
                    await until(lambda: server.should_exit)
                await asyncio.gather(*map(closed, readers))

        self.run_site(main)

    async def test_a_server_that_is_not_uvicorn_is_told_that_it_has_no_effect(self):
        with self.assertLogs("django.websocket", "WARNING") as logs:
            drain.prepare()
        self.assertIn("WEBSOCKET_DRAIN_SECONDS has no effect", logs.output[0])
