"""One look a second at all open sockets, in place of a task or a timer for each of them."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import Protocol

from websocket.threads import get_threads

logger = logging.getLogger("django.websocket")

#: Seconds between two looks.
INTERVAL = 1.0


class Open(Protocol):
    """Something open that has to be looked at."""

    def look(self) -> None:
        """Look whether something has to be done; called once a second."""


_open: dict[asyncio.AbstractEventLoop, set[Open]] = {}


def start() -> set[Open]:
    """Look once a second, in the running event loop, at the threads and at what is in this set."""
    loop = asyncio.get_running_loop()
    if loop not in _open:
        for ended in [loop for loop in _open if loop.is_closed()]:
            del _open[ended]
        _open[loop] = set()
        # In a context of its own, which keeps nothing of the first connection's alive.
        loop.call_later(INTERVAL, _look, loop, context=Context())
    return _open[loop]


def add(item: Open) -> None:
    """Look at something once a second, in the running event loop, until it is discarded."""
    start().add(item)


def discard(item: Open) -> None:
    """Look at it no more."""
    _open[asyncio.get_running_loop()].discard(item)


def everything() -> list[Open]:
    """Return what is open in this process, in all its event loops."""
    return [item for items in list(_open.values()) for item in list(items)]


def _look(loop: asyncio.AbstractEventLoop) -> None:
    """Look at what is open in a loop, and at the threads; then again in a second."""
    look_again = True
    try:
        for item in list(_open[loop]):
            try:
                item.look()
            except Exception:  # It must not keep the others from being looked at.
                logger.exception("Looking at %r failed.", item)
        look_again = get_threads().look()
    finally:
        if look_again or _open[loop]:
            loop.call_later(INTERVAL, _look, loop)
        else:
            del _open[loop]
