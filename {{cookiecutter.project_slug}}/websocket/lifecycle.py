"""A connection's lifecycle after its handshake: the view, errors, the close; or the refusal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any
from urllib.parse import quote

from asgiref.sync import sync_to_async
from django.core import signals
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from websocket import sweep
from websocket.connection import InvalidMessage, State, WebSocket, WebSocketDisconnect
from websocket.counters import counters, lock
from websocket.handshake import HandshakeHandler
from websocket.protocol import one_line
from websocket.supervisor import Supervisor

logger = logging.getLogger("django.request")


async def run(socket: WebSocket, view: Coroutine[Any, Any, HttpResponseBase | None]) -> None:
    """Run the view, then close or refuse the connection if the view did not.

    Once the connection is over, the view has WEBSOCKET_DISCONNECT_GRACE seconds to end by itself.
    """
    result = None
    sweep.add(socket)
    try:
        async with Supervisor(view) as supervisor:
            socket._view_starts(supervisor)
            result = await view
        await finish(socket, result, supervisor.errors)
        supervisor.errors = []  # Their tracebacks have this frame, and so themselves, in them.
    finally:
        socket._release()
        with lock:
            sweep.discard(socket)
            counters["messages_in"] += socket.messages_in
            counters["messages_out"] += socket.messages_out


async def finish(
    socket: WebSocket, result: HttpResponseBase | None, errors: Sequence[Exception]
) -> None:
    """Close or refuse the connection if the view did not, and report its errors."""
    for error in errors:
        if isinstance(error, WebSocketDisconnect):
            continue
        if isinstance(error, InvalidMessage):
            logger.info("Invalid message: %s: %s", quote(socket.path), one_line(error))
            await socket._hang_up(error.code, str(error))
        elif socket.app_state is State.CONNECTING:
            await refuse(socket, await sync_to_async(respond)(socket.request, error))
        elif isinstance(error, (PermissionDenied, SuspiciousOperation)):
            # The client's fault, as before the accept; by then only a close code can tell it.
            name = type(error).__name__
            logger.warning("%s: %s: %s", name, quote(socket.path), one_line(error))
            await socket._hang_up(3003 if isinstance(error, PermissionDenied) else 1008)
        else:
            await sync_to_async(report)(socket, error)
            await socket._hang_up(1011)
    if socket.app_state is not State.CONNECTING:
        await socket._hang_up(1000)
        return
    if not isinstance(result, HttpResponseBase):
        error = RuntimeError("The view returned without accepting or refusing its socket.")
        result = await sync_to_async(respond)(socket.request, error)
    await refuse(socket, result)


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
            socket._log_user(),
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
        await socket._refuse(response.status_code, encode_headers(response), await read(response))
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
