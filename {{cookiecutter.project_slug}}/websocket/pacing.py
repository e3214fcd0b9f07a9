"""Close many sockets one after the other, so that not all their clients come back at once."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Final

logger = logging.getLogger("django.websocket")

# Seconds between two.
PAUSE: Final = 0.005

_waiting: dict[asyncio.AbstractEventLoop, deque[Callable[[], bool]]] = {}


def call_in_turn(function: Callable[[], bool]) -> None:
    """Call a function now, or after those that wait, in the running event loop.

    It returns whether it has closed a socket: if not, the next one is called without a pause.
    """
    loop = asyncio.get_running_loop()
    if (waiting := _waiting.get(loop)) is not None:
        waiting.append(function)
        return
    for ended in [loop for loop in _waiting if loop.is_closed()]:
        del _waiting[ended]
    _waiting[loop] = deque([function])
    _call_next(loop)


def _call_next(loop: asyncio.AbstractEventLoop) -> None:
    waiting = _waiting[loop]
    while waiting:
        function = waiting.popleft()
        try:
            has_closed = function()
        except Exception:  # The other sockets still have to close.
            logger.exception("Closing a socket failed: %r", function)
            continue
        if has_closed:
            # In an empty context, so that the timer keeps no data of a connection alive.
            loop.call_later(PAUSE, _call_next, loop, context=Context())
            return
    del _waiting[loop]
