"""A message to a group, the members that can receive it, and the possible exceptions."""

from __future__ import annotations

import json
import re
from copy import copy
from typing import Any, Final, Protocol

from websocket.protocol import Event, SendEvent, encode_json
from websocket.resume import Position, mark

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_ID: Final = re.compile(r"[0-9a-f]{32}")

# The prefix of a message on Redis: its kind (text, binary, JSON), and the excluded socket's id. A
# message to one socket has its id after a ">".
_HEAD: Final = re.compile(rb"([tbj])([0-9a-f]{32})?(?:>([0-9a-f]{32}))?")

# The approximate bytes to keep a message besides its data, which all its members share.
_OVERHEAD: Final = 64


class PublishError(Exception):
    """Redis cannot be reached, or has not answered in time; a message may be published anyway."""


class MessagesMissed(Exception):
    """A `subscribe()` may have missed messages, because Redis was away: load the state again."""


class SubscriberTooSlow(Exception):
    """A `subscribe()` fell behind by more than WEBSOCKET_OUTBOX_SIZE, and messages were lost."""


def check_name(group: str) -> None:
    """Raise `ValueError` unless a group can have this name."""
    if not (isinstance(group, str) and _NAME.fullmatch(group)):
        raise ValueError(
            "A group name has 1 to 100 ASCII letters, digits, and characters of '_.:-'; "
            f"got {group!r}."
        )


def socket_of(group: str) -> str | None:
    """Return the id of the socket whose own group this is, if it is one: `socket.<id>`."""
    if not group.startswith("socket."):
        return None
    id = group.removeprefix("socket.")
    return id if _ID.fullmatch(id) else None


class Socket(Protocol):
    """The argument of `exclude=`: a `WebSocket`."""

    @property
    def _own_id(self) -> str: ...


def id_of(socket: Socket | str | None) -> str | None:
    """Return the id of the socket to exclude; raise `ValueError` if it is not a socket or an id."""
    if socket is None:
        return None
    # Not `id`, which also lets messages to `socket.<id>` reach the socket.
    id = socket if isinstance(socket, str) else getattr(socket, "_own_id", None)
    if not (isinstance(id, str) and _ID.fullmatch(id)):
        raise ValueError(f"exclude= takes a socket, or the id of one; got {socket!r}.")
    return id


class Message:
    """A message, encoded once for all members."""

    __slots__ = ("_marked", "event", "exclude", "kind", "position", "size")

    def __init__(self, kind: bytes, data: str | bytes) -> None:
        self.kind = kind
        #: The position in the history of the group, if it has one.
        self.position: Position | None = None
        #: The id of the socket that it is not for, if it is kept.
        self.exclude: str | None = None
        self._marked: Message | None = None
        # Text without a UTF-8 encoding (a lone surrogate) fails here, and not once for each member.
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

    def at(self, position: Position, exclude: str | None) -> Message:
        """Return the message at a position in a history."""
        message = copy(self)
        message.position, message.exclude, message._marked = position, exclude, None
        return message

    @property
    def marked(self) -> Message:
        """The message for clients that resume (see websocket.resume), encoded once for all."""
        if self._marked is None:
            marked = self._marked = copy(self)
            marked.event = mark(self.event, self.position)
        return self._marked

    def value(self) -> Any:
        """Return the published value, as a new object for each call."""
        if self.kind == b"j":
            return json.loads(self.event["text"])
        return self.event["text"] if self.kind == b"t" else self.event["bytes"]

    def pack(self, exclude: str | None, only: str | None = None) -> bytes:
        """Return the message for Redis: kind, excluded socket, receiving socket, line break, data.

        The ids of the two sockets are optional.
        """
        data = self.event["bytes"] if self.kind == b"b" else self.event["text"].encode()
        head = f"{exclude or ''}>{only}" if only else exclude or ""
        return b"%s%s\n%s" % (self.kind, head.encode(), data)

    @classmethod
    def unpack(cls, packed: bytes) -> tuple[Message, str | None, str | None]:
        """Return the message that `pack` encoded, and the ids of the two sockets.

        Raises `ValueError` for bytes that are not from `pack`.
        """
        head, line_break, data = packed.partition(b"\n")
        match = _HEAD.fullmatch(head)
        if not (match and line_break):
            raise ValueError("This message is not from a process of this project.")
        kind, *ids = match.groups()
        message = cls(kind, data if kind == b"b" else data.decode())
        exclude, only = (id.decode() if id else None for id in ids)
        return message, exclude, only


class Member(Protocol):
    """An object that can join a group."""

    id: str

    def push(self, message: Message) -> None:
        """Accept a message, without waiting."""

    def missed(self) -> None:
        """Handle a possible loss of messages to a group, without waiting."""
