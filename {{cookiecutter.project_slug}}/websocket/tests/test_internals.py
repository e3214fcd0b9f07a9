"""Private details of others, tried on the versions that are installed.

A test here that fails after an update names the function of websocket/internals.py to look at.
"""

import asyncio
import functools
import logging
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from asgiref.sync import (
    ThreadSensitiveContext,
    iscoroutinefunction,
    markcoroutinefunction,
    sync_to_async,
)
from django.contrib.auth.models import AnonymousUser
from django.contrib.messages import ERROR, INFO, add_message, get_messages, set_level
from django.contrib.messages.middleware import MessageMiddleware
from django.core.handlers.base import BaseHandler
from django.core.signals import request_finished
from django.db.utils import ConnectionHandler
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, SimpleTestCase, TestCase, override_settings
from django.utils.deprecation import MiddlewareMixin
from django.utils.functional import SimpleLazyObject

from websocket import internals
from websocket.testing import connections_kept
from websocket.tests.uvicorn_server import (
    connect,
    frame,
    open_socket,
    until_left,
    uvicorn_serves,
)
from websocket.tests.wire import until

# Longer than what is allowed of a header's line.
LONG = b"x" * 2**20


async def accept(scope, receive, send):
    await send({"type": "websocket.accept"})
    await until_left(receive)


class UvicornTests(SimpleTestCase):
    def setUp(self):
        self.sends: asyncio.Queue[Any] = asyncio.Queue()

    async def keep(self, scope, receive, send):
        """Accept, and keep the server's `send` for the test."""
        self.sends.put_nowait(send)
        await accept(scope, receive, send)

    async def test_transport_of(self):
        async with uvicorn_serves(self.keep) as (_, port):
            _, writer = await open_socket(port)
            transport = internals.transport_of(await self.sends.get())
            assert transport is not None
            self.assertEqual(transport.get_extra_info("sockname")[1], port)
            self.assertFalse(transport.is_closing())
            writer.close()

    async def test_transport_of_a_send_that_hides_it_is_none(self):
        async def send(event):
            pass

        self.assertIsNone(internals.transport_of(send))

    async def test_ping_timeout_of(self):
        async with uvicorn_serves(self.keep) as (_, port):
            _, writer = await open_socket(port)
            self.assertEqual(internals.ping_timeout_of(await self.sends.get()), 20)
            writer.close()
        self.assertIsNone(internals.ping_timeout_of(print))

    async def test_unsent_and_abort(self):
        async with uvicorn_serves(self.keep) as (_, port):
            reader, writer = await open_socket(port)
            send = await self.sends.get()
            transport = internals.transport_of(send)
            assert transport is not None
            self.assertEqual(internals.unsent(transport), 0)
            await send({"type": "websocket.send", "bytes": bytes(2**25)})
            self.assertGreater(internals.unsent(transport), 2**23)
            internals.abort(transport)
            self.assertEqual(internals.unsent(transport), 0)
            with self.assertRaises(ConnectionResetError):
                # What is in the operating system's buffers is dropped as well.
                await reader.readexactly(2**25)
            writer.close()

    async def test_fragments(self):
        async with uvicorn_serves(self.keep) as (_, port):
            _, writer = await open_socket(port)
            send = await self.sends.get()
            self.assertEqual(internals.fragments(send), 0)
            writer.write(frame(1, b"a", fin=False) + frame(0, fin=False) * 9)
            await until(lambda: internals.fragments(send) == 10)
            writer.close()
        self.assertEqual(internals.fragments(print), 0)

    async def test_peer_has_left(self):
        async with uvicorn_serves(self.keep) as (_, port):
            _, writer = await open_socket(port)
            transport = internals.transport_of(await self.sends.get())
            assert transport is not None
            transport.pause_reading()
            self.assertFalse(internals.peer_has_left(transport))
            writer.close()
            await until(lambda: internals.peer_has_left(transport))
            transport.resume_reading()
            await until(lambda: not internals.peer_has_left(transport))  # It is closed.

    async def test_excuse_bad_text(self):
        logging.getLogger("uvicorn.error").addFilter(internals.excuse_bad_text)
        with self.assertLogs("uvicorn.error") as logs:
            async with uvicorn_serves(accept) as (_, port):
                reader, writer = await open_socket(port)
                writer.write(frame(1, b"\xff"))
                self.assertEqual((await reader.readexactly(4))[2:], (1007).to_bytes(2))
                writer.close()
        self.assertIn("Invalid UTF-8", "".join(logs.output))
        self.assertNotIn("ERROR", "".join(logs.output))
        self.assertNotIn("Traceback", "".join(logs.output))

    async def test_excuse_bad_frames(self):
        async def hesitate(scope, receive, send):
            await until_left(receive)

        logging.getLogger("asyncio").addFilter(internals.excuse_bad_frames)
        early, late = frame(3), frame(1, b"\xff") + frame(8)
        for application, ask, data in ((hesitate, connect, early), (accept, open_socket, late)):
            with self.assertLogs("asyncio") as logs:
                async with uvicorn_serves(application) as (server, port):
                    reader, writer = await ask(port)
                    await until(lambda: bool(server.server_state.tasks))
                    writer.write(data)
                    await reader.read()
                    writer.close()
            self.assertEqual(logs.output, ["INFO:asyncio:Invalid frames received from client."])

    async def test_lift_header_limits(self):
        internals.lift_header_limits()
        async with uvicorn_serves(accept) as (_, port):
            for headers in ([b"Cookie: a=" + b"x" * 9000], [b"X: x"] * 200):
                _, writer = await open_socket(port, *headers)
                writer.close()

    def test_open_connections(self):
        server = uvicorn.Server(uvicorn.Config(accept))
        with server.capture_signals():  # In the main thread, where it is the process's server.
            self.assertIs(internals.open_connections(), server.server_state.connections)
        self.assertIsNone(internals.open_connections())

    def test_is_stopping(self):
        server = uvicorn.Server(uvicorn.Config(accept))
        with server.capture_signals():
            self.assertFalse(internals.is_stopping())
            server.handle_exit(signal.SIGTERM, None)
            self.assertTrue(internals.is_stopping())
            server._captured_signals.clear()  # Or it would be raised again, and end the tests.
        self.assertFalse(internals.is_stopping())

    def test_delay_stop(self):
        before = signal.signal(signal.SIGTERM, lambda *args: None)
        self.addCleanup(signal.signal, signal.SIGTERM, before)
        begun = []
        server = uvicorn.Server(uvicorn.Config(accept))
        with server.capture_signals():
            internals.delay_stop(lambda: begun.append(True))
            self.assertIs(internals.open_connections(), server.server_state.connections)
            signal.raise_signal(signal.SIGTERM)
            self.assertEqual((begun, server.should_exit), ([True], False))
            signal.raise_signal(signal.SIGTERM)
            self.assertEqual((begun, server.should_exit), ([True], True))

    async def test_is_unreadable_and_refuse_unreadable(self):
        async with uvicorn_serves(accept) as (server, port):
            connections = server.server_state.connections
            for header, status in ((b"Content-Length: 1\r\n\r\n1", 400), (b"X: " + LONG, 431)):
                reader, writer = await connect(port, header)
                await until(lambda: any(map(internals.is_unreadable, connections)))
                (connection,) = connections
                refused = internals.refuse_unreadable(connection)
                self.assertEqual(refused, (status, "127.0.0.1"))
                answer = await reader.read()
                self.assertTrue(answer.startswith(f"HTTP/1.1 {status} ".encode()), answer)
                writer.close()
            _, writer = await open_socket(port)
            self.assertFalse(any(map(internals.is_unreadable, connections)))
            writer.close()

    async def test_is_unfinished_and_drop_unfinished(self):
        async def application(scope, receive, send):
            answering.set()
            await may_answer.wait()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        def unfinished():
            return [internals.is_unfinished(connection) for connection in connections]

        for http in ("httptools", "h11"):
            answering, may_answer = asyncio.Event(), asyncio.Event()
            async with uvicorn_serves(application, http=http) as (server, port):
                connections = server.server_state.connections
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                await until(lambda: unfinished() == [True])  # Nothing has come yet.
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await answering.wait()
                self.assertEqual(unfinished(), [False])
                may_answer.set()
                await reader.readuntil(b"\r\n\r\n")
                self.assertEqual(unfinished(), [False])  # uvicorn closes it soon.
                writer.write(b"GET / HTTP/1.1\r\n")
                await until(lambda: unfinished() == [True])
                (connection,) = connections
                internals.drop_unfinished(connection)
                with self.assertRaises(ConnectionResetError):
                    await reader.read()
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

    def test_waits_for_thread(self):
        async def main():
            waiting: Any = sync_to_async(threading.Event().wait)(0.1)
            task = asyncio.ensure_future(waiting)
            await asyncio.sleep(0)
            code = waiting.cr_frame.f_code
            await task
            return code

        self.assertTrue(internals.waits_for_thread(asyncio.run(main())))
        self.assertFalse(internals.waits_for_thread(accept.__code__))

    def test_unmark_coroutine(self):
        def wrapper():
            pass

        marked = functools.wraps(markcoroutinefunction(lambda: None))(wrapper)
        self.assertTrue(iscoroutinefunction(marked))
        internals.unmark_coroutine(marked)
        self.assertFalse(iscoroutinefunction(marked))


class Middleware(MiddlewareMixin):
    def process_template_response(self, request, response):
        return f"{response}!"

    def process_view(self, request, view, args, kwargs):
        return f"{view}?"


class HandlerTests(SimpleTestCase):
    def test_template_middleware(self):
        handler = BaseHandler()
        with override_settings(MIDDLEWARE=[f"{__name__}.Middleware"]):
            handler.load_middleware()
        (method,) = internals.template_middleware(handler)
        self.assertEqual(method(None, "response"), "response!")

    def test_view_middleware(self):
        handler = BaseHandler()
        with override_settings(MIDDLEWARE=[f"{__name__}.Middleware"]):
            handler.load_middleware()
        (method,) = internals.view_middleware(handler)
        self.assertEqual(method(None, "view", (), {}), "view?")

    def test_loaded_user(self):
        request: Any = HttpRequest()
        self.assertIsNone(internals.loaded_user(request))
        user = AnonymousUser()
        request.user = SimpleLazyObject(lambda: user)
        self.assertIsNone(internals.loaded_user(request))
        self.assertFalse(request.user.is_authenticated)
        self.assertIs(internals.loaded_user(request), request.user)
        request.user = user
        self.assertIs(internals.loaded_user(request), user)

    def test_set_handler(self):
        senders = []

        def note(sender, **kwargs):
            senders.append(sender)

        request_finished.connect(note)
        self.addCleanup(request_finished.disconnect, note)
        response = HttpResponse()
        internals.set_handler(response, BaseHandler)
        with connections_kept():
            response.close()
        self.assertEqual(senders, [BaseHandler])


class MessagesTests(SimpleTestCase):
    def test_remove_messages(self):
        request: Any = RequestFactory().get("/")
        request.session = {}
        middleware = MessageMiddleware(lambda request: HttpResponse())
        self.assertFalse(internals.remove_messages(request))
        middleware.process_request(request)
        self.assertEqual(len(get_messages(request)), 0)
        self.assertTrue(internals.remove_messages(request))
        self.assertNotIn("_messages", vars(request))
        # Unless something would be missing from a new one.
        for change in (lambda: set_level(request, ERROR), lambda: add_message(request, INFO, "a")):
            middleware.process_request(request)
            change()
            self.assertFalse(internals.remove_messages(request))
            self.assertIn("_messages", vars(request))


class DjangoTests(TestCase):
    def setUp(self):
        # A file, because Django never closes a connection to a database in memory.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        database = {
            "CONN_MAX_AGE": 60,
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"{folder.name}/db.sqlite3",
        }
        self.connection = ConnectionHandler({"default": database})["default"]
        self.connection.connect()
        self.addCleanup(self.connection.close)

    def test_hide_age(self):
        close_at = internals.hide_age(self.connection)
        assert close_at is not None
        self.assertAlmostEqual(close_at, time.monotonic() + 60, delta=30)
        self.assertIsNone(internals.hide_age(self.connection))

    def test_close_if_old(self):
        internals.hide_age(self.connection)
        for close_at in (None, time.monotonic() + 60):
            internals.close_if_old(self.connection, close_at)
            self.assertIsNotNone(self.connection.connection)
        internals.close_if_old(self.connection, time.monotonic() - 1)
        self.assertIsNone(self.connection.connection)

    def test_wrap_queries(self):
        queries = []

        def note(execute, sql, params, many, context):
            queries.append(sql)
            return execute(sql, params, many, context)

        internals.wrap_queries(self.connection, note)
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        self.assertEqual(queries, ["SELECT 1"])
