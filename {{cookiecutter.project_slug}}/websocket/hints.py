"""Hints for mistakes whose exceptions do not say what to do, as notes at their tracebacks' end."""

from __future__ import annotations

import re
import sys
from types import TracebackType
from typing import Any, Final

from django.core.signals import got_request_exception
from django.dispatch import receiver
from django.http import HttpRequest

from websocket.connection import WebSocket

# How the exceptions' texts begin, and what to do.
_HINTS: Final = {
    r"'WebSocket' object is not iterable": "Write `async for message in socket`.",
    r"'async for' requires .* got coroutine": (
        "One message is `await socket.receive_text()`, all of them are `async for text in "
        "socket.iter_text()`."
    ),
    r"(object )?'?async_generator'? .*await": (
        "Write `async for text in socket.iter_text()`, without `await`."
    ),
    r"(object )?'?NoneType'? .*await": (
        "Only what an async function returns can be awaited: write `await apublish()` in place of "
        "`await publish()`, and `async def` for the methods of a WebSocketView."
    ),
    r"(object )?'?\w*QuerySet'? .*await": (
        "Write `[row async for row in queryset]`, or use an async method such as `acount()`."
    ),
    r"Object of type coroutine is not JSON": "Write `await` before the call.",
    r"Object of type \w+ is not JSON": (
        "JSON has dicts, lists, strings and numbers: of a model instance, send the fields that the "
        "page needs."
    ),
    r"WebSocket\.send\(\) got an unexpected": "Use send_text(), send_bytes() or send_json().",
    r"You cannot call this from an async context": (
        "Use async methods, such as `await queryset.acount()` and `await session.asave()`."
    ),
    r"Missing staticfiles manifest entry": "Run `python manage.py collectstatic`.",
    r"no such table|relation .* does not exist": "Run `python manage.py migrate`.",
}

_ARGUMENTS: Final = re.compile(r"[\w.<>]+\(\) (takes|missing|got an unexpected)")

# Attributes of sockets that requests lack.
_OF_SOCKETS: Final = ("accept", "iter_", "join", "receive", "reject", "send")


@receiver(got_request_exception)
def add_hint(sender: Any, **kwargs: Any) -> None:
    """Add a note to the exception of a view, if there is a hint for it."""
    error = sys.exc_info()[1]
    if isinstance(error, Exception) and (hint := find_hint(error)):
        error.add_note(hint)


def find_hint(error: Exception) -> str | None:
    """Return what to do about an exception, or None if its own text has to suffice."""
    text = str(error)
    if isinstance(error, AttributeError):
        return _of_mix_up(error)
    if _ARGUMENTS.match(text) and _module_of(error.__traceback__) == "websocket.handshake":
        return "A socket view takes the socket, and the arguments that its route captures."
    return next((hint for start, hint in _HINTS.items() if re.match(start, text)), None)


def _of_mix_up(error: AttributeError) -> str | None:
    """Return a hint for a view that takes a socket for a request, or vice versa."""
    if isinstance(error.obj, HttpRequest) and (error.name or "").startswith(_OF_SOCKETS):
        return "Mount a socket view with websocket(), not with path()."
    if isinstance(error.obj, WebSocket) and error.name in dir(error.obj.request):
        return (
            "A socket is not a request: use `socket.request`, or mount a page's view with path()."
        )
    return None


def _module_of(traceback: TracebackType | None) -> str:
    """Return the name of the module in which an exception was raised."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__"))
