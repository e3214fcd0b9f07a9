"""The recent messages of groups in the memory of a process, by their positions."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from typing import Final, NamedTuple

from websocket import conf
from websocket.groups.message import Message
from websocket.resume import Position, key_of

# Bytes of the messages that a process keeps for all groups, and the most groups that it counts. The
# groups that have been silent for longest are forgotten first.
MAX_SIZE: Final = 64 * 1024 * 1024
MAX_GROUPS: Final = 10_000


class Entry(NamedTuple):
    """A message that is kept, and the id of the socket that it was not for."""

    message: Message
    exclude: str | None


class Kept:
    """The history of one group."""

    __slots__ = ("entries", "epoch", "is_whole", "key", "length", "offset", "seen", "size", "time")

    def __init__(self, group: str, epoch: str, offset: int = 0) -> None:
        self.key = key_of(group)
        self.length = conf.history_length(group)
        self.epoch = epoch
        #: The offset of the last message, and of the last one that was delivered to the members.
        self.offset = offset
        self.seen: int | None = None
        #: Whether this has all that Redis keeps.
        self.is_whole = False
        self.entries: deque[Entry] = deque()
        self.size = 0
        #: When the last message came.
        self.time = time.monotonic()

    @property
    def position(self) -> Position:
        return Position(self.key, self.epoch, self.offset)

    def add(self, message: Message, exclude: str | None) -> Message:
        """Keep the next message; return it with its position."""
        if time.monotonic() - self.time > conf.HISTORY_TTL:
            self.entries.clear()
            self.size = 0
        self.offset += 1
        message = message.at(self.position)
        self.entries.append(Entry(message, exclude))
        self.size += message.size
        while len(self.entries) > self.length:
            self.size -= self.entries.popleft().message.size
        self.time = time.monotonic()
        return message

    def since(self, position: Position | None) -> list[Entry] | None:
        """Return the messages after a position, or None if they are not all there."""
        is_old = time.monotonic() - self.time > conf.HISTORY_TTL
        if position is None or position.epoch != self.epoch:
            return None
        number = self.offset - position.offset
        if not 0 <= number <= (0 if is_old else len(self.entries)):
            return None
        return list(self.entries)[-number:] if number else []

    def lacks(self, position: Position) -> bool:
        """Return whether Redis may have messages after this position that are not here."""
        return position.epoch == self.epoch and not self.is_whole and self.since(position) is None


class History:
    """The histories of an event loop's groups, within one bound."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, Kept] = OrderedDict()
        self.size = 0

    def get(self, group: str) -> Kept | None:
        return self.kept.get(group)

    def of(self, group: str) -> Kept:
        """Return a group's history, which begins now if there is none."""
        return self.kept.get(group) or self.put(group, Kept(group, secrets.token_hex(4)))

    def put(self, group: str, kept: Kept) -> Kept:
        """Keep this history of a group, in place of another."""
        self.forget(group)
        self.kept[group] = kept
        self.size += kept.size
        while self.size > MAX_SIZE or len(self.kept) > MAX_GROUPS:
            self.forget(next(iter(self.kept)))
        return kept

    def add(self, group: str, message: Message, exclude: str | None) -> Message:
        """Keep a group's next message; return it with its position."""
        kept = self.of(group)
        self.forget(group)
        message = kept.add(message, exclude)
        self.put(group, kept)
        return message

    def forget(self, group: str) -> None:
        if (kept := self.kept.pop(group, None)) is not None:
            self.size -= kept.size
