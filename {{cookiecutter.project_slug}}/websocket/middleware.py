"""ASGI middleware that routes WebSockets to Django's URLconf and handles the lifespan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.urls import get_resolver, set_script_prefix

from websocket import conf, drain, groups, internals, logins, streams, sweep
from websocket.admission import get_queue
from websocket.handshake import HandshakeHandler, SwitchingProtocols, get_handler, omit_refusal
from websocket.lifecycle import run
from websocket.link import Link
from websocket.pending import Pending
from websocket.protocol import Receive, Scope, Send
from websocket.refusal import refuse
from websocket.state import Connection
from websocket.threads import enter_handshake_thread, enter_shared_thread

__all__ = ["websockets"]

Application = Callable[[Any, Any, Any], Awaitable[None]]

# Seconds after which a client that found no place is told to try again.
RETRY_AFTER: Final = 5

handle_in_thread = sync_to_async(HandshakeHandler.handle)


def websockets(app: Application) -> Application:
    """Wrap an ASGI application: route WebSockets to views in the URLconf, and all else to `app`.

    The lifespan is handled here, because Django does not support it. The WEBSOCKET_ settings are
    checked, and middleware and the URLconf are loaded at once: a mistake fails at startup, not
    during a handshake. Raises `ImproperlyConfigured` for a setting that is not valid.
    """
    errors = conf.errors()
    if not apps.is_installed("websocket"):
        errors.append('INSTALLED_APPS lacks "websocket": a logout would not close sockets.')
    if errors:
        raise ImproperlyConfigured(" ".join(errors))
    get_handler()
    _ = get_resolver().url_patterns  # Imports the URLconf, and with it the views.
    logging.getLogger("asyncio").addFilter(internals.excuse_bad_frames)
    logging.getLogger("django.request").addFilter(omit_refusal)
    logging.getLogger("uvicorn.error").addFilter(internals.excuse_bad_text)
    internals.lift_header_limits()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if not (hub := groups.get_hub()).is_serving:
            hub.serve(enter_shared_thread)
        if scope["type"] == "websocket":
            await (await shake_hands(scope, receive, send))
        elif scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await streams.serve(app, scope, receive, send)

    application.serves_websockets = True  # type: ignore[attr-defined]  # For websocket.checks.
    return application


async def lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's startup and shutdown (ASGI, "Lifespan protocol")."""
    connections = internals.open_connections()
    if connections is not None:
        sweep.add(Pending(connections))
    drain.prepare()
    while True:
        event = await receive()
        if event["type"] == "lifespan.shutdown":
            await groups.close_hub()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


async def shake_hands(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Handle a handshake; return an awaitable that runs the view or refuses the handshake.

    The caller awaits it, so that an open socket does not keep this coroutine and its locals.
    """
    link = Link(send)
    link.pause()
    sweep.start()  # It also looks after the threads.
    queue = get_queue()
    if not await queue.enter(link):
        return turn_away(Connection(scope, receive, send))
    try:
        since = await logins.listen()
        enter_handshake_thread()
        if script_name := settings.FORCE_SCRIPT_NAME or scope.get("root_path"):
            set_script_prefix(script_name)
        handler = get_handler()
        if handler.needs_thread:
            connection, response = await handle_in_thread(handler, scope, receive, send)
        else:
            connection, response = handler.handle(scope, receive, send)
    finally:
        queue.leave()
    if not isinstance(response, SwitchingProtocols):
        return refuse(connection, response)
    enter_shared_thread()
    return run(connection, response.take_view(), since)


async def turn_away(connection: Connection) -> None:
    """Refuse a handshake that the queue has no place for, without a request or its middleware."""
    if connection.link.is_closing():
        await asyncio.sleep(0)  # Let uvicorn note that the client has left.
        return
    response = HttpResponse("Try again later.", status=503, content_type="text/plain")
    response["Retry-After"] = RETRY_AFTER
    await refuse(connection, response)
