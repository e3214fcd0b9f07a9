"""Test tools for sockets: a client that needs no server, and a live server for browsers."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from socket import socket as new_socket
from typing import Any, TypeVar
from urllib.parse import unquote

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.signals import (
    got_request_exception,
    request_finished,
    request_started,
    setting_changed,
)
from django.db import close_old_connections, connections
from django.test import AsyncClient, TransactionTestCase, modify_settings
from django.utils.module_loading import import_string

from websocket import internals
from websocket.connection import WebSocketDisconnect
from websocket.groups import subscribe
from websocket.handshake import Handshake, get_handler
from websocket.middleware import Application
from websocket.protocol import Event, Headers, Scope, SendEvent
from websocket.threads import DatabaseThread, get_threads

__all__ = [
    "TIMEOUT",
    "ASGILiveServerTestCase",
    "ClientSocket",
    "HandshakeRefused",
    "Listener",
    "connect",
    "listen",
]

T = TypeVar("T")

#: Seconds that a test waits for a message or for the view's end before it fails.
TIMEOUT = 10.0


def hear_setting(*, setting: str, **kwargs: Any) -> None:
    """Clear the caches when a test overrides a setting: middleware may read any setting."""
    get_handler.cache_clear()
    if setting == "WEBSOCKET_THREADS":
        get_threads.cache_clear()


setting_changed.connect(hear_setting)


class HandshakeRefused(Exception):
    """The handshake was refused with an HTTP response. Raised by `connect`."""

    def __init__(self, status_code: int, headers: Headers, content: bytes) -> None:
        super().__init__(f"The handshake was refused with status {status_code}.")
        self.status_code = status_code
        self.headers = headers
        self.content = content


_handshakes = 0


@contextmanager
def connections_kept() -> Iterator[None]:
    """Keep handshakes from closing old database connections, as Django's test client does.

    The connections belong to the test, and a test without database access may not touch them.
    """
    global _handshakes
    _handshakes += 1
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        _handshakes -= 1
        if not _handshakes:
            for signal in (request_started, request_finished):
                signal.connect(close_old_connections)


@asynccontextmanager
async def connect(
    path: str,
    *,
    client: AsyncClient | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Iterable[str] = (),
    user: Any = None,
) -> AsyncIterator[ClientSocket]:
    """Connect to a socket of the project, `settings.ASGI_APPLICATION`, as a client.

    `path` may have a query string. The cookies are those of `client`, which also keeps the ones
    that the handshake sets; `user` is logged in first. The end of the block closes the connection
    and waits for the view to end. Raises `HandshakeRefused`, and any exception of the view.
    """
    if user is not None:
        client = client or AsyncClient()
        await sync_to_async(client.force_login)(user)
    socket = ClientSocket(_scope(path, client, headers or {}, list(subprotocols)))
    got_request_exception.connect(socket._keep_error)
    try:
        with connections_kept():
            await socket._open()
        if client is not None:
            for name, value in socket.raw_headers:
                if name == b"set-cookie":
                    client.cookies.load(value.decode())
        yield socket
        await socket.close()
    except BaseException as error:
        # If the view failed, an exception in the test is usually a consequence.
        if socket.error is not None and isinstance(error, Exception):
            raise socket.error from error
        raise
    finally:
        await socket._stop()
        got_request_exception.disconnect(socket._keep_error)
    if socket.error is not None:
        raise socket.error


def _scope(
    path: str, client: AsyncClient | None, headers: Mapping[str, str], subprotocols: list[str]
) -> Scope:
    path, _, query_string = path.partition("?")
    fields = {"host": "testserver", **{name.lower(): value for name, value in headers.items()}}
    if client is not None and client.cookies:
        cookies = (f"{cookie.key}={cookie.coded_value}" for cookie in client.cookies.values())
        fields.setdefault("cookie", "; ".join(cookies))
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query_string.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
        "client": ("127.0.0.1", 0),
        "server": ("testserver", 80),
        "subprotocols": subprotocols,
        "extensions": {"websocket.http.response": {}},
    }


#: The connection that the current task or thread serves. (Its scope does not identify it,
#: because ASGI middleware may copy it.)
_current: ContextVar[ClientSocket] = ContextVar("current")


class ClientSocket:
    """A client's end of a connection, and the ASGI server between it and the project."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        #: The subprotocol and the headers of the accept.
        self.subprotocol: str | None = None
        self.raw_headers: list[tuple[bytes, bytes]] = []
        #: The close code and the reason, from either side.
        self.close_code: int | None = None
        self.close_reason = ""
        #: The exception that the view raised.
        self.error: BaseException | None = None
        self._to_view: asyncio.Queue[Event] = asyncio.Queue()
        self._from_view: asyncio.Queue[Event] = asyncio.Queue()
        self._accepted = False
        self._refusal: Event | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def headers(self) -> Headers:
        """The headers of the accept."""
        return Headers({"headers": self.raw_headers})

    # The client

    async def send_text(self, data: str) -> None:
        """Send a text message."""
        self._receive_event({"type": "websocket.receive", "text": data})

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message."""
        self._receive_event({"type": "websocket.receive", "bytes": data})

    async def send_json(self, data: Any) -> None:
        """Send a value as JSON in a text message."""
        await self.send_text(json.dumps(data))

    async def receive(self, timeout: float = TIMEOUT) -> str | bytes:
        """Return the next message, str for text and bytes for binary.

        Raises `TimeoutError` after `timeout` seconds, and `WebSocketDisconnect` once the
        connection is closed. A timeout does not disturb the view.
        """
        if self.close_code is not None and self._from_view.empty():
            raise WebSocketDisconnect(self.close_code, self.close_reason)
        event = await _wait(self._from_view.get(), timeout, "a message")
        if event["type"] == SendEvent.CLOSE:
            raise WebSocketDisconnect(event.get("code", 1000), event.get("reason") or "")
        text: str | None = event.get("text")
        return event["bytes"] if text is None else text

    async def receive_text(self, timeout: float = TIMEOUT) -> str:
        """Return the next message, which has to be text; raises as `receive` does."""
        message = await self.receive(timeout)
        assert isinstance(message, str), f"Expected a text message, got {message!r}."
        return message

    async def receive_bytes(self, timeout: float = TIMEOUT) -> bytes:
        """Return the next message, which has to be binary; raises as `receive` does."""
        message = await self.receive(timeout)
        assert isinstance(message, bytes), f"Expected a binary message, got {message!r}."
        return message

    async def receive_json(self, timeout: float = TIMEOUT) -> Any:
        """Return the value of the next message, JSON in text; raises as `receive` does."""
        return json.loads(await self.receive_text(timeout))

    async def receive_nothing(self, seconds: float = 0.1) -> None:
        """Wait for so long, and see that no message comes.

        Raises `AssertionError` if one comes, and `WebSocketDisconnect` once the connection is
        closed.
        """
        await _wait_for_nothing(self.receive, seconds)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Iterate over messages until the connection is closed."""
        with suppress(WebSocketDisconnect):
            while True:
                yield await self.receive()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, as a client that leaves does."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
            self._receive_event({"type": "websocket.disconnect", "code": code, "reason": reason})

    async def wait_closed(self, timeout: float = TIMEOUT) -> int:
        """Wait until the view has ended, drop unread messages, and return the close code."""
        assert self._task is not None
        await _wait(asyncio.shield(self._task), timeout, "the view's end")
        while not self._from_view.empty():
            self._from_view.get_nowait()
        return self.close_code or 1006

    # The server

    async def _open(self) -> None:
        """Run the application until it has answered the handshake."""
        application: Application = import_string(settings.ASGI_APPLICATION)
        self._receive_event({"type": "websocket.connect"})
        token = _current.set(self)
        serving = application(self.scope, self._to_view.get, self._send)
        self._task = asyncio.ensure_future(serving)
        _current.reset(token)
        answer = asyncio.ensure_future(self._from_view.get())
        await asyncio.wait(
            [answer, self._task], timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        if not answer.done():
            answer.cancel()
            if not self._task.done():
                raise TimeoutError(f"Waited {TIMEOUT:g} s for an answer to the handshake.")
            await self._task  # Raises what the application raised.
            raise AssertionError("The application ended without an answer to the handshake.")
        if self._refusal is not None:
            await self._task
            refusal = self._refusal
            self.raw_headers = refusal["headers"]
            raise HandshakeRefused(refusal["status"], self.headers, refusal["body"])

    async def _stop(self) -> None:
        """End the application, and cancel it if necessary."""
        if self._task is None or self._task.done():
            return
        try:
            await self.close()
            await _wait(asyncio.shield(self._task), TIMEOUT, "the view's end")
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _keep_error(self, request: Any = None, **kwargs: Any) -> None:
        """Keep an exception that was reported for this connection."""
        if _current.get(None) is self and isinstance(request, Handshake):
            self.error = sys.exc_info()[1]

    def _receive_event(self, event: Event) -> None:
        if event["type"] == "websocket.receive" and self.close_code is not None:
            raise WebSocketDisconnect(self.close_code, self.close_reason)
        self._to_view.put_nowait(event)

    async def _send(self, event: Event) -> None:
        """Handle an event from the application; this is its `send`."""
        if self.close_code is not None:
            raise ConnectionResetError("The connection is closed.")
        kind = event["type"]
        if kind == SendEvent.SEND and self._accepted:
            self._from_view.put_nowait(event)
        elif kind == SendEvent.ACCEPT and not self._accepted:
            self._accepted = True
            self.subprotocol = event.get("subprotocol")
            self.raw_headers = list(event.get("headers") or ())
            self._from_view.put_nowait(event)
        elif kind == SendEvent.CLOSE and self._accepted:
            self.close_code = event.get("code", 1000)
            self.close_reason = event.get("reason") or ""
            self._from_view.put_nowait(event)
            self._to_view.put_nowait({**event, "type": "websocket.disconnect"})
        elif kind == SendEvent.CLOSE:
            # A server answers a close before the accept with an empty 403.
            self._refuse({"status": 403, "headers": [], "body": b""})
        elif kind == "websocket.http.response.start" and not self._accepted:
            self._refusal = {**event, "body": b""}
        elif kind == "websocket.http.response.body" and self._refusal is not None:
            self._refusal["body"] += event.get("body", b"")
            if not event.get("more_body"):
                self._refuse(self._refusal)
        else:
            raise RuntimeError(f"The server does not expect {kind!r} now.")

    def _refuse(self, refusal: Event) -> None:
        self._refusal = refusal
        self.close_code = 1006
        self._from_view.put_nowait(refusal)
        self._to_view.put_nowait({"type": "websocket.disconnect", "code": 1006})


@asynccontextmanager
async def listen(*groups: str) -> AsyncIterator[Listener]:
    """Listen to some groups, from the start of the block on, as a member of theirs."""
    async with subscribe(*groups) as inbox:
        yield Listener(inbox)


class Listener:
    """The messages of some groups. Made by `listen`."""

    def __init__(self, inbox: AsyncIterator[Any]) -> None:
        self._inbox = inbox

    async def receive(self, timeout: float = TIMEOUT) -> Any:
        """Return the next message: str, bytes, or the value of a message published as JSON.

        Raises `TimeoutError` after `timeout` seconds.
        """
        return await _wait(anext(self._inbox), timeout, "a message to the group")

    async def receive_nothing(self, seconds: float = 0.1) -> None:
        """Wait for so long, and see that no message comes; raises `AssertionError` if one does."""
        await _wait_for_nothing(self.receive, seconds)


async def _wait(awaitable: Awaitable[T], timeout: float, what: str) -> T:
    try:
        return await asyncio.wait_for(awaitable, timeout)
    except TimeoutError:
        raise TimeoutError(f"Waited {timeout:g} s for {what}.") from None


async def _wait_for_nothing(receive: Callable[[float], Awaitable[Any]], seconds: float) -> None:
    try:
        message = await receive(seconds)
    except TimeoutError:
        return
    raise AssertionError(f"Expected no message for {seconds:g} s, got {message!r}.")


class ASGILiveServerTestCase(TransactionTestCase):
    """A test case that runs the project under uvicorn in a thread, for browsers and other clients.

    `live_server_url` is its address. It serves pages, static files and sockets. Its sync code runs
    in a single thread, which uses the tests' database.
    """

    host = "127.0.0.1"
    live_server_url: str
    _allowed: modify_settings
    _server: LiveServer

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls._allowed = modify_settings(ALLOWED_HOSTS={"append": cls.host})
        cls._allowed.enable()
        cls._server = LiveServer(cls.host)
        cls.live_server_url = f"http://{cls.host}:{cls._server.port}"

    @classmethod
    def tearDownClass(cls) -> None:
        cls._server.stop()
        cls._allowed.disable()  # Before the class's own overrides.
        super().tearDownClass()


class LiveServer:
    """Runs the project under uvicorn, in a thread, until `stop()`."""

    def __init__(self, host: str) -> None:
        import uvicorn  # Tests without a live server do not need it.

        application = ASGIStaticFilesHandler(import_string(settings.ASGI_APPLICATION))
        self.executor = DatabaseThread("websocket-live")
        context = ThreadSensitiveContext()
        internals.set_executor(context, self.executor)
        # An in-memory database lives in its connection, so the server's thread uses the tests' one.
        self.shared = {
            connection.alias: connection
            for connection in connections.all()
            if connection.vendor == "sqlite" and connection.is_in_memory_db()  # type: ignore[attr-defined]
        }
        for connection in self.shared.values():
            connection.inc_thread_sharing()
        self.executor.submit(self._share_connections).result()

        async def serve(scope: Scope, receive: Any, send: Any) -> None:
            internals.enter_context(lambda: context)
            await application(scope, receive, send)

        self.listener = new_socket()
        self.listener.bind((host, 0))
        self.port: int = self.listener.getsockname()[1]
        started = threading.Event()

        class Server(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                started.set()

        self.server = Server(
            uvicorn.Config(serve, log_level="warning", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],), daemon=True)
        self.thread.start()
        assert started.wait(TIMEOUT), "The live server did not start."

    def _share_connections(self) -> None:
        for alias, connection in self.shared.items():
            connections[alias] = connection

    def stop(self) -> None:
        """Stop the server and wait for it."""
        self.server.should_exit = True
        self.thread.join()
        self.executor.submit(connections.close_all).result()
        self.executor.shutdown()
        for connection in self.shared.values():
            connection.dec_thread_sharing()
