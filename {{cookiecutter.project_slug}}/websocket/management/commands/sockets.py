"""List the sockets in the URLconf: `manage.py sockets`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand
from django.urls import URLPattern, URLResolver, get_resolver, get_script_prefix
from django.urls.resolvers import LocalePrefixPattern

from websocket.console import name_of


class Command(BaseCommand):
    help = "List the URLs of sockets, with their views and names."

    def handle(self, *args: Any, **options: Any) -> None:
        rows = list(sockets(get_resolver(), get_script_prefix()))
        if not rows:
            self.stderr.write("The URLconf has no sockets: mount one with websocket().")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())


def sockets(
    resolver: URLResolver, route: str, namespace: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yield the URL, the view and the name of each socket, in the order of the URLconf."""
    for pattern in resolver.url_patterns:
        whole = route + route_of(pattern)
        if isinstance(pattern, URLResolver):
            inner = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from sockets(pattern, whole, inner)
        elif hasattr(pattern.callback, "socket_view"):
            name = f"{namespace}{pattern.name}" if pattern.name else ""
            yield whole, name_of(pattern.callback.socket_view), name


def route_of(pattern: URLPattern | URLResolver) -> str:
    """Return the part of the URL that a pattern matches, a regular expression without its ends."""
    own = pattern.pattern
    if isinstance(own, LocalePrefixPattern):
        return "<language>/" if own.prefix_default_language else "[<language>/]"
    return str(own).removeprefix("^").removesuffix("$")
