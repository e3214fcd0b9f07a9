"""Read ahead for a view that does not receive.

A server stops reading from a connection if its messages are not received. It then misses pongs, and
closes the connection, or misses that the client has left, and the view goes on without a client. A
view that waits for its client never needs this: its own `receive()` reads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from websocket.counters import counters
from websocket.protocol import Event, Receive, ReceiveEvent, size_of

# The approximate bytes to keep an event besides its data: empty messages can flood too.
OVERHEAD: Final = 512

# Bytes of messages to keep, or one message if it is larger; then the client has to wait.
SIZE: Final = 64 * 1024


class Inbox:
    """The events that arrived while a view did not receive, and the task that reads them.

    `receive` is the server's; `arrived` is called with each event that was read ahead.
    """

    def __init__(self, receive: Receive, arrived: Callable[[Event], None]) -> None:
        self.server_receive = receive
        self.arrived = arrived
        self.events: deque[Event] = deque()
        self.reader: asyncio.Task[None] | None = None
        self.size = 0
        self.full_since = 0.0
        #: Whether the view waits for an event.
        self.is_wanted = False
        #: Whether messages are dropped, because the view only pushes.
        self.is_discarding = False

    def read_ahead(self) -> None:
        """Read until the view receives again, the inbox is full, or the client has left."""
        if self.reader is None and not self._is_full():
            self.reader = asyncio.create_task(self._read())

    def seconds_full(self) -> float:
        """Return the seconds for which the client has had to wait."""
        return time.monotonic() - self.full_since if self._is_full() else 0.0

    def discard(self) -> None:
        """Drop the messages that are kept, and those that arrive until the view receives."""
        self.is_discarding = True
        counters["unread"] += len(self.events)
        self.events.clear()
        self.size = 0
        self.read_ahead()

    def stop(self) -> None:
        """Stop reading for good."""
        if self.reader is not None:
            self.reader.cancel()

    def is_empty(self) -> bool:
        """Return whether nothing is kept and nothing is being read."""
        return not self.events and self.reader is None

    async def receive(self) -> Event:
        """Return the oldest event, or wait for the next one. Canceling is safe: none is lost."""
        self.is_discarding = False
        self.is_wanted = True
        try:
            if not self.events and self.reader is not None:
                # Now that the view waits, the reader ends after one event.
                await asyncio.wait([self.reader])
            if not self.events:
                return await self.server_receive()
        finally:
            self.is_wanted = False
        event = self.events.popleft()
        self.size -= size_of(event) + OVERHEAD
        return event

    async def _read(self) -> None:
        try:
            while not (self.is_wanted or self._is_full()):
                event = await self.server_receive()
                self.arrived(event)
                if self.is_discarding and event["type"] == ReceiveEvent.RECEIVE:
                    counters["unread"] += 1
                    continue
                self.events.append(event)
                self.size += size_of(event) + OVERHEAD
                self.full_since = time.monotonic()  # If this event has filled it.
                if event["type"] == ReceiveEvent.DISCONNECT:
                    return
        finally:
            self.reader = None

    def _is_full(self) -> bool:
        return self.size >= SIZE
