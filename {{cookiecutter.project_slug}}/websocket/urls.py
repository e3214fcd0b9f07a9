"""Socket views in the URLconf: all that Django's paths can do, because they are Django's."""

from __future__ import annotations

from typing import Any

from django.urls import URLPattern, path, re_path

from websocket.handshake import SocketView, upgrade


def websocket(
    route: str, view: SocketView, kwargs: dict[str, Any] | None = None, name: str | None = None
) -> URLPattern:
    """Return an element for `urlpatterns`, as `django.urls.path` does, for a socket view.

    The view is called with the socket, and with what the route captured and `kwargs` hold.
    Raises `TypeError` for a view that is not callable, or a class without its `as_view()`.
    """
    return path(route, upgrade(view), kwargs, name)


def re_websocket(
    route: str, view: SocketView, kwargs: dict[str, Any] | None = None, name: str | None = None
) -> URLPattern:
    """Return what `websocket` does, for a route that is a regular expression, as `re_path` does."""
    return re_path(route, upgrade(view), kwargs, name)
