"""What a socket's groups send to it, without ever waiting for its client."""

from __future__ import annotations

import asyncio
import logging
import types
from collections import deque
from collections.abc import Awaitable, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any

from websocket import conf
from websocket.groups import Message, counters, get_hub
from websocket.protocol import State

if TYPE_CHECKING:
    from websocket.connection import WebSocket

logger = logging.getLogger("django.websocket")

# Looked up once: every delivery compares with it.
_CONNECTED = State.CONNECTED

# What next() returns where `send` has finished: quicker than to catch its StopIteration.
_SENT = object()


class Outbox:
    """A socket as a member of groups, and the messages that its client is too slow to take.

    For a client that keeps up, a message costs no task and no queue: the server's `send` is
    driven by hand, and finishes at once. Only where it has to wait, because the transport's
    buffer is full, does a task take over; what comes meanwhile waits here, within bounds.
    """

    def __init__(self, socket: WebSocket) -> None:
        self.id = socket.id
        self.socket = socket
        self.send_to_server = socket.send_to_server
        self.groups: set[str] = set()
        self.hub = get_hub()
        self.sender: asyncio.Task[None] | None = None
        self.size = 0
        self.waiting: deque[Message] = deque()
        self.is_dropping = False

    async def join(self, group: str) -> None:
        """Make the socket a member of a group, unless it ends meanwhile."""
        self.groups.add(group)
        try:
            await self.hub.join(group, self)
        except BaseException:
            self.leave(group)
            raise
        counters["joins"] += 1
        if group not in self.groups:
            self.hub.leave(group, self)

    def leave(self, group: str) -> None:
        self.groups.discard(group)
        self.hub.leave(group, self)

    def stop(self) -> None:
        """Leave all groups, and forget what is still to be sent."""
        while self.groups:
            self.leave(self.groups.pop())
        self.waiting.clear()
        self.size = 0
        if self.sender is not None:
            self.sender.cancel()

    def push(self, message: Message) -> None:
        """Send a message now, or as soon as the client has read what is before it."""
        if self.sender is not None:
            self.keep(message)
            return
        if self.socket.app_state is not _CONNECTED:
            return
        sending = self.send_to_server(message.event).__await__()
        try:
            future = next(sending, _SENT)
        except (OSError, RuntimeError):
            self.socket.lost()
            return
        if future is _SENT:
            self.socket.messages_out += 1
        else:
            # In a context of its own, which keeps nothing of the publisher's alive.
            rest = self.send(_resume(sending, future))
            self.sender = asyncio.get_running_loop().create_task(rest, context=Context())

    def keep(self, message: Message) -> None:
        """Keep a message for later; if that is too much, do as WEBSOCKET_SLOW_CLIENT says."""
        self.waiting.append(message)
        self.size += message.size
        # One message is kept however large it is: its data is there once, for all members.
        if self.size <= conf.OUTBOX_SIZE or len(self.waiting) == 1:
            return
        if conf.SLOW_CLIENT == "drop":
            if not self.is_dropping:
                logger.warning("%r is slow to read: messages to it are dropped.", self.socket)
                self.is_dropping = True
            while self.size > conf.OUTBOX_SIZE and len(self.waiting) > 1:
                self.size -= self.waiting.popleft().size
                counters["dropped"] += 1
        else:
            logger.warning("%r is slow to read: it is closed.", self.socket)
            counters["closed"] += 1
            self.stop()
            self.socket.close_soon(1013, "Too slow to read.", grace=0)

    async def send(self, first: Awaitable[None]) -> None:
        """Send what waits, as the sender task, until nothing does."""
        try:
            await first
            self.socket.messages_out += 1
            while self.waiting:
                message = self.waiting.popleft()
                self.size -= message.size
                await self.send_to_server(message.event)
                self.socket.messages_out += 1
        except (OSError, RuntimeError):
            self.socket.lost()
        finally:
            self.is_dropping = False
            self.sender = None


@types.coroutine
def _resume(step: Generator[Any, Any, None], future: Any) -> Generator[Any, Any, None]:
    """Go on awaiting what was driven up to the first future that it waits for."""
    try:
        while True:
            try:
                result = yield future
            except BaseException as error:
                future = step.throw(error)
            else:
                future = step.send(result)
    except StopIteration:
        return
