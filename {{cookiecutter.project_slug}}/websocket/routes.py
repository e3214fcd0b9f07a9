"""List the sockets; find the page or the socket at a path that has both, and run that page."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from asgiref.sync import async_to_sync
from django.core.handlers.base import BaseHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, URLPattern, URLResolver, get_resolver
from django.urls.exceptions import Resolver404
from django.urls.resolvers import LocalePrefixPattern

from websocket import internals


def find(request: HttpRequest, *, sockets: bool) -> ResolverMatch | None:
    """Return the first match for a request's path among all sockets, or among all pages."""
    resolver = get_resolver(getattr(request, "urlconf", None))
    try:
        return _narrow(resolver, sockets).resolve(request.path_info)
    except Resolver404:
        return None


@functools.lru_cache(maxsize=128)
def _narrow(resolver: URLResolver, sockets: bool) -> URLResolver:
    """Return a copy of a resolver that has only its sockets, or only its pages."""
    copied = copy.copy(resolver)
    copied.url_patterns = [
        _narrow(pattern, sockets) if isinstance(pattern, URLResolver) else pattern
        for pattern in resolver.url_patterns
        if isinstance(pattern, URLResolver) or is_socket(pattern.callback) == sockets
    ]
    return copied


def is_socket(view: object) -> bool:
    """Return whether a view in the URLconf was mounted with `websocket()`."""
    return hasattr(view, "socket_view")


def is_mistaken(request: HttpRequest) -> bool:
    """Return whether a plain request was a handshake before a server or a proxy changed it."""
    upgrade = request.META.get("HTTP_UPGRADE", "").lower()
    return upgrade == "websocket" or "HTTP_SEC_WEBSOCKET_KEY" in request.META


def get_page(handler: BaseHandler, request: HttpRequest) -> HttpResponseBase | None:
    """Run the page at the path of a socket that Django has found first, as Django would.

    Returns None if there is no page, and for a handshake that has become a plain request: its
    client cannot use one.
    """
    page = None if is_mistaken(request) else find(request, sockets=False)
    if page is None:
        return None
    request.resolver_match = page
    for method in internals.view_middleware(handler):
        if (refusal := method(request, *page)) is not None:
            return refusal
    result: Any = handler.make_view_atomic(page.func)(request, *page.args, **page.kwargs)
    response: HttpResponseBase
    response = async_to_sync(_wait)(result) if isinstance(result, Coroutine) else result
    handler.check_response(response, page.func)
    return response


async def _wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


def sockets(
    resolver: URLResolver, route: str, namespace: str = ""
) -> Iterator[tuple[str, Callable[..., Any], str]]:
    """Yield the URL, the view and the name of each socket, in the order of the URLconf."""
    for pattern in resolver.url_patterns:
        whole = route + route_of(pattern)
        if isinstance(pattern, URLResolver):
            inner = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from sockets(pattern, whole, inner)
        elif (view := getattr(pattern.callback, "socket_view", None)) is not None:
            name = f"{namespace}{pattern.name}" if pattern.name else ""
            yield whole, view, name


def route_of(pattern: URLPattern | URLResolver) -> str:
    """Return the part of the URL that a pattern matches, a regular expression without its ends."""
    own = pattern.pattern
    if isinstance(own, LocalePrefixPattern):
        return "<language>/" if own.prefix_default_language else "[<language>/]"
    return str(own).removeprefix("^").removesuffix("$")
