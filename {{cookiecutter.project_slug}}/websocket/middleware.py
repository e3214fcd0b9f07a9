"""The ASGI middleware: WebSockets go to Django's URLconf, the lifespan is handled here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.urls import set_script_prefix

from websocket import conf, groups, internals, logins, sweep
from websocket.handshake import HandshakeHandler, SwitchingProtocols, get_handler
from websocket.lifecycle import run
from websocket.link import Link
from websocket.pending import Pending
from websocket.protocol import Receive, Scope, Send
from websocket.refusal import refuse
from websocket.threads import enter_handshake_thread, enter_shared_thread

Application = Callable[[Any, Any, Any], Awaitable[None]]

handle_in_thread = sync_to_async(HandshakeHandler.handle)


def websockets(app: Application) -> Application:
    """Wrap an ASGI application: WebSockets go to their views in the URLconf, all else to `app`.

    The lifespan is handled here, because Django does not support it. The WEBSOCKET_ settings are
    checked and middleware is loaded at once: a mistake in them stops the start, not a handshake.
    """
    if errors := conf.errors():
        raise ImproperlyConfigured(" ".join(errors))
    get_handler()
    logging.getLogger("asyncio").addFilter(internals.excuse_bad_frames)
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
    server = internals.uvicorn_server()
    if server is not None:
        sweep.add(Pending(server.server_state.connections))
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
    Link(send).pause()
    sweep.start()  # It also looks after the threads.
    enter_handshake_thread()
    if script_name := settings.FORCE_SCRIPT_NAME or scope.get("root_path"):
        set_script_prefix(script_name)
    since = await logins.listen()
    handler = get_handler()
    if handler.needs_thread:
        socket, response = await handle_in_thread(handler, scope, receive, send)
    else:
        socket, response = handler.handle(scope, receive, send)
    if not isinstance(response, SwitchingProtocols):
        return refuse(socket, response)
    enter_shared_thread()
    return run(socket, response.take_view(), since)
