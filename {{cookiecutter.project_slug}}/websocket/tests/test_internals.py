"""Private details of others, tried on the versions that are installed.

A test here that fails after an update names the function of websocket/internals.py to look at.
"""

import asyncio
import functools
import logging
import os
import socket
import threading
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from asgiref.sync import (
    ThreadSensitiveContext,
    iscoroutinefunction,
    markcoroutinefunction,
    sync_to_async,
)
from django.test import SimpleTestCase

from websocket import internals


@asynccontextmanager
async def uvicorn_serves(application):
    """Serve an ASGI application under uvicorn in this event loop, and yield its port."""
    config = uvicorn.Config(application, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        async with asyncio.timeout(20):
            yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def open_connection(port, headers=b""):
    """Return the streams of a WebSocket whose handshake was accepted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n" % b64encode(os.urandom(16))
    )
    writer.write(headers + b"\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def until_left(receive):
    while (await receive())["type"] != "websocket.disconnect":
        pass


class UvicornTests(SimpleTestCase):
    async def test_transport_of(self):
        found: asyncio.Queue[asyncio.Transport | None] = asyncio.Queue()

        async def application(scope, receive, send):
            await send({"type": "websocket.accept"})
            found.put_nowait(internals.transport_of(send))
            await until_left(receive)

        async with uvicorn_serves(application) as port:
            _, writer = await open_connection(port)
            transport = await found.get()
            assert transport is not None
            self.assertEqual(transport.get_extra_info("sockname")[1], port)
            self.assertFalse(transport.is_closing())
            writer.close()

    async def test_ping_timeout_of(self):
        found: asyncio.Queue[float | None] = asyncio.Queue()

        async def application(scope, receive, send):
            await send({"type": "websocket.accept"})
            found.put_nowait(internals.ping_timeout_of(send))

        async with uvicorn_serves(application) as port:
            await open_connection(port)
            self.assertEqual(await found.get(), 20)
        self.assertIsNone(internals.ping_timeout_of(print))

    async def test_transport_of_a_send_that_hides_it_is_none(self):
        async def send(event):
            pass

        self.assertIsNone(internals.transport_of(send))

    async def test_unsent_and_abort(self):
        unsent: asyncio.Queue[int] = asyncio.Queue()

        async def application(scope, receive, send):
            await send({"type": "websocket.accept"})
            transport = internals.transport_of(send)
            assert transport is not None
            unsent.put_nowait(internals.unsent(transport))
            sending = asyncio.create_task(send({"type": "websocket.send", "bytes": bytes(2**25)}))
            await asyncio.wait([sending])
            unsent.put_nowait(internals.unsent(transport))
            internals.abort(transport)
            await until_left(receive)
            unsent.put_nowait(internals.unsent(transport))

        async with uvicorn_serves(application) as port:
            reader, writer = await open_connection(port)
            self.assertEqual(await unsent.get(), 0)
            self.assertGreater(await unsent.get(), 2**23)
            self.assertEqual(await unsent.get(), 0)
            with self.assertRaises(ConnectionResetError):
                # What is in the operating system's buffers is dropped as well.
                await reader.readexactly(2**25)
            writer.close()

    async def test_excuse_bad_text(self):
        async def application(scope, receive, send):
            await send({"type": "websocket.accept"})
            await until_left(receive)

        logging.getLogger("uvicorn.error").addFilter(internals.excuse_bad_text)
        with self.assertLogs("uvicorn.error") as logs:
            async with uvicorn_serves(application) as port:
                reader, writer = await open_connection(port)
                writer.write(b"\x81\x81\0\0\0\0\xff")
                self.assertEqual((await reader.readexactly(4))[2:], (1007).to_bytes(2))
                writer.close()
        self.assertIn("Invalid UTF-8", "".join(logs.output))
        self.assertNotIn("ERROR", "".join(logs.output))
        self.assertNotIn("Traceback", "".join(logs.output))

    async def test_lift_header_limits(self):
        async def application(scope, receive, send):
            await send({"type": "websocket.accept"})

        internals.lift_header_limits()
        long, many = b"Cookie: a=%b\r\n" % (b"x" * 9000), b"X: x\r\n" * 200
        async with uvicorn_serves(application) as port:
            for headers in (long, many):
                _, writer = await open_connection(port, headers)
                writer.close()


class AsgirefTests(SimpleTestCase):
    # In an event loop of their own: above an async test is a thread whose executor wins.

    def test_set_executor_and_enter_context(self):
        async def main():
            context, other = ThreadSensitiveContext(), ThreadSensitiveContext()
            with ThreadPoolExecutor(1, "chosen") as executor:
                internals.set_executor(context, executor)
                internals.enter_context(lambda: context)
                internals.enter_context(lambda: other)
                return await sync_to_async(lambda: threading.current_thread().name)()

        self.assertEqual(asyncio.run(main()), "chosen_0")

    def test_unmark_coroutine(self):
        def wrapper():
            pass

        marked = functools.wraps(markcoroutinefunction(lambda: None))(wrapper)
        self.assertTrue(iscoroutinefunction(marked))
        internals.unmark_coroutine(marked)
        self.assertFalse(iscoroutinefunction(marked))
