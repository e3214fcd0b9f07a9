"""Close many sockets one after the other, so that not all their clients come back at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Final

# Seconds between two.
PAUSE: Final = 0.005

_waiting: dict[asyncio.AbstractEventLoop, deque[Callable[[], None]]] = {}


def call_in_turn(function: Callable[[], None]) -> None:
    """Call a function after those that wait, in the running event loop."""
    loop = asyncio.get_running_loop()
    for ended in [loop for loop in _waiting if loop.is_closed()]:
        del _waiting[ended]
    waiting = _waiting.setdefault(loop, deque())
    waiting.append(function)
    if len(waiting) == 1:
        loop.call_soon(_next, loop, waiting, context=Context())


def _next(loop: asyncio.AbstractEventLoop, waiting: deque[Callable[[], None]]) -> None:
    try:
        waiting[0]()
    finally:
        waiting.popleft()
        if waiting:
            loop.call_later(PAUSE, _next, loop, waiting, context=Context())
