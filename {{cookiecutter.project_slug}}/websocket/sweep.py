"""Check all open sockets once a second, instead of running a task or a timer for each."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import Protocol

from django.conf import settings

from websocket.threads import get_threads

logger = logging.getLogger("django.websocket")

#: Seconds between two looks.
INTERVAL = 1.0

#: Seconds by which a look may be late before that is worth a warning, while DEBUG is on.
LATE = 1.0


class Open(Protocol):
    """An open resource that needs regular checks."""

    def look(self) -> None:
        """Check whether there is something to do; called once a second."""


_open: dict[asyncio.AbstractEventLoop, set[Open]] = {}


def start() -> set[Open]:
    """Check the threads and the items in the returned set once a second, in the running loop."""
    loop = asyncio.get_running_loop()
    if loop not in _open:
        for ended in [loop for loop in _open if loop.is_closed()]:
            del _open[ended]
        _open[loop] = set()
        # In an empty context, so that the timer keeps no data of the first connection alive.
        due = loop.time() + INTERVAL
        loop.call_at(due, _look, loop, due, context=Context())
    return _open[loop]


def add(item: Open) -> None:
    """Check an item once a second, in the running event loop, until it is discarded."""
    start().add(item)


def discard(item: Open) -> None:
    """Stop checking an item."""
    _open[asyncio.get_running_loop()].discard(item)


def everything() -> list[Open]:
    """Return the items of all event loops in this process."""
    return [item for items in list(_open.values()) for item in list(items)]


def _look(loop: asyncio.AbstractEventLoop, due: float) -> None:
    """Check the items of an event loop, and the threads; repeat in a second."""
    look_again = True
    if settings.DEBUG and loop.time() > due + LATE:
        logger.warning(
            "Something blocked all sockets for more than a second, such as time.sleep() in an "
            "async view: write `await asyncio.sleep()`, or call slow functions with "
            "sync_to_async()."
        )
    try:
        for item in list(_open[loop]):
            try:
                item.look()
            except Exception:  # The other items still need their checks.
                logger.exception("Checking %r failed.", item)
        look_again = get_threads().look()
    finally:
        if look_again or _open[loop]:
            due = loop.time() + INTERVAL
            loop.call_at(due, _look, loop, due)
        else:
            del _open[loop]
