"""Positions in the histories of groups, and how a client tells which ones it has reached.

A client that connects with `?resume` gets a line before the data of each message, text or binary:
the message's position in its group's history, or nothing. A message without a line break is for
the client itself: the position that a join has reached, or the socket's id. When it comes back, it
connects with `?resume=<id of its last socket>,<position>,<position>...`.
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

_ID: Final = re.compile(r"([0-9a-f]{32})?")
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
    return salted_hmac("websocket.groups", group).hexdigest()[:8]


class Resume:
    """What a client has when it connects: its positions by key, and the id of its last socket."""

    __slots__ = ("held", "positions", "previous")

    def __init__(self, previous: str = "", positions: list[str] | None = None) -> None:
        self.previous = previous
        parsed = map(Position.parse, (positions or [])[:MAX_POSITIONS])
        self.positions = {one.key: one for one in parsed if one is not None}
        #: Messages to the groups that are just being joined, by key.
        self.held: dict[str, list[Any]] = {}

    def held_size(self) -> int:
        """Return the bytes that are held back."""
        return sum(message.size for held in self.held.values() for message in held)

    def takes(self, message: Any) -> bool:
        """Return whether a message is to be sent now, and is new; hold it back if it is early."""
        position: Position | None = message.position
        if position is None:
            return True
        if position.key in self.held:
            self.held[position.key].append(message)
            return False
        reached = self.positions.get(position.key)
        if reached and reached.epoch == position.epoch and position.offset <= reached.offset:
            return False
        self.positions[position.key] = position
        return True


def resume_of(query_string: bytes) -> Resume | None:
    """Return what a client asks to resume, or None if it does not ask; ignore what is malformed."""
    if b"resume" not in query_string:
        return None
    values = parse_qs(query_string.decode("latin-1"), keep_blank_values=True).get("resume")
    if values is None:
        return None
    previous, *positions = values[0][:MAX_BYTES].split(",")
    return Resume(previous, positions) if _ID.fullmatch(previous) else None


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
