"""Groups in the memory of one process."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from websocket import conf
from websocket.counters import counters
from websocket.groups.history import History
from websocket.groups.message import Member, Message, socket_of
from websocket.groups.presence import Presence
from websocket.groups.tasks import GroupFunction, GroupTask, Leases
from websocket.resume import Position

logger = logging.getLogger("django.websocket")

# Messages by which a thread may be ahead of the event loop before it is slowed down, and the
# seconds that it then waits after each.
_MAX_BACKLOG: Final = 1000
_PAUSE: Final = 0.01

#: The hub of each event loop of this process.
hubs: dict[asyncio.AbstractEventLoop, Hub] = {}

# Reentrant, because a signal handler may publish while its thread holds the lock.
_lock = threading.RLock()


#: The first eight digits of the ids of this process's sockets.
process = uuid.uuid4().hex[:8]


def _forget_parent() -> None:
    """Forget the event loops of the parent process after a fork."""
    global _lock, process
    _lock = threading.RLock()
    process = uuid.uuid4().hex[:8]
    hubs.clear()


os.register_at_fork(after_in_child=_forget_parent)


def new_id() -> str:
    """Return a random id for a socket of this process."""
    return process + uuid.uuid4().hex[len(process) :]


class Hub:
    """The groups of one event loop, and their members. It closes with the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.members: dict[str, dict[Member, None]] = {}
        #: Waiting joins, by group and member: one item for each, none once the member has left.
        self.joining: dict[str, dict[Member, list[None]]] = {}
        #: Whether the event loop serves sockets.
        self.is_serving = False
        #: Makes the running task's sync code run in a thread for sockets.
        self.enter_thread: Callable[[], None] = _stay
        self.history = History()
        self.presence, self.leases = self.share()
        #: The tasks that groups own.
        self.tasks: dict[str, GroupTask] = {}
        #: Actions still to be run, for threads that do not wait for them.
        self.backlog: deque[Callable[[], None]] = deque()
        for loop in [loop for loop in hubs if loop.is_closed()]:
            del hubs[loop]
        hubs[self.loop] = self
        # Run to its first yield, the generator is known to the loop, which will close it.
        self._end = self._close_with_loop()
        with suppress(StopIteration):
            self._end.asend(None).send(None)

    def share(self) -> tuple[Presence, Leases]:
        """Return the members' presence, and the leases for the tasks of groups."""
        return Presence(self), Leases()

    def serve(self, enter_thread: Callable[[], None]) -> None:
        """Get ready to serve sockets; `enter_thread` is for tasks that belong to none of them."""
        self.is_serving = True
        self.enter_thread = enter_thread

    @classmethod
    def ping(cls) -> None:
        """Check that messages can be published."""

    @classmethod
    def members_of(cls, group: str) -> dict[str, str]:
        """Return the members of a group by presence key, and their infos as JSON; in any thread."""
        found: dict[str, str] = {}
        for hub in _running_hubs():
            found |= hub.presence.local(group)
        return found

    @classmethod
    def count_members(cls, group: str) -> int:
        """Return the number of members of a group by presence key; in any thread."""
        return len(cls.members_of(group))

    async def amembers_of(self, group: str) -> dict[str, str]:
        return self.members_of(group)

    async def acount_members(self, group: str) -> int:
        return self.count_members(group)

    def join_task(self, group: str, function: GroupFunction) -> None:
        """Count one more socket that wants a group's task, and start it if it is the first."""
        if group not in self.tasks:
            self.tasks[group] = GroupTask(self, group, function, self.leases, self.tasks.pop)
        self.tasks[group].join()

    def leave_task(self, group: str) -> None:
        """Count one socket less."""
        self.tasks[group].leave()

    @classmethod
    def can_publish(cls) -> bool:
        """Return whether a message that this process publishes can reach anything."""
        return any(hub.is_serving or hub.members for hub in _running_hubs())

    @classmethod
    def publish(cls, group: str, message: Message, exclude: str | None) -> None:
        """Publish a message from any thread, which is slowed down if it is far ahead."""
        is_ahead = False
        for hub in _hubs_for(group):
            hub.deliver_soon(group, message, exclude)
            is_ahead = is_ahead or len(hub.backlog) > _MAX_BACKLOG
        if is_ahead and not is_loop_running():
            time.sleep(_PAUSE)

    async def apublish(self, group: str, message: Message, exclude: str | None) -> None:
        """Publish a message from the hub's event loop."""
        await self.caught_up()
        pause = 0.0
        for hub in _hubs_for(group):
            if hub is self:
                hub.deliver(group, message, exclude)
            else:
                hub.deliver_soon(group, message, exclude)
                pause = _PAUSE if len(hub.backlog) > _MAX_BACKLOG else pause
        # Yield, so that a publishing loop does not starve writes.
        await asyncio.sleep(pause)

    def add(self, group: str, member: Member) -> None:
        """Add a member; messages start to reach it soon."""
        self.members.setdefault(group, {})[member] = None

    async def join(self, group: str, member: Member) -> None:
        """Add a member; messages published once this returns reach it.

        A `leave` meanwhile wins: this returns without adding the member. Canceling is safe: like a
        join that fails, it leaves the membership as it was.
        """
        joins = self.joining.setdefault(group, {}).setdefault(member, [])
        joins.append(None)
        try:
            await self.until_ready(group)
            if joins:
                self.add(group, member)
        finally:
            if joins:
                joins.pop()
                if not joins:
                    del self.joining[group][member]
                    self.release(group)

    async def until_ready(self, group: str) -> None:
        """Wait until new messages to a group reach its members, and older ones do not."""
        await self.caught_up()

    async def catch_up(
        self, group: str, since: Position | None
    ) -> tuple[Position | None, list[Message] | None]:
        """Return a group's position, and the messages since another one, or None if some are gone.

        Called for a group with a history, once a member has joined it. There is no position if
        Redis has a history of another version.
        """
        kept = self.history.of(group)
        return kept.position, kept.since(since)

    @classmethod
    def position(cls, group: str) -> str:
        """Return a group's position, in any thread."""
        for hub in _running_hubs():
            if hub.is_serving:
                return str(hub.history.of(group).position)
        return ""

    async def aposition(self, group: str) -> str:
        return str(self.history.of(group).position)

    def leave(self, group: str, member: Member) -> None:
        """Remove a member, if it has joined, and end its waiting joins."""
        self.members.get(group, {}).pop(member, None)
        self.joining.get(group, {}).pop(member, []).clear()
        self.release(group)

    def release(self, group: str) -> None:
        """Forget a group that has no members."""
        if not self.members.get(group):
            self.members.pop(group, None)
        if not self.joining.get(group):
            self.joining.pop(group, None)

    def deliver(self, group: str, message: Message, exclude: str | None) -> None:
        """Hand a message to a group's members, and keep it if the group has a history."""
        if conf.HISTORY and has_history(group):
            message = self.history.add(group, message, exclude)
        self.fan_out(group, message, exclude)

    def fan_out(self, group: str, message: Message, exclude: str | None) -> None:
        """Hand a message to a group's members; one that fails does not affect the others."""
        members = tuple(self.members.get(group, ()))
        if exclude is not None:
            members = tuple(member for member in members if member.id != exclude)
        counters["deliveries"] += len(members)
        for member in members:
            try:
                member.push(message)
            except Exception:
                logger.exception("%r did not take a message to the group %r.", member, group)

    def deliver_soon(self, group: str, message: Message, exclude: str | None) -> None:
        """Deliver a message after the waiting ones; from any thread."""
        self.do_soon(partial(self.deliver, group, message, exclude))

    async def caught_up(self) -> None:
        """Wait until messages published earlier are delivered."""
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
        """Run one action of the backlog; after each, the server can write to its clients."""
        try:
            self.backlog[0]()
        finally:
            with _lock:
                self.backlog.popleft()
                is_more = bool(self.backlog)
            if is_more:
                self.loop.call_soon(self.do_next)

    async def close(self) -> None:
        """End the tasks of the groups, which still use the hub, then forget and disconnect it."""
        if hubs.get(self.loop) is not self:
            return
        closing = [task.close() for task in self.tasks.values()]
        await asyncio.gather(self.presence.close(), *closing)
        hubs.pop(self.loop, None)
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close the connections of the hub."""

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        # An event loop closes its async generators before it ends. Sync code that calls async
        # code has a loop for each call, and would keep the hubs and connections of all of them.
        try:
            yield
        finally:
            await self.close()


def has_history(group: str) -> bool:
    """Return whether a group keeps messages; `socket.<id>` and those of this package never do."""
    is_for_views = not group.startswith("@") and socket_of(group) is None
    return is_for_views and conf.history_length(group) > 0


def _stay() -> None:
    """Do nothing: sync code runs in the thread that asgiref chooses."""


def _running_hubs() -> list[Hub]:
    # An event loop that did not close its async generators has left its hub behind.
    return [hub for hub in list(hubs.values()) if hub.loop.is_running()]


def _hubs_for(group: str) -> list[Hub]:
    """Return the hubs that deliver a message; warn if none of them can reach anything."""
    running = _running_hubs()
    for hub in running:
        if hub.is_serving or hub.members:
            return running
    logger.warning(
        "A message to the group %r reached nobody: this process serves no sockets, and without "
        "REDIS_URL it cannot reach the one that does.",
        group,
    )
    return running


def is_loop_running() -> bool:
    """Return whether this thread runs an event loop, which must not be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
