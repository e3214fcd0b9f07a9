"""Resolve a path to a socket or to a page, where the URLconf has both for it."""

from __future__ import annotations

import copy
import functools

from django.http import HttpRequest
from django.urls import ResolverMatch, URLResolver, get_resolver
from django.urls.exceptions import Resolver404


def find(request: HttpRequest, *, sockets: bool) -> ResolverMatch | None:
    """Return the first match for a request's path among all sockets, or among all pages."""
    resolver = get_resolver(getattr(request, "urlconf", None))
    try:
        return narrow(resolver, sockets).resolve(request.path_info)
    except Resolver404:
        return None


@functools.lru_cache(maxsize=128)
def narrow(resolver: URLResolver, sockets: bool) -> URLResolver:
    """Return a copy of a resolver that has only its sockets, or only its pages."""
    copied = copy.copy(resolver)
    copied.url_patterns = [
        narrow(pattern, sockets) if isinstance(pattern, URLResolver) else pattern
        for pattern in resolver.url_patterns
        if isinstance(pattern, URLResolver) or is_socket(pattern.callback) == sockets
    ]
    return copied


def is_socket(view: object) -> bool:
    """Return whether a view in the URLconf was mounted with `websocket()`."""
    return hasattr(view, "socket_view")
