"""Reading for a view that does not.

A server stops reading a connection whose messages nobody takes. Then it sees neither the pong, so
that it kills the connection, nor the client leave, so that the view goes on for nobody. A view
that waits for its client never comes here: its own `receive()` is what reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from websocket import conf
from websocket.protocol import Event, ReceiveEvent, size_of

if TYPE_CHECKING:
    from websocket.connection import WebSocket

# What it costs to keep an event beside its data, roughly: a flood of empty messages is one too.
OVERHEAD: Final = 512


class Inbox:
    """The events that came while a view did not receive, and the task that reads them.

    It reads on until it holds WEBSOCKET_MAX_MESSAGE_SIZE; then the client has to wait for the
    view. Where the view has never received anything, what is beyond that is dropped instead: such
    a view only pushes.
    """

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.events: deque[Event] = deque()
        self.reader: asyncio.Task[None] | None = None
        self.size = 0

    def start(self) -> None:
        """Read until the view receives again, the inbox is full, or the client has left."""
        if self.reader is None and not self.is_full():
            self.reader = asyncio.create_task(self.read())

    async def stop(self) -> None:
        """Stop reading, for good."""
        if self.reader is not None:
            self.reader.cancel()
            await asyncio.wait([self.reader])

    async def receive(self) -> Event:
        """Return the oldest event, or wait for the next one."""
        if not self.events and self.reader is not None:
            await asyncio.wait([self.reader])  # Now that the view receives, it reads just one.
        if not self.events:
            return await self.socket.receive_from_server()
        event = self.events.popleft()
        self.size -= size_of(event) + OVERHEAD
        return event

    async def read(self) -> None:
        """Read events from the server, as the reader task."""
        try:
            while not (self.socket.is_receiving or self.is_full()):
                event = await self.socket.receive_from_server()
                if event["type"] == ReceiveEvent.DISCONNECT:
                    self.socket.client_left(event)
                    self.keep(event)
                    return
                if size_of(event) > conf.MAX_MESSAGE_SIZE:
                    self.socket.close_too_large(event)
                elif self.size < conf.MAX_MESSAGE_SIZE:
                    self.keep(event)
        finally:
            self.reader = None

    def keep(self, event: Event) -> None:
        self.events.append(event)
        self.size += size_of(event) + OVERHEAD

    def is_full(self) -> bool:
        return self.size >= conf.MAX_MESSAGE_SIZE and self.socket.messages_in > 0
