"""Stop in steps: say so to load balancers, close the sockets one after the other, then stop.

Left alone, uvicorn closes all sockets at once, and all their pages connect again at once.

At SIGTERM, `/health/ready` answers 503. For a moment, new handshakes are still served, because a
load balancer that asks every other second still sends them. Then they are refused with 503: a
balancer that looks for the process with the fewest sockets would send the pages whose sockets were
closed right back, to be closed again. Pages are served to the end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextvars import Context
from functools import partial
from typing import Final

from websocket import admission, conf, internals, sweep
from websocket.lookout import Lookout
from websocket.protocol import State

logger = logging.getLogger("django.websocket")

# Seconds before the first close, or a third of WEBSOCKET_DRAIN_SECONDS if that is less.
NOTICE: Final = 3.0

_task: asyncio.Task[None] | None = None


def has_begun() -> bool:
    """Return whether this process has been told to stop, and is closing its sockets."""
    return _task is not None


def prepare() -> None:
    """Stop in steps at SIGTERM, if WEBSOCKET_DRAIN_SECONDS is set; called at the startup."""
    if not conf.DRAIN_SECONDS:
        return
    if internals.open_connections() is None:
        logger.warning("WEBSOCKET_DRAIN_SECONDS has no effect: the server is not uvicorn.")
        return
    loop = asyncio.get_running_loop()
    # In an empty context: a signal may come while any task runs.
    internals.delay_stop(partial(loop.call_soon_threadsafe, _begin, context=Context()))


def _begin() -> None:
    global _task
    _task = asyncio.get_running_loop().create_task(_drain())


async def _drain() -> None:
    """Close the sockets, then let uvicorn stop: its handler of the signal is back in its place."""
    notice = min(NOTICE, conf.DRAIN_SECONDS / 3)
    logger.info("Stopping: the sockets are closed within %g s.", conf.DRAIN_SECONDS)
    try:
        await asyncio.sleep(notice)
        admission.get_queue().close()
        await _close_sockets(conf.DRAIN_SECONDS - notice)
    except Exception:
        logger.exception("The sockets could not be closed one after the other.")
    signal.raise_signal(signal.SIGTERM)


async def _close_sockets(seconds: float) -> None:
    """Close all open sockets with 1012, at equal intervals."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    connections = [item.connection for item in sweep.everything() if isinstance(item, Lookout)]
    for number, connection in enumerate(connections):
        delay = begun + number * seconds / len(connections) - loop.time()
        if delay > 0:  # Even a sleep of 0 s takes a turn of the event loop.
            await asyncio.sleep(delay)
        if connection.app_state is State.CONNECTED:
            connection.close_soon(1012, "The server is stopping; connect again.")
