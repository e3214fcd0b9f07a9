"""A process's copies of the histories in Redis, for the groups that have members in it."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from websocket.groups.history import Kept
from websocket.groups.message import Message, PublishError
from websocket.groups.redis_history import (
    PUBLISH,
    READ,
    Stored,
    to_publish,
    to_read,
    unpack_stored,
)
from websocket.groups.server import ClientOf, publish_errors, register
from websocket.resume import Position

logger = logging.getLogger("django.websocket")

# Histories that are read from one server at the same time after an outage, and seconds until one is
# read again.
READS: Final = 10
RETRY: Final = 0.5

# Messages to one group that wait for a read. If more of them arrive, it is read once more.
MAX_WAITING: Final = 1000

Arrival = tuple[str, int, Message, str | None]


class Followed:
    """One group, from the first member's join until the last member leaves."""

    def __init__(self, group: str) -> None:
        self.group = group
        #: All messages in it have been delivered. None before the first read, and if Redis has a
        #: history of another version.
        self.kept: Kept | None = None
        #: Whether `kept` has all messages that Redis keeps.
        self.is_whole = False
        #: Messages that arrive while a read has to come first, or None.
        self.waiting: deque[Arrival] | None = deque(maxlen=MAX_WAITING)
        #: How often messages may have been lost.
        self.losses = 0
        #: The read that is under way, and the task that reads after a loss.
        self.reading: asyncio.Task[None] | None = None
        self.filling: asyncio.Task[None] | None = None


class Following:
    """The groups that one event loop follows.

    `deliver` is called with each message, in order, and `missed` with a group whose messages could
    not all be read.
    """

    def __init__(
        self,
        client_of: ClientOf,
        deliver: Callable[[str, Message, str | None], None],
        missed: Callable[[str], None],
    ) -> None:
        self.deliver = deliver
        self.missed = missed
        self.client_of = client_of
        self.publish_script, self.read_script = register(client_of, PUBLISH, READ)
        self.groups: dict[str, Followed] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        #: By server, so that one that does not answer holds up no others.
        self.turns = defaultdict[object, asyncio.Semaphore](lambda: asyncio.Semaphore(READS))

    async def publish(self, group: str, packed: bytes) -> None:
        await self.publish_script(**to_publish(group, packed), client=self.client_of(group))

    async def read(self, group: str, after: int | None) -> Stored | None:
        """Read a history: its position, and the messages after an offset unless that is None."""
        with publish_errors(f"Redis did not return the history of {group!r}"):
            answer = await self.read_script(**to_read(group, after), client=self.client_of(group))
        return unpack_stored(group, answer)

    # The members

    async def begin(self, group: str) -> None:
        """Follow a group, once Redis sends it: read where its history is."""
        followed = self.groups.get(group)
        if followed is None:
            followed = self.groups[group] = Followed(group)
        await self.until_read(followed)

    async def catch_up(
        self, group: str, since: Position | None
    ) -> tuple[Position | None, list[Message] | None]:
        """Return a group's position, and the messages since another one, or None if some are gone.

        Members that come back at the same time share one read.
        """
        followed = self.groups.get(group)
        if followed is None:
            return None, None
        await self.until_read(followed)
        kept = followed.kept
        if kept and since and since.epoch == kept.epoch and kept.since(since) is None:
            is_ahead = 0 < since.offset - kept.offset <= kept.length
            if is_ahead or not followed.is_whole:
                await self.update(followed, is_whole=True)
            kept = followed.kept
        return (kept.position, kept.since(since)) if kept is not None else (None, None)

    def forget(self, group: str) -> None:
        """Stop following a group, because its last member has left."""
        self.groups.pop(group, None)

    def is_followed(self, followed: Followed) -> bool:
        return self.groups.get(followed.group) is followed

    # The messages

    def arrived(
        self, group: str, epoch: str, offset: int, message: Message, exclude: str | None
    ) -> None:
        """Deliver a message if it follows the last one; read those before it if not."""
        followed = self.groups.get(group)
        if followed is None:
            return
        if followed.waiting is not None:
            followed.waiting.append((epoch, offset, message, exclude))
        elif (kept := followed.kept) is None:
            self.deliver(group, message, exclude)
        elif epoch != kept.epoch or offset > kept.offset + 1:
            self.lost(group)  # The read will return this message as well.
        elif offset == kept.offset + 1:
            self.deliver(group, kept.add(message, exclude), exclude)

    def lost(self, group: str) -> None:
        """Read the messages that may not have arrived, before any others are delivered."""
        followed = self.groups.get(group)
        if followed is None:
            return
        followed.losses += 1
        if followed.waiting is None:
            followed.waiting = deque(maxlen=MAX_WAITING)
        if followed.filling is None:
            followed.filling = self.run(self.fill(followed))

    async def fill(self, followed: Followed) -> None:
        """Read until it works: after an outage, Redis may be slow at first."""
        has_failed = False
        try:
            while followed.waiting is not None and self.is_followed(followed):
                try:
                    await self.update(followed)
                except Exception as error:
                    if not has_failed:
                        trace = None if isinstance(error, PublishError) else error
                        logger.error("%s; trying again.", error, exc_info=trace)
                    has_failed = True
                    await asyncio.sleep(RETRY)
        finally:
            followed.filling = None

    async def until_read(self, followed: Followed) -> None:
        """Wait until no read has to come first; raises `PublishError` if one fails."""
        while followed.waiting is not None and self.is_followed(followed):
            await self.update(followed)

    async def update(self, followed: Followed, is_whole: bool = False) -> None:
        """Wait for the read that is under way, or for a new one."""
        if followed.reading is None:
            followed.reading = self.run(self.read_on(followed, is_whole))
        await asyncio.shield(followed.reading)

    async def read_on(self, followed: Followed, is_whole: bool) -> None:
        """Bring a copy up to date, and deliver what is new and what has waited."""
        group = followed.group
        try:
            async with self.turns[self.client_of(group)]:
                losses = followed.losses
                if followed.waiting:
                    followed.waiting.clear()  # Redis has kept what has arrived by now.
                after = followed.kept.offset if followed.kept is not None else None
                stored = await self.read(group, 0 if is_whole else after)
        finally:
            followed.reading = None
        if not self.is_followed(followed):
            return
        is_first = followed.kept is None and not losses
        is_complete = self.merge(followed, stored)
        followed.is_whole = is_whole or (is_complete and followed.is_whole)
        # Without a loss, the members have all messages so far, and later ones are still delivered.
        is_harmless = stored is None and followed.waiting is None
        if not (is_complete or is_first or is_harmless):
            self.missed(group)
        if followed.losses == losses:
            waiting, followed.waiting = followed.waiting or (), None
            for arrival in waiting:
                self.arrived(group, *arrival)

    def merge(self, followed: Followed, stored: Stored | None) -> bool:
        """Take over what Redis has; return whether nothing is missing between that and the copy."""
        kept, group = followed.kept, followed.group
        if stored is None:
            followed.kept = None
            return False
        count = len(stored.messages)
        first = stored.offset - count + 1
        if kept is None or kept.epoch != stored.epoch or stored.offset - kept.offset > count:
            followed.kept = Kept(group, stored.epoch, first - 1)
            for message, exclude in stored.messages:
                followed.kept.add(message, exclude)
            return False
        # A message that has arrived during the read is in the copy already.
        older, begin = Kept(group, kept.epoch, first - 1), kept.offset - len(kept.messages) + 1
        for message, exclude in stored.messages[: max(0, begin - first)]:
            older.add(message, exclude)
        if older.offset == begin - 1:
            kept.prepend(list(older.messages))
        for message, exclude in stored.messages[max(0, kept.offset + 1 - first) :]:
            self.deliver(group, kept.add(message, exclude), exclude)
        return True

    def run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In an empty context, so that the task keeps no data of a member alive.
        task = asyncio.get_running_loop().create_task(coroutine, context=Context())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
