"""A process's copies of the histories in Redis, for the groups that have members in it."""

from __future__ import annotations

import asyncio
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
    keys_of,
    publish_arguments,
    read_arguments,
    unpack_stored,
)
from websocket.groups.server import ClientOf, publish_errors, register
from websocket.resume import Position

# Histories that are read from one server at the same time after an outage, and seconds until one is
# read again.
READS: Final = 10
RETRY: Final = 0.5

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
        #: Messages that arrived after a gap or before the first read, until that has ended.
        self.waiting: deque[Arrival] | None = None
        #: Whether the subscription was lost once more meanwhile.
        self.is_lost_again = False
        self.reading: asyncio.Task[None] | None = None


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
        keys, args = keys_of(group), publish_arguments(group, packed)
        await self.publish_script(keys=keys, args=args, client=self.client_of(group))

    async def read(self, group: str, after: int | None) -> Stored | None:
        """Read a history: its position, and the messages after an offset unless that is None."""
        with publish_errors(f"Redis did not tell the history of {group!r}"):
            keys, args = keys_of(group), read_arguments(after)
            answer = await self.read_script(keys=keys, args=args, client=self.client_of(group))
        return unpack_stored(group, answer)

    # The members

    async def begin(self, group: str) -> None:
        """Follow a group, once Redis sends it: read where its history is."""
        followed = self.groups.get(group)
        if followed is None:
            followed = self.groups[group] = Followed(group)
            followed.waiting = deque(maxlen=1000)
            followed.reading = self.run(self.update(followed, None))
        if followed.waiting is not None and followed.reading is not None:
            await asyncio.shield(followed.reading)

    async def catch_up(
        self, group: str, since: Position | None
    ) -> tuple[Position | None, list[Message] | None]:
        """Return a group's position, and the messages since another one, or None if some are gone.

        Members that come back at the same time share one read.
        """
        followed = self.groups.get(group)
        if followed is not None and followed.waiting is not None and followed.reading is not None:
            await asyncio.shield(followed.reading)
        if followed is None or (kept := followed.kept) is None:
            return None, None
        if since is not None and since.epoch == kept.epoch and kept.since(since) is None:
            is_ahead = 0 < since.offset - kept.offset <= kept.length
            if is_ahead or not followed.is_whole:
                if followed.reading is None:
                    followed.reading = self.run(self.update(followed, 0))
                await asyncio.shield(followed.reading)
        kept = followed.kept
        return (kept.position, kept.since(since)) if kept is not None else (None, None)

    def forget(self, group: str) -> None:
        """Stop following a group, because its last member has left."""
        self.groups.pop(group, None)

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
            self.lost(group)
            self.arrived(group, epoch, offset, message, exclude)  # It waits now.
        elif offset == kept.offset + 1:
            self.deliver(group, kept.add(message, exclude), exclude)

    def lost(self, group: str) -> None:
        """Read the messages that may not have arrived, before any others are delivered."""
        followed = self.groups.get(group)
        if followed is not None and followed.waiting is not None:
            followed.is_lost_again = True
        elif followed is not None:
            followed.waiting = deque(maxlen=1000)
            self.run(self.fill(followed, followed.reading))

    async def fill(self, followed: Followed, reading: asyncio.Task[None] | None) -> None:
        """Read until it works: after an outage, Redis may be slow at first."""
        if reading is not None:
            await asyncio.wait([reading])
        while self.groups.get(followed.group) is followed and followed.waiting is not None:
            after = followed.kept.offset if followed.kept is not None else None
            followed.reading = reading = self.run(self.update(followed, after))
            await asyncio.wait([reading])
            if reading.exception() is not None:
                await asyncio.sleep(RETRY)

    async def update(self, followed: Followed, after: int | None) -> None:
        """Bring a copy up to date, and deliver what is new and what has waited."""
        group = followed.group
        try:
            async with self.turns[self.client_of(group)]:
                stored = await self.read(group, after)
        except PublishError:
            if followed.kept is None and self.groups.get(group) is followed:
                del self.groups[group]
            raise
        finally:
            followed.reading = None
        if self.groups.get(group) is not followed:
            return
        waiting, followed.waiting = followed.waiting or (), None
        if stored is None:
            followed.kept = None
        else:
            self.merge(followed, stored)
            followed.is_whole = followed.is_whole or after == 0
        for arrival in waiting:
            self.arrived(group, *arrival)
        if followed.is_lost_again:
            followed.is_lost_again = False
            self.lost(group)

    def merge(self, followed: Followed, stored: Stored) -> None:
        kept, group, count = followed.kept, followed.group, len(stored.messages)
        first = stored.offset - count + 1
        if kept is not None and kept.epoch == stored.epoch:
            number = stored.offset - kept.offset
            if number <= count:
                # A message that arrived during the read is in the copy already.
                begin = kept.offset - len(kept.messages) + 1
                if number <= 0 or first <= kept.offset + 1:
                    older = Kept(group, kept.epoch, first - 1)
                    for message, exclude in stored.messages[: max(0, begin - first)]:
                        older.add(message, exclude)
                    if older.offset == begin - 1:
                        kept.prepend(list(older.messages))
                for message, exclude in stored.messages[count - number :] if number > 0 else ():
                    self.deliver(group, kept.add(message, exclude), exclude)
                return
        followed.kept = Kept(group, stored.epoch, first - 1)
        followed.is_whole = False
        for message, exclude in stored.messages:
            followed.kept.add(message, exclude)
        if kept is not None:
            self.missed(group)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In an empty context, so that the task keeps no data of a member alive.
        task = asyncio.get_running_loop().create_task(coroutine, context=Context())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
