"""Positions in the histories of groups, and how a client tells which ones it has reached.

A client that connects with `?resume` gets a line before the data of each message, text or binary:
the message's position in its group's history, or nothing. A message without a line break is for
the client itself: the position that a join has reached, or the socket's id. When it comes back, it
connects with `?resume=<id>.<id>,<position>,<position>...`: the ids of its last sockets, and the
positions that it has reached.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

from django.utils.crypto import salted_hmac

from websocket.protocol import Event, Send, SendEvent

# The most positions that a client may send, and the most bytes of all of them.
MAX_POSITIONS: Final = 100
MAX_BYTES: Final = 4096

# The ids of the last sockets: a few, because a connection may be lost before it has caught up.
_IDS: Final = re.compile(r"([0-9a-f]{32}(\.[0-9a-f]{32}){0,3})?")
_POSITION: Final = re.compile(r"([0-9a-f]{8})\.([0-9a-f]{8})-([0-9]{1,15})")


class Position(NamedTuple):
    """The position of a message in a group's history."""

    #: Stands for the group, whose name stays on the server.
    key: str
    #: Changes when the counting starts again, for example after a restart without Redis.
    epoch: str
    #: Counts the group's messages, from 1, without gaps.
    offset: int

    def __str__(self) -> str:
        return f"{self.key}.{self.epoch}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Return the position that a text stands for, or None."""
        if match := _POSITION.fullmatch(text):
            return cls(match[1], match[2], int(match[3]))
        return None


@lru_cache(maxsize=1024)
def key_of(group: str) -> str:
    """Return the key that stands for a group's name."""
    return salted_hmac("websocket.groups", group, algorithm="sha256").hexdigest()[:8]


class Resume:
    """What a client has: its positions by key, and the ids of its last sockets."""

    __slots__ = ("held", "held_size", "positions", "previous", "unconfirmed")

    def __init__(self, previous: str = "", positions: list[str] | None = None) -> None:
        self.previous = set(previous.split("."))
        parsed = map(Position.parse, (positions or [])[:MAX_POSITIONS])
        self.positions = {one.key: one for one in parsed if one is not None}
        #: Messages to the groups that are just being joined, by key, and their bytes.
        self.held: dict[str, list[Any]] = {}
        self.held_size = 0
        #: The keys of groups whose state the view is still to send.
        self.unconfirmed: set[str] = set()

    def takes(self, message: Any) -> bool:
        """Return whether a message is to be sent now.

        It is not if the client has it or wrote it. It is held back if its group is being joined.
        """
        position: Position | None = message.position
        if position is None:
            return True
        if position.key in self.held:
            self.held[position.key].append(message)
            self.held_size += message.size
            return False
        reached = self.positions.get(position.key)
        if reached and reached.epoch == position.epoch and position.offset <= reached.offset:
            return False
        self.positions[position.key] = position
        return message.exclude is None or message.exclude not in self.previous

    def release(self, key: str) -> list[Any]:
        """Return what was held back for a group that has been joined."""
        held = self.held.pop(key, [])
        self.held_size -= sum(message.size for message in held)
        return held


def resume_of(query_string: bytes) -> Resume | None:
    """Return what a client asks to resume, or None if it does not ask; ignore what is malformed."""
    if b"resume" not in query_string:
        return None
    values = parse_qs(query_string.decode("latin-1"), keep_blank_values=True).get("resume")
    if values is None:
        return None
    previous, *positions = values[0][:MAX_BYTES].split(",")
    return Resume(previous, positions) if _IDS.fullmatch(previous) else None


def mark(event: Event, position: Position | None) -> Event:
    """Return a message's event with its position in the line before its data."""
    line = f"{position or ''}\n"
    if event.get("text") is not None:
        return {"type": SendEvent.SEND, "text": line + event["text"]}
    return {"type": SendEvent.SEND, "bytes": line.encode() + event["bytes"]}


def marking(send: Send) -> Send:
    """Return a `send` that marks messages that are not from a group."""

    async def marked_send(event: Event) -> None:
        await send(mark(event, None) if event["type"] == SendEvent.SEND else event)

    return marked_send
