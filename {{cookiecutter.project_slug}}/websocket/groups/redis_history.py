"""Histories in Redis: a message is numbered, kept and published in one step.

A group has two keys. The hash `<prefix>{<group>}:m` has the version of this layout, the epoch and
the number of messages so far; it is kept for 30 days. The stream `<prefix>{<group>}:s` has the last
messages, under their numbers. On its channel, a message has a line with the version and its
position before what `Message.pack` returns.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, NamedTuple

import redis.asyncio

from websocket import conf
from websocket.groups.history import Entry, History, Kept
from websocket.groups.message import Message, PublishError
from websocket.groups.server import key_of, publish_errors
from websocket.resume import Position

logger = logging.getLogger("django.websocket")

VERSION: Final = b"1"

_COUNTED_FOR: Final = 30 * 24 * 3600

# Arguments: version, epoch for a new history, seconds for which messages are counted.
_COMMON: Final = """
local version = redis.call('HGET', KEYS[1], 'version')
local is_known = not version or version == ARGV[1]
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if is_known and not epoch then
    epoch = ARGV[2]
    redis.call('HSET', KEYS[1], 'version', ARGV[1], 'epoch', epoch, 'count', 0)
    redis.call('DEL', KEYS[2])
end
if is_known then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
"""

# More arguments: the channel, the message, the most messages, seconds for which they are kept.
PUBLISH: Final = (
    _COMMON
    + """
if not is_known then
    redis.call('PUBLISH', ARGV[4], ARGV[5])
    return 0
end
local count = redis.call('HINCRBY', KEYS[1], 'count', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[6], count .. '-0', 'm', ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[7])
redis.call('PUBLISH', ARGV[4], ARGV[1] .. ' ' .. epoch .. '-' .. count .. '\\n' .. ARGV[5])
return 1
"""
)

# One more argument: 1 to read the messages too. Returns the epoch (empty if the version is not
# known), the number of messages so far, and those that are kept.
READ: Final = (
    _COMMON
    + """
if not is_known then return {'', 0, {}} end
local kept = ARGV[4] == '1' and redis.call('XRANGE', KEYS[2], '-', '+') or {}
return {epoch, tonumber(redis.call('HGET', KEYS[1], 'count')), kept}
"""
)

_warned: set[str] = set()


class Stored(NamedTuple):
    """A history as Redis has it: the messages have consecutive offsets, up to the last one."""

    epoch: str
    offset: int
    messages: list[tuple[Message, str | None]]


class Following:
    """A process's copies of the histories of the groups that it listens to.

    `deliver` is called with each message in its order, `missed` with a group whose messages could
    not all be had. A message that does not follow the last one waits until those between them have
    been read from Redis.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        deliver: Callable[[str, Message, str | None], None],
        missed: Callable[[str], None],
    ) -> None:
        self.deliver = deliver
        self.missed = missed
        self.history = History()
        self.publish_script = client.register_script(PUBLISH)
        self.read_script = client.register_script(READ)
        #: The readings that members wait for, by group and whether they include messages.
        self.loading: dict[tuple[str, bool], asyncio.Task[Kept | None]] = {}
        #: Messages behind a gap that is being closed.
        self.waiting: dict[str, list[tuple[str, int, Message, str | None]]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def publish(self, group: str, packed: bytes) -> None:
        await self.publish_script(keys=keys_of(group), args=publish_arguments(group, packed))

    async def read(self, group: str, with_messages: bool) -> Stored | None:
        with publish_errors(f"Redis did not tell the history of {group!r}"):
            answer = await self.read_script(keys=keys_of(group), args=read_arguments(with_messages))
        return unpack_stored(group, answer)

    def arrived(
        self, group: str, epoch: str, offset: int, message: Message, exclude: str | None
    ) -> None:
        """Deliver a message, if it follows the last one."""
        if group in self.waiting:
            self.waiting[group].append((epoch, offset, message, exclude))
            return
        kept = self.history.get(group)
        if kept is None:
            kept = self.history.put(group, Kept(group, epoch, offset - 1))
        if kept.seen is None:
            kept.seen = min(kept.offset, offset - 1)
        if epoch == kept.epoch and offset <= kept.seen:
            return
        if epoch != kept.epoch or offset > kept.seen + 1:
            self.close_gap_soon(group)
            self.waiting[group].append((epoch, offset, message, exclude))
            return
        kept.seen = offset
        if offset > kept.offset:
            message = self.history.add(group, message, exclude)
        else:
            message = message.at(Position(kept.key, epoch, offset))
        self.deliver(group, message, exclude)

    async def catch_up(
        self, group: str, since: Position | None
    ) -> tuple[Position | None, list[Entry] | None]:
        """Return the position of a group that this process listens to, and what a member missed.

        Members that come back at the same time share one reading.
        """
        kept = self.history.get(group)
        is_older = since is not None and kept is not None and kept.lacks(since)
        if kept is None or is_older:
            which = group, since is not None
            task = self.loading.get(which)
            if task is None:
                task = self.loading[which] = asyncio.create_task(self.load(*which))
                task.add_done_callback(lambda _: self.loading.pop(which))
            kept = await asyncio.shield(task)
        return (kept.position, kept.since(since)) if kept is not None else (None, None)

    async def load(self, group: str, with_messages: bool) -> Kept | None:
        """Read a history, and put behind it what has arrived meanwhile."""
        stored = await self.read(group, with_messages)
        if stored is None:
            return None
        kept = Kept(group, stored.epoch, stored.offset - len(stored.messages))
        for message, exclude in stored.messages:
            kept.add(message, exclude)
        kept.is_whole = with_messages
        old = self.history.get(group)
        if old is not None and old.epoch == kept.epoch:
            kept.seen = old.seen
            for message, exclude in old.since(kept.position) or ():
                kept.add(message, exclude)
        return self.history.put(group, kept)

    def close_gap_soon(self, group: str) -> None:
        """Read what may be missing, and deliver it before anything else."""
        if group not in self.waiting:
            self.waiting[group] = []
            task = asyncio.create_task(self.close_gap(group), context=Context())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def close_gap(self, group: str) -> None:
        kept = self.history.get(group)
        stored = None
        with suppress(PublishError):
            stored = await self.read(group, True)
        arrivals = self.waiting.pop(group, [])
        if kept is not self.history.get(group):
            return  # The last member has left.
        last = (kept.offset if kept.seen is None else kept.seen) if kept is not None else 0
        number = stored.offset - last if stored is not None else -1
        is_same = kept is not None and stored is not None and stored.epoch == kept.epoch
        if stored is not None and is_same and 0 <= number <= len(stored.messages):
            missing = stored.messages[len(stored.messages) - number :]
            for offset, (message, exclude) in enumerate(missing, last + 1):
                self.arrived(group, stored.epoch, offset, message, exclude)
        else:
            self.history.forget(group)
            if stored is not None:
                kept = self.history.put(group, Kept(group, stored.epoch, stored.offset))
                kept.seen = stored.offset
            self.missed(group)
        for arrival in arrivals:
            self.arrived(group, *arrival)

    def forget(self, group: str) -> None:
        """Forget a group without members."""
        self.history.forget(group)
        self.waiting.pop(group, None)


def keys_of(group: str) -> list[str]:
    return [key_of(group, "m"), key_of(group, "s")]


def publish_arguments(group: str, packed: bytes) -> list[Any]:
    length, channel = conf.history_length(group), conf.REDIS_PREFIX + group
    return [*_arguments(), channel, packed, length, round(conf.HISTORY_TTL) or 1]


def read_arguments(with_messages: bool) -> list[Any]:
    return [*_arguments(), int(with_messages)]


def _arguments() -> list[Any]:
    return [VERSION, secrets.token_hex(4), _COUNTED_FOR]


def unpack_stored(group: str, answer: list[Any]) -> Stored | None:
    """Return what Redis answered to READ; warn and return None if its version is not known."""
    epoch, offset, entries = answer
    if not epoch:
        warn_of_version(group)
        return None
    messages = [Message.unpack(fields[1])[:2] for _, fields in entries]
    return Stored(epoch.decode(), offset, messages)


def split(group: str, packed: bytes) -> tuple[tuple[str, int] | None, bytes]:
    """Return the epoch and offset in a message's first line, if any, and the rest."""
    if not packed[:1].isdigit():
        return None, packed
    line, _, rest = packed.partition(b"\n")
    version, _, position = line.partition(b" ")
    epoch, _, offset = position.partition(b"-")
    if version != VERSION or not offset.isdigit():
        warn_of_version(group)
        return None, rest
    return (epoch.decode(), int(offset)), rest


def warn_of_version(group: str) -> None:
    if group not in _warned:
        _warned.add(group)
        logger.warning(
            "The history of the group %r in Redis is from another version of this project: its "
            "messages are delivered, but not kept for clients that were away.",
            group,
        )
