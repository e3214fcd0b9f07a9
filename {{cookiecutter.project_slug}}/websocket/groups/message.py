"""A message to a group, what can receive it, and what can go wrong."""

from __future__ import annotations

import json
import re
from typing import Any, Final, Protocol

from websocket.protocol import Event, SendEvent, encode_json

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_ID: Final = re.compile(r"[0-9a-f]{32}")

# What precedes a message on Redis: its kind (text, binary, JSON), and the excluded socket's id.
_HEAD: Final = re.compile(rb"([tbj])([0-9a-f]{32})?")

# What keeping a message costs beside its data, roughly; its data is one for all that keep it.
_OVERHEAD: Final = 64


class PublishError(Exception):
    """A message could not be handed to Redis: nobody gets it."""


class SubscriberTooSlow(Exception):
    """A `subscribe()` fell behind by more than WEBSOCKET_OUTBOX_SIZE, and messages were lost."""


def check_name(group: str) -> None:
    """Raise `ValueError` unless a group can have this name."""
    if not (isinstance(group, str) and _NAME.fullmatch(group)):
        raise ValueError(
            "A group name has 1 to 100 ASCII letters, digits, and characters of '_.:-'; "
            f"got {group!r}."
        )


class Socket(Protocol):
    """What `exclude=` takes: a `WebSocket`."""

    @property
    def id(self) -> str: ...


def id_of(socket: Socket | str | None) -> str | None:
    """Return the id of the socket that a message is not for; raise `ValueError` for no socket."""
    if socket is None:
        return None
    id = socket if isinstance(socket, str) else getattr(socket, "id", None)
    if not (isinstance(id, str) and _ID.fullmatch(id)):
        raise ValueError(f"exclude= takes a socket, or the id of one; got {socket!r}.")
    return id


class Message:
    """A message, encoded once for all members."""

    __slots__ = ("event", "kind", "size")

    def __init__(self, kind: bytes, data: str | bytes) -> None:
        self.kind = kind
        # Text that has no UTF-8 (a lone surrogate) fails here, and not on its way to each member.
        self.size = len(data.encode() if isinstance(data, str) else data) + _OVERHEAD
        self.event: Event = {
            "type": SendEvent.SEND,
            "text" if isinstance(data, str) else "bytes": data,
        }

    @classmethod
    def encode(cls, message: Any) -> Message:
        if isinstance(message, str):
            return cls(b"t", message)
        if isinstance(message, (bytes, bytearray, memoryview)):
            return cls(b"b", bytes(message))
        return cls(b"j", encode_json(message))

    def value(self) -> Any:
        """Return what was published, a new object for each that asks."""
        if self.kind == b"j":
            return json.loads(self.event["text"])
        return self.event["text"] if self.kind == b"t" else self.event["bytes"]

    def pack(self, exclude: str | None) -> bytes:
        """Return the message for Redis: its kind, the excluded socket's id, a line break, data."""
        data = self.event["bytes"] if self.kind == b"b" else self.event["text"].encode()
        return b"%s%s\n%s" % (self.kind, (exclude or "").encode(), data)

    @classmethod
    def unpack(cls, packed: bytes) -> tuple[Message, str | None]:
        """Return the message that `pack` packed, and the excluded socket's id.

        Raises `ValueError` for what it did not pack.
        """
        head, line_break, data = packed.partition(b"\n")
        match = _HEAD.fullmatch(head)
        if not (match and line_break):
            raise ValueError("This message is not from a process of this project.")
        kind, exclude = match.groups()
        message = cls(kind, data if kind == b"b" else data.decode())
        return message, exclude.decode() if exclude else None


class Member(Protocol):
    """What can join a group."""

    id: str

    def push(self, message: Message) -> None:
        """Take a message, without waiting."""

    def missed(self) -> None:
        """Learn that messages to a group may have been missed, without waiting."""
