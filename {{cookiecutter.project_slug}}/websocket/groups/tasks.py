"""A task that a group owns: one for all of its members, and with Redis for all processes."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, Final

from websocket.groups import presence
from websocket.groups.message import PublishError

logger = logging.getLogger("django.request")

#: A coroutine function that is called with the name of the group.
GroupFunction = Callable[[str], Coroutine[Any, Any, None]]

# Seconds for which a process has a group's task, seconds between two renewals, and seconds that a
# task has to end if its process cannot renew. Another process gets it only after LEASE seconds, so
# it has ended by then, and at most RENEW seconds later.
LEASE: Final = 8.0
RENEW: Final = 2.0
CANCEL: Final = 3.0


class Lease(enum.Enum):
    """The answer to a process that asks for a group's task."""

    MINE = b"mine"
    #: Another process has it.
    TAKEN = b"taken"
    #: The task has ended by itself. It starts again when a socket joins.
    ENDED = b"ended"
    #: No process has a member any more.
    OVER = b"over"


class Leases:
    """The leases of a process that shares its groups with no other one."""

    async def ask(self, group: str, is_wanted: bool, is_new: bool, has_ended: bool) -> Lease:
        """Ask for a group's task, or renew the lease.

        The arguments say whether this process has members, whether one of them has joined since
        the last time, and whether the task has ended in this process.
        """
        if not is_wanted:
            return Lease.OVER
        return Lease.ENDED if has_ended else Lease.MINE

    async def release(self, group: str) -> None:
        """Give up a group's task, so that another process can have it."""


class GroupTask:
    """One group's task, as one process sees it: running here, elsewhere, or over.

    It asks for the lease when a socket joins and every RENEW seconds, runs the function while the
    lease is its own, and ends once no process has had a member for `presence.RETURN` seconds.
    """

    def __init__(
        self,
        group: str,
        function: GroupFunction,
        leases: Leases,
        enter_thread: Callable[[], None],
        over: Callable[[str], None],
    ) -> None:
        self.group = group
        self.function = function
        self.leases = leases
        self.enter_thread = enter_thread
        #: Called with the group once this object is of no more use.
        self.over = over
        self.loop = asyncio.get_running_loop()
        #: The number of members in this process, and the time at which the last one left.
        self.members = 0
        self.left_at = 0.0
        #: Whether a socket has joined since the last answer.
        self.is_new = False
        self.has_changed = asyncio.Event()
        self.running: asyncio.Task[None] | None = None
        #: Whether the function has ended by itself, and no socket has joined since.
        self.has_ended = False
        #: The time until which the function may run without another answer.
        self.valid_until = 0.0
        # In an empty context, so that the task keeps no data of the first member alive.
        self.keeper = self.loop.create_task(self.keep(), context=Context())

    def join(self) -> None:
        self.members += 1
        self.is_new = True
        self.has_changed.set()

    def leave(self) -> None:
        self.members -= 1
        self.left_at = self.loop.time()

    async def keep(self) -> None:
        """Run the function whenever this process has the lease, until no member is left."""
        try:
            lease = await self.renew()
            while self.is_wanted() or (self.running and lease is not Lease.OVER):
                await self.wait()
                lease = await self.renew()
            self.over(self.group)
        except asyncio.CancelledError:
            await self.cancel()
            with suppress(PublishError):
                await self.leases.release(self.group)

    def is_wanted(self) -> bool:
        return self.members > 0 or self.loop.time() < self.left_at + presence.RETURN

    async def renew(self) -> Lease | None:
        """Ask for the lease, then start or end the function; return None if Redis is away."""
        self.has_changed.clear()
        is_new, self.is_new = self.is_new, False
        self.has_ended = self.has_ended and not is_new
        asked = self.loop.time()
        try:
            async with asyncio.timeout_at(self.valid_until if self.running else None):
                lease = await self.leases.ask(self.group, self.is_wanted(), is_new, self.has_ended)
        except (PublishError, TimeoutError):
            self.is_new = self.is_new or is_new
            if self.loop.time() >= self.valid_until:
                await self.cancel()
            return None
        if lease is not Lease.MINE:
            await self.cancel()
        else:
            self.valid_until = asked + LEASE - CANCEL
            if self.running is None:
                self.running = self.loop.create_task(self.run())
        return lease

    async def wait(self) -> None:
        """Wait until it is time to ask again; handle the end of the function."""
        change = self.loop.create_task(self.has_changed.wait())
        waiting = {change} if self.running is None else {change, self.running}
        try:
            await asyncio.wait(waiting, timeout=RENEW, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        if self.running is not None and self.running.done():
            self.running, self.has_ended = None, True

    async def run(self) -> None:
        self.enter_thread()
        try:
            await self.function(self.group)
        except Exception:
            # As a view's exception is reported. The members stay.
            logger.exception("Internal Server Error: the task of the group %r", self.group)

    async def cancel(self) -> None:
        """Cancel the function, and wait until it has ended."""
        running, self.running = self.running, None
        if running is not None:
            await end(running)

    async def close(self) -> None:
        """End the task, because the server stops; another process can have it."""
        await end(self.keeper)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has ended.

    It is cancelled again after a while: in Python 3.11, `asyncio.wait_for`, which redis-py uses,
    may swallow a cancellation.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL)
