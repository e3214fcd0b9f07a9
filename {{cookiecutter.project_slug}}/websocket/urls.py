"""Mount socket views in the URLconf, as `django.urls` mounts pages."""

from __future__ import annotations

from typing import Any

from django.urls import URLPattern, path, re_path

from websocket.handshake import SocketView, upgrade

__all__ = ["re_websocket", "websocket"]


def websocket(
    route: str, view: SocketView, kwargs: dict[str, Any] | None = None, name: str | None = None
) -> URLPattern:
    """Return an element for `urlpatterns`, as `django.urls.path` does, for a socket view.

    The view is called with the socket, the arguments that the route captures, and `kwargs`.
    Raises `TypeError` for a view that is not callable, or a class without its `as_view()`.
    """
    return path(route, upgrade(view), kwargs, name)


def re_websocket(
    route: str, view: SocketView, kwargs: dict[str, Any] | None = None, name: str | None = None
) -> URLPattern:
    """Return an element for `urlpatterns` as `websocket` does, for a regular expression."""
    return re_path(route, upgrade(view), kwargs, name)
