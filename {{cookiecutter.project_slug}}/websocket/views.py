"""Class-based socket views, and a decorator for all socket views."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from django.http.response import HttpResponseBase
from django.views import View

from websocket.connection import InvalidMessage, State, WebSocket
from websocket.protocol import decode_json

__all__ = ["WebSocketView", "origin_exempt"]

P = ParamSpec("P")
R = TypeVar("R")


def origin_exempt(view: Callable[P, R]) -> Callable[P, R]:
    """Allow pages of any origin to open this view's sockets, with their visitors' cookies.

    Use it for views that are public or check a token of their own. On a class, write
    `@method_decorator(origin_exempt, name="dispatch")`.
    """

    @functools.wraps(view)  # A new function: the view itself is not exempt if mounted elsewhere.
    def exempt(*args: P.args, **kwargs: P.kwargs) -> R:
        return view(*args, **kwargs)

    exempt.origin_exempt = True  # type: ignore[attr-defined]
    return exempt


class WebSocketView(View):
    """A socket view as a class: override `connect`, `receive` or `receive_json`, and `disconnect`.

    Each connection has its own instance, with `socket`, `request` (the handshake), `args` and
    `kwargs`. Django's access mixins, such as `LoginRequiredMixin`, work on it.
    """

    socket: WebSocket

    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """Set `socket` and, as Django's views do, `request`, `args` and `kwargs`.

        Raises `TypeError` for a view that is mounted as a page.
        """
        if not isinstance(request, WebSocket):
            raise TypeError("Mount a WebSocketView with websocket(), not with path().")
        self.socket = request
        super().setup(self.socket.request, *args, **kwargs)
        # Bind the socket to its user. Mixins do not: they read request.user.
        getattr(self.socket, "user", None)

    async def dispatch(  # type: ignore[override]
        self, request: Any, *args: Any, **kwargs: Any
    ) -> HttpResponseBase | None:
        """Call `connect`, `receive` for each message, then `disconnect`."""
        try:
            refusal = await self.connect(*args, **kwargs)
            if refusal is None:
                async for message in self.socket:
                    await self.receive(message)
            return refusal
        finally:
            # After a refusal there is nothing to clean up.
            if self.socket.app_state is not State.CONNECTING:
                await self.disconnect(self.socket.close_code or 1006)

    async def connect(self, *args: Any, **kwargs: Any) -> HttpResponseBase | None:
        """Accept the socket, or return an `HttpResponse` to refuse it.

        Called with the arguments captured from the URL.
        """
        await self.socket.accept()
        return None

    async def receive(self, message: str | bytes) -> None:
        """Handle one message: str for text, bytes for binary.

        Unless it is overridden, it decodes the message for `receive_json`, if that is overridden,
        and raises `InvalidMessage` for bytes and for anything but JSON.
        """
        if type(self).receive_json is not WebSocketView.receive_json:
            if isinstance(message, bytes):
                raise InvalidMessage("Expected a text message, and got a binary one.", 1003)
            await self.receive_json(decode_json(message))

    async def receive_json(self, data: Any) -> None:
        """Handle one message's value, decoded from JSON in a text frame."""

    async def disconnect(self, code: int) -> None:
        """Clean up after the connection; called with its close code, however it ended.

        It is not called if `connect` refused the handshake. It is called if `connect` failed after
        the accept, or if the client left meanwhile: then `connect` may not have finished.
        """
