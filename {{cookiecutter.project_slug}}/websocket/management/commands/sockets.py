"""List the sockets in the URLconf: `manage.py sockets`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand
from django.urls import get_resolver, get_script_prefix

from websocket.console import name_of
from websocket.routes import sockets


class Command(BaseCommand):
    help = "List the URLs of sockets, with their views and names."

    def handle(self, *args: Any, **options: Any) -> None:
        found = sockets(get_resolver(), get_script_prefix())
        rows = [(url, name_of(view), name) for url, view, name in found]
        if not rows:
            self.stderr.write("The URLconf has no sockets: mount one with websocket().")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())
