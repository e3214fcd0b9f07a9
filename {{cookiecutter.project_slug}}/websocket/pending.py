"""Incomplete requests, including handshakes, for which uvicorn waits without limit."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any, Final

from websocket import internals
from websocket.counters import counters

logger = logging.getLogger("django.websocket")

# Seconds that a client has to send a request's headers (the default of nginx).
TIMEOUT: Final = 60.0


class Pending:
    """Checks all of a server's connections once a second, sockets or not."""

    def __init__(self, connections: Collection[Any]) -> None:
        self.connections = connections
        #: The time at which each connection was first seen with an incomplete request.
        self.since: dict[Any, float] = {}

    def look(self) -> None:
        now = time.monotonic()
        connections = list(self.connections)
        for connection in filter(internals.is_unreadable, connections):
            status, address = internals.refuse_unreadable(connection)
            counters[f"handshake {status}"] += 1
            logger.warning("A handshake from %s was refused: %s, unreadable.", address, status)
        unfinished = filter(internals.is_unfinished, connections)
        self.since = {connection: self.since.get(connection, now) for connection in unfinished}
        for connection, since in self.since.items():
            if now - since >= TIMEOUT:
                internals.drop_unfinished(connection)
