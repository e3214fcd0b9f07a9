"""Requests that are not complete: uvicorn waits for them without limit, handshakes included."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any, Final

from websocket import internals
from websocket.counters import counters

logger = logging.getLogger("django.websocket")

# Seconds that a client has to send a request's headers, as nginx gives it by default.
TIMEOUT: Final = 60.0


class Pending:
    """A look, once a second, at all of a server's connections, sockets or not."""

    def __init__(self, connections: Collection[Any]) -> None:
        self.connections = connections
        #: When each connection whose request is not complete was first seen so.
        self.since: dict[Any, float] = {}

    def look(self) -> None:
        now = time.monotonic()
        connections = list(self.connections)
        for connection in filter(internals.is_unreadable, connections):
            status = internals.refuse_unreadable(connection)
            counters[f"handshake {status}"] += 1
            address = (connection.client or "-")[0]
            logger.warning("A handshake from %s was refused: %s, unreadable.", address, status)
        unfinished = filter(internals.is_unfinished, connections)
        self.since = {connection: self.since.get(connection, now) for connection in unfinished}
        for connection, since in self.since.items():
            if now - since >= TIMEOUT:
                internals.abort(connection.transport)
