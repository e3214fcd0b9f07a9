"""Groups in the memory of one process."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from websocket.counters import counters
from websocket.groups.message import Member, Message

logger = logging.getLogger("django.websocket")

# Messages that a thread may publish before it is slowed down to what the event loop can deliver.
_MAX_BACKLOG: Final = 1000

#: The hub of each event loop of this process.
hubs: dict[asyncio.AbstractEventLoop, Hub] = {}

# Reentrant, because a signal handler may publish while its thread holds the lock.
_lock = threading.RLock()


class Hub:
    """The groups of one event loop, and their members. It closes with the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.members: dict[str, dict[Member, None]] = {}
        #: Whether the event loop serves sockets.
        self.is_serving = False
        #: What is still to be done for threads that do not wait for it.
        self.backlog: deque[Callable[[], None]] = deque()
        hubs[self.loop] = self
        # Run to its first yield, the generator is known to the loop, which ends it.
        self._end = self._close_with_loop()
        with suppress(StopIteration):
            self._end.asend(None).send(None)

    @classmethod
    def ping(cls) -> None:
        """Check that messages can be published."""

    @classmethod
    def can_publish(cls) -> bool:
        """Return whether a message that this process publishes can reach a socket."""
        return any(hub.is_serving for hub in list(hubs.values()))

    @classmethod
    def publish(cls, group: str, message: Message, exclude: str | None) -> None:
        """Publish a message from any thread, which is slowed down if it is far ahead."""
        cls._warn_unless_serving(group)
        for hub in list(hubs.values()):
            hub.deliver_soon(group, message, exclude)
            if len(hub.backlog) > _MAX_BACKLOG and not _is_loop_running():
                time.sleep(0.01)

    async def apublish(self, group: str, message: Message, exclude: str | None) -> None:
        """Publish a message from the hub's event loop."""
        self._warn_unless_serving(group)
        await self.caught_up()
        for hub in list(hubs.values()):
            (hub.deliver if hub is self else hub.deliver_soon)(group, message, exclude)
        # Yield, so that a publishing loop does not starve writes.
        await asyncio.sleep(0)

    @classmethod
    def _warn_unless_serving(cls, group: str) -> None:
        if not cls.can_publish():
            logger.warning(
                "A message to the group %r reached nobody: this process serves no sockets, and "
                "without REDIS_URL it cannot reach the one that does.",
                group,
            )

    def add(self, group: str, member: Member) -> None:
        """Add a member; what is published reaches it soon."""
        self.members.setdefault(group, {})[member] = None

    async def join(self, group: str, member: Member) -> None:
        """Add a member; what is published once this returns reaches it."""
        await self.caught_up()
        self.add(group, member)

    def leave(self, group: str, member: Member) -> None:
        """Remove a member, if it is one."""
        members = self.members.get(group, {})
        members.pop(member, None)
        if not members:
            self.members.pop(group, None)

    def deliver(self, group: str, message: Message, exclude: str | None) -> None:
        """Hand a message to the members of a group; none can make the others wait."""
        members = tuple(self.members.get(group, ()))
        if exclude is not None:
            members = tuple(member for member in members if member.id != exclude)
        counters["deliveries"] += len(members)
        for member in members:
            member.push(message)

    def deliver_soon(self, group: str, message: Message, exclude: str | None) -> None:
        """Deliver a message after those that wait; from any thread."""
        self.do_soon(partial(self.deliver, group, message, exclude))

    async def caught_up(self) -> None:
        """Wait until what was published before is delivered."""
        if self.backlog:
            done = asyncio.Event()
            self.do_soon(done.set)
            await done.wait()

    def do_soon(self, action: Callable[[], None]) -> None:
        with _lock:
            self.backlog.append(action)
            is_first = len(self.backlog) == 1
        if is_first:
            with suppress(RuntimeError):  # The loop has ended.
                self.loop.call_soon_threadsafe(self.do_next)

    def do_next(self) -> None:
        """Do one thing of the backlog: after each, the server gets to write to its clients."""
        try:
            self.backlog[0]()
        finally:
            with _lock:
                self.backlog.popleft()
                is_more = bool(self.backlog)
            if is_more:
                self.loop.call_soon(self.do_next)

    async def close(self) -> None:
        """Release what the hub holds."""
        hubs.pop(self.loop, None)

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        # An event loop that ends closes its async generators first. Sync code that calls async
        # code has a loop for each call, and would keep the hubs and connections of all of them.
        try:
            yield
        finally:
            await self.close()


def _is_loop_running() -> bool:
    """Return whether this thread runs an event loop, which must not be held up."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
