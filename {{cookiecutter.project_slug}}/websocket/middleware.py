"""The way of a connection: its handshake, its view, its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core import signals
from django.core.exceptions import ImproperlyConfigured, PermissionDenied, SuspiciousOperation
from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from websocket import conf, groups, internals
from websocket.connection import (
    InvalidMessage,
    State,
    WebSocket,
    WebSocketDisconnect,
    one_line,
)
from websocket.handshake import HandshakeHandler, SwitchingProtocols, get_handler
from websocket.protocol import Receive, Scope, Send
from websocket.supervisor import Supervisor
from websocket.threads import (
    close_idle_connections,
    enter_shared_thread,
)

Application = Callable[[Any, Any, Any], Awaitable[None]]

handle_in_thread = sync_to_async(HandshakeHandler.handle)

logger = logging.getLogger("django.request")


def websockets(app: Application) -> Application:
    """Wrap an ASGI application: WebSockets go to their views in the URLconf, all else to `app`.

    The lifespan is handled here, because Django does not support it. The WEBSOCKET_ settings are
    checked and middleware is loaded at once: a mistake in them stops the start, not a handshake.
    """
    if errors := conf.errors():
        raise ImproperlyConfigured(" ".join(errors))
    get_handler()
    logging.getLogger("uvicorn.error").addFilter(internals.excuse_bad_text)
    internals.lift_header_limits()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        groups.get_hub().is_serving = True
        if scope["type"] == "websocket":
            await (await shake_hands(scope, receive, send))
        elif scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await app(scope, receive, send)

    application.serves_websockets = True  # type: ignore[attr-defined]  # For websocket.checks.
    return application


async def lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's startup and shutdown (ASGI, "Lifespan protocol")."""
    while True:
        event = await receive()
        if event["type"] == "lifespan.shutdown":
            await groups.close_hub()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


async def shake_hands(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Handle a handshake, and return what is left to do: to run the view, or to refuse.

    (Left to the caller, so that no open socket keeps this coroutine and what is in it.)
    """
    enter_shared_thread()
    if script_name := settings.FORCE_SCRIPT_NAME or scope.get("root_path"):
        set_script_prefix(script_name)
    handler = get_handler()
    if handler.needs_thread:
        response = await handle_in_thread(handler, scope, receive, send)
    else:
        response = handler.handle(scope, receive, send)
    if not isinstance(response, SwitchingProtocols):
        return refuse(WebSocket(scope, receive, send), response)
    del response["Content-Length"]  # A 101 has no content (RFC 9110, section 8.6).
    response.socket.accept_headers = encode_headers(response)
    return run(response.socket, response.view)


async def run(socket: WebSocket, view: Awaitable[HttpResponseBase | None]) -> None:
    """Run a view, and do with its connection what it left undone.

    Once the connection is over, the view has WEBSOCKET_DISCONNECT_GRACE seconds to end by itself.
    """
    result = None
    look_after(socket)
    try:
        async with Supervisor() as supervisor:
            socket.view_starts(supervisor)
            result = await view
        await finish(socket, result, supervisor.errors)
        supervisor.errors = ()  # Their tracebacks have this frame, and so themselves, in them.
    finally:
        _open_sockets[asyncio.get_running_loop()].discard(socket)
        await socket.release()
        socket.log_closed()


async def finish(
    socket: WebSocket, result: HttpResponseBase | None, errors: Sequence[Exception]
) -> None:
    """Do with the connection what a view left undone, and report what went wrong."""
    for error in errors:
        if isinstance(error, WebSocketDisconnect):
            continue
        if isinstance(error, InvalidMessage):
            logger.info("Invalid message: %s: %s", quote(socket.path), one_line(error))
            await hang_up(socket, error.code, str(error))
        elif socket.app_state is State.CONNECTING:
            await refuse(socket, await sync_to_async(respond)(socket.request, error))
        elif isinstance(error, (PermissionDenied, SuspiciousOperation)):
            # The client's fault, as before the accept; by then only a close code can tell it.
            name = type(error).__name__
            logger.warning("%s: %s: %s", name, quote(socket.path), one_line(error))
            await hang_up(socket, 3003 if isinstance(error, PermissionDenied) else 1008)
        else:
            await sync_to_async(report)(socket, error)
            await hang_up(socket, 1011)
    if socket.app_state is not State.CONNECTING:
        await hang_up(socket, 1000)
        return
    if not isinstance(result, HttpResponseBase):
        error = RuntimeError("The view returned without accepting or refusing its socket.")
        result = await sync_to_async(respond)(socket.request, error)
    await refuse(socket, result)


async def hang_up(socket: WebSocket, code: int, reason: str = "") -> None:
    """Close a connection, by force where its client does not read."""
    if socket.is_closed:
        return
    try:
        async with asyncio.timeout(conf.DISCONNECT_GRACE):
            await socket.close(code, reason.encode(errors="replace")[:123].decode(errors="ignore"))
    except TimeoutError:
        socket.abort()


def respond(request: HttpRequest, error: Exception) -> HttpResponseBase:
    """Return Django's response to an exception: 404, 403, 400, or a 500 that it reports."""
    try:
        raise error
    except Exception:
        return response_for_exception(request, error)


def report(socket: WebSocket, error: Exception) -> None:
    """Report an exception after the accept as Django reports those of its views."""
    try:
        raise error
    except Exception:
        signals.got_request_exception.send(sender=HandshakeHandler, request=socket.request)
        logger.exception(
            "Internal Server Error: %s (%s)",
            quote(socket.path),
            socket.log_user(),
            extra={"request": socket.request, "status_code": 500},
        )


async def refuse(socket: WebSocket, response: HttpResponseBase) -> None:
    """Answer a handshake with a response, or where the server cannot, with a plain 403.

    (ASGI's extension "WebSocket Denial Response".)
    """
    try:
        if "websocket.http.response" not in (socket.scope.get("extensions") or {}):
            await socket.close()
            return
        if hasattr(response, "render"):
            response = await sync_to_async(response.render)()
        await socket.refuse(response.status_code, encode_headers(response), await read(response))
        # uvicorn logs a false error unless it can note the end of the connection first.
        await asyncio.sleep(0)
    finally:
        if response.streaming:
            await sync_to_async(response.close)()


async def read(response: Any) -> bytes:
    """Return the whole body of a response, of whichever kind."""
    if not response.streaming:
        return bytes(response.content)
    if getattr(response, "is_async", False):
        return b"".join([chunk async for chunk in response])
    return bytes(await sync_to_async(b"".join)(response.streaming_content))


def encode_headers(response: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    """Return a response's headers and cookies as ASGI wants them."""
    headers = [
        (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()
    ]
    for cookie in response.cookies.values():
        headers.append((b"set-cookie", cookie.OutputString().encode("ascii")))
    return headers


# One look at all open sockets now and then, rather than a task or a timer for each

#: Seconds between two looks.
LOOK_EVERY = 1.0

_open_sockets: WeakKeyDictionary[asyncio.AbstractEventLoop, set[WebSocket]] = WeakKeyDictionary()


def open_sockets() -> list[WebSocket]:
    """Return the sockets that this process has open."""
    return [socket for sockets in list(_open_sockets.values()) for socket in list(sockets)]


def look_after(socket: WebSocket) -> None:
    """Read ahead for the socket while its view does not receive, until it is discarded."""
    loop = asyncio.get_running_loop()
    if loop not in _open_sockets:
        _open_sockets[loop] = set()
        # In a context of its own, which keeps nothing of this connection's alive.
        loop.call_later(LOOK_EVERY, look_after_all, loop, context=Context())
    _open_sockets[loop].add(socket)


def look_after_all(loop: asyncio.AbstractEventLoop) -> None:
    """Look after the open sockets of a loop, and after the database connections; then again."""
    sockets = _open_sockets[loop]
    for socket in sockets:
        socket.look_after()
    if close_idle_connections() or sockets:
        loop.call_later(LOOK_EVERY, look_after_all, loop)
    else:
        del _open_sockets[loop]
