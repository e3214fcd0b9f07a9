"""A connection's lifecycle after its handshake: the view, its errors, and the close."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Sequence
from typing import Any
from urllib.parse import quote

from asgiref.sync import sync_to_async
from django.core import signals
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http.response import HttpResponseBase

from websocket import sweep
from websocket.connection import InvalidMessage, State, WebSocket, WebSocketDisconnect
from websocket.counters import counters, lock
from websocket.handshake import HandshakeHandler, get_handler
from websocket.protocol import one_line
from websocket.refusal import refuse
from websocket.supervisor import Supervisor

logger = logging.getLogger("django.request")


async def run(
    socket: WebSocket, view: Coroutine[Any, Any, HttpResponseBase | None], since: int
) -> None:
    """Run the view, then close or refuse the connection if the view did not.

    Once the connection is over, the view has WEBSOCKET_DISCONNECT_GRACE seconds to end by itself.
    """
    result = None
    sweep.add(socket)
    try:
        async with Supervisor(view) as supervisor:
            socket._view_starts(supervisor, since)
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
            await refuse(socket, await sync_to_async(get_handler().respond)(socket.request, error))
        elif isinstance(error, (PermissionDenied, SuspiciousOperation)):
            # The client's fault, as before the accept; by then only a close code can tell it.
            name = type(error).__name__
            logger.warning("%s: %s: %s", name, quote(socket.path), one_line(error))
            await socket._hang_up(3003 if isinstance(error, PermissionDenied) else 1008)
        else:
            await sync_to_async(report)(socket, error)
            await socket._hang_up(1011)
    if socket.app_state is not State.CONNECTING:
        if isinstance(result, HttpResponseBase) and socket._opened:
            logger.warning(
                "The view at %s returned a response after accept(), which no client sees: return "
                "it before, or use close() with a code.",
                quote(socket.path),
            )
        await socket._hang_up(1000)
        return
    if not isinstance(result, HttpResponseBase):
        error = RuntimeError(
            "The view returned without accepting or refusing its socket: call "
            "`await socket.accept()`, or return an HttpResponse that refuses."
        )
        result = await sync_to_async(get_handler().respond)(socket.request, error)
    await refuse(socket, result)


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
