"""A connection's lifecycle after its handshake: the view, its errors, and the close."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core import signals
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http.response import HttpResponseBase

from websocket import conf, logins, sweep
from websocket.counters import counters, lock
from websocket.handshake import HandshakeHandler, get_handler
from websocket.link import LINGER
from websocket.lookout import Lookout
from websocket.members import open_own_group
from websocket.protocol import InvalidMessage, State, WebSocketDisconnect, one_line
from websocket.refusal import refuse
from websocket.state import Connection, name_of_user
from websocket.supervisor import Supervisor

logger = logging.getLogger("django.request")


async def run(
    connection: Connection, view: Coroutine[Any, Any, HttpResponseBase | None], since: int
) -> None:
    """Run the view, then close or refuse the connection if the view did not.

    Once the connection is over, the view has WEBSOCKET_DISCONNECT_GRACE seconds to end by itself.
    """
    result = None
    lookout = Lookout(connection)
    sweep.add(lookout)
    try:
        async with Supervisor(view) as supervisor:
            connection.supervisor = supervisor
            logins.watch(connection, since)
            open_own_group(connection)
            if connection.app_state is State.DISCONNECTED:
                view.close()  # The login has ended meanwhile, and the handshake is refused.
            else:
                result = await view
                if settings.DEBUG and supervisor.has_tasks():
                    note_cancelled_tasks(connection)
        await finish(connection, result, supervisor.errors)
        supervisor.errors = []  # Break a cycle: their tracebacks refer to this frame.
    finally:
        connection.release()
        with lock:
            sweep.discard(lookout)
            counters["messages_in"] += connection.messages_in
            counters["messages_out"] += connection.messages_out


async def finish(
    connection: Connection, result: HttpResponseBase | None, errors: Sequence[Exception]
) -> None:
    """Close or refuse the connection if the view did not, and report its errors."""
    for error in errors:
        if isinstance(error, WebSocketDisconnect):
            continue
        if isinstance(error, InvalidMessage):
            logger.info("Invalid message: %s: %s", connection.path, one_line(error))
            await hang_up(connection, error.code, str(error))
        elif connection.app_state is State.CONNECTING:
            await refuse(
                connection, await sync_to_async(get_handler().respond)(connection.request, error)
            )
        elif isinstance(error, (PermissionDenied, SuspiciousOperation)):
            # The client's fault, as before the accept; now only a close code can report it.
            name = type(error).__name__
            logger.warning("%s: %s: %s", name, connection.path, one_line(error))
            await hang_up(connection, 3003 if isinstance(error, PermissionDenied) else 1008)
        else:
            await sync_to_async(report)(connection, error)
            await hang_up(connection, 1011)
    if connection.app_state is not State.CONNECTING:
        if result is not None and connection.opened:
            is_response = isinstance(result, HttpResponseBase)
            hint = "return it before, or use close() with a code" if is_response else "send it"
            logger.warning(
                "The view at %s returned a %s after accept(), which no client sees: %s.",
                connection.path,
                "response" if is_response else type(result).__name__,
                hint,
            )
        await hang_up(connection, 1000)
        return
    if not isinstance(result, HttpResponseBase):
        error = RuntimeError(
            "The view returned without accepting or refusing its socket: call "
            "`await socket.accept()`, or return an HttpResponse that refuses."
        )
        result = await sync_to_async(get_handler().respond)(connection.request, error)
    await refuse(connection, result)


def note_cancelled_tasks(connection: Connection) -> None:
    """Say why tasks end: a view that only starts them, and returns, is an easy mistake to make."""
    if connection.app_state is State.CONNECTED and not connection.messages_in:
        logger.warning(
            "The view at %s has ended, which cancels the tasks that it has started: let it wait "
            "for its client, with `async for _ in socket: pass`.",
            connection.path,
        )


async def hang_up(connection: Connection, code: int, reason: str = "") -> None:
    """Close the connection, and abort it once its client reads no more of what was sent."""
    connection.close_soon(code, reason.encode(errors="replace")[:123].decode(errors="ignore"))
    if connection.closing is None:
        return
    loop = asyncio.get_running_loop()
    deadline, unsent = loop.time() + LINGER, connection.link.count_unsent()
    while not (await asyncio.wait([connection.closing], timeout=conf.DISCONNECT_GRACE))[0]:
        before, unsent = unsent, connection.link.count_unsent()
        if unsent >= before or loop.time() >= deadline:
            connection.link.abort()
            return


def report(connection: Connection, error: Exception) -> None:
    """Report an exception raised after the accept, as Django does for its views."""
    try:
        raise error
    except Exception:
        signals.got_request_exception.send(sender=HandshakeHandler, request=connection.request)
        logger.exception(
            "Internal Server Error: %s (%s)",
            connection.path,
            name_of_user(connection.request),
            extra={"request": connection.request, "status_code": 500},
        )
