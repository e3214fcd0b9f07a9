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
from websocket.groups.presence import Owner

logger = logging.getLogger("django.request")

#: A coroutine function that is called with the name of the group.
GroupFunction = Callable[[str], Coroutine[Any, Any, None]]

# Seconds for which a process has a group's task, seconds between two renewals, and seconds that the
# function has to end if its process cannot renew. Another process gets the task LEASE seconds after
# the last renewal, when the old one has ended it, and notices that within RENEW seconds.
LEASE: Final = 8.0
RENEW: Final = 2.0
CANCEL: Final = 3.0


class Lease(enum.Enum):
    """The answer to a process that asks for a group's task."""

    MINE = b"mine"
    #: Another process has it.
    TAKEN = b"taken"
    #: The function has ended by itself. It starts again when a socket joins.
    ENDED = b"ended"
    #: No process has a member any more.
    OVER = b"over"


class Leases:
    """The leases of a process that shares its groups with no other one."""

    async def ask(self, group: str, is_wanted: bool, is_new: bool, has_ended: bool) -> Lease:
        """Ask for a group's task, or renew the lease.

        The arguments say whether this process has members, whether one of them has joined since
        the last time, and whether the function has ended in this process.
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
        owner: Owner,
        group: str,
        function: GroupFunction,
        leases: Leases,
        over: Callable[[str], object],
    ) -> None:
        self.owner = owner
        self.group = group
        self.function = function
        self.leases = leases
        #: Called with the group when this process has nothing more to do with its task.
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

    def is_wanted(self) -> bool:
        return self.members > 0 or self.loop.time() < self.left_at + presence.RETURN

    async def keep(self) -> None:
        """Run the function whenever this process has the lease, until no member is left."""
        try:
            await self.renew()
            while self.is_wanted() or self.running is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(RENEW):
                        await self.has_changed.wait()
                if self.running is not None and self.running.done():
                    self.running, self.has_ended = None, True
                await self.renew()
        finally:
            await self.until_stopped()  # If this is cancelled, so is the function.
        self.over(self.group)

    async def renew(self) -> None:
        """Ask for the lease, then start or stop the function."""
        self.has_changed.clear()
        is_new, self.is_new = self.is_new, False
        self.has_ended = self.has_ended and not is_new
        asked = self.loop.time()
        try:
            async with asyncio.timeout_at(self.valid_until if self.running else None):
                state = self.is_wanted(), is_new, self.has_ended
                lease = await self.leases.ask(self.group, *state)
        except Exception as error:
            if not isinstance(error, (PublishError, TimeoutError)):
                logger.exception("The task of the group %r could not be renewed.", self.group)
            self.is_new = self.is_new or is_new
            lease = None
        else:
            if lease is Lease.MINE:
                self.valid_until = asked + LEASE - CANCEL
        is_valid = self.loop.time() < self.valid_until
        if lease is Lease.MINE and is_valid and self.running is None:
            self.running = self.loop.create_task(self.run())
            self.running.add_done_callback(lambda _: self.has_changed.set())
        elif not (is_valid and lease in (Lease.MINE, None)):
            await self.stop()
        if lease is Lease.OVER:
            await self.release()

    async def run(self) -> None:
        self.owner.enter_thread()
        try:
            await self.function(self.group)
        except asyncio.CancelledError:
            if not (self.running and self.running.cancelling()):
                logger.exception("The task of the group %r awaited what was cancelled.", self.group)
        except Exception:
            # As a view's exception is reported. The members stay.
            logger.exception("Internal Server Error: the task of the group %r", self.group)

    async def stop(self) -> None:
        """Cancel the function, and wait until it has ended."""
        if self.running is not None:
            self.running.cancel()
            await self.until_stopped()

    async def until_stopped(self) -> None:
        """Wait until the function has ended, and cancel it again every CANCEL seconds.

        In Python 3.11, for example, `asyncio.wait_for` may swallow a cancellation, and an event
        loop that ends cancels its tasks only once.
        """
        while self.running is not None:
            await asyncio.wait([self.running], timeout=CANCEL)
            if self.running.done():
                self.running = None
            else:
                message = "The task of the group %r does not end: it is cancelled again."
                logger.warning(message, self.group)
                self.running.cancel()

    async def release(self) -> None:
        with suppress(PublishError):  # Then the lease expires.
            await self.leases.release(self.group)

    async def close(self) -> None:
        """End the task, because the server stops; another process can have it."""
        self.keeper.cancel()
        if self.running is not None:
            self.running.cancel()
        await asyncio.wait([self.keeper])
        await self.release()
