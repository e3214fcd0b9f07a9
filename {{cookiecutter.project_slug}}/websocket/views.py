"""Class-based socket views, and decorators for socket views of both kinds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from django.http.response import HttpResponseBase
from django.views import View

from websocket.connection import WebSocket

P = ParamSpec("P")
R = TypeVar("R")


def origin_exempt(view: Callable[P, R]) -> Callable[P, R]:
    """Let pages of every origin open this view's sockets, with their visitors' cookies.

    For what is public, or asks for a token of its own. On a class:
    `@method_decorator(origin_exempt, name="dispatch")`.
    """

    @functools.wraps(view)  # A new function: elsewhere the view may be mounted without it.
    def exempt(*args: P.args, **kwargs: P.kwargs) -> R:
        return view(*args, **kwargs)

    exempt.origin_exempt = True  # type: ignore[attr-defined]
    return exempt


class WebSocketView(View):
    """A socket view as a class: override `connect`, `receive` and `disconnect`.

    There is one instance for each connection, with `socket`, `request` (the handshake), `args`
    and `kwargs`. Django's mixins for access, such as `LoginRequiredMixin`, work on it.
    """

    socket: WebSocket

    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """Take the socket where Django's views take a request."""
        self.socket = request
        super().setup(self.socket.request, *args, **kwargs)
        # Mixins ask the request for its user, where nobody sees it: see `WebSocket.user`.
        getattr(self.socket, "user", None)

    async def dispatch(  # type: ignore[override]
        self, request: Any, *args: Any, **kwargs: Any
    ) -> HttpResponseBase | None:
        """Connect, receive until the client leaves, disconnect; return a response that refuses."""
        refusal = await self.connect(*args, **kwargs)
        if refusal is not None:
            return refusal
        try:
            async for message in self.socket:
                await self.receive(message)
        finally:
            await self.disconnect(self.socket.close_code or 1006)
        return None

    async def connect(self, *args: Any, **kwargs: Any) -> HttpResponseBase | None:
        """Accept the socket, or return an `HttpResponse` to refuse it.

        Called with what the URL captured.
        """
        await self.socket.accept()
        return None

    async def receive(self, message: str | bytes) -> None:
        """Handle one message: str for text, bytes for binary."""

    async def disconnect(self, code: int) -> None:
        """Clean up after a connection that `connect` did not refuse, with its close code."""
