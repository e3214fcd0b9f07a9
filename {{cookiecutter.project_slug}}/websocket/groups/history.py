"""The recent messages of groups in the memory of a process, by their positions."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from typing import Final

from websocket import conf
from websocket.groups.message import Message
from websocket.resume import Position, key_of

# Bytes of the messages that a process keeps for all groups, and the most groups that it counts. The
# groups that have been silent for longest are forgotten first.
MAX_SIZE: Final = 64 * 1024 * 1024
MAX_GROUPS: Final = 10_000


class Kept:
    """The last messages of one group, without a gap between them."""

    __slots__ = ("epoch", "key", "length", "messages", "offset", "size", "time")

    def __init__(self, group: str, epoch: str, offset: int = 0) -> None:
        self.key = key_of(group)
        self.length = conf.history_length(group)
        self.epoch = epoch
        #: The offset of the last message, kept or not.
        self.offset = offset
        self.messages: deque[Message] = deque()
        self.size = 0
        #: When the last message came.
        self.time = time.monotonic()

    @property
    def position(self) -> Position:
        return Position(self.key, self.epoch, self.offset)

    def add(self, message: Message, exclude: str | None) -> Message:
        """Keep the next message; return it with its position."""
        if time.monotonic() - self.time > conf.HISTORY_TTL:
            self.messages.clear()
            self.size = 0
        self.offset += 1
        message = message.at(self.position, exclude)
        self.messages.append(message)
        self.size += message.size
        while len(self.messages) > self.length:
            self.size -= self.messages.popleft().size
        self.time = time.monotonic()
        return message

    def prepend(self, messages: list[Message]) -> None:
        """Keep older messages as well, which come right before those that are kept."""
        room = self.length - len(self.messages)
        older = messages[-room:] if room > 0 else []
        self.messages.extendleft(reversed(older))
        self.size += sum(message.size for message in older)

    def since(self, position: Position | None) -> list[Message] | None:
        """Return the messages after a position, or None if they are not all there."""
        if position is None or position.epoch != self.epoch:
            return None
        number = self.offset - position.offset
        is_old = time.monotonic() - self.time > conf.HISTORY_TTL
        if not 0 <= number <= (0 if is_old else len(self.messages)):
            return None
        return list(self.messages)[-number:] if number else []


class History:
    """The histories of an event loop's groups, within one bound."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, Kept] = OrderedDict()
        self.size = 0
        # A thread that asks for a position may begin a history. Reentrant, because a signal handler
        # may ask while its thread holds the lock.
        self.lock = threading.RLock()

    def of(self, group: str) -> Kept:
        """Return a group's history, which begins now if there is none."""
        with self.lock:
            kept = self.kept.get(group)
            if kept is None:
                kept = self.kept[group] = Kept(group, secrets.token_hex(4))
                self.bound()
            return kept

    def add(self, group: str, message: Message, exclude: str | None) -> Message:
        """Keep a group's next message; return it with its position."""
        with self.lock:
            kept = self.of(group)
            before = kept.size
            message = kept.add(message, exclude)
            self.size += kept.size - before
            self.kept.move_to_end(group)
            self.bound()
        return message

    def bound(self) -> None:
        while len(self.kept) > 1 and (self.size > MAX_SIZE or len(self.kept) > MAX_GROUPS):
            _, silent = self.kept.popitem(last=False)
            self.size -= silent.size
