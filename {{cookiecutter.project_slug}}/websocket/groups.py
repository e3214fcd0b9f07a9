"""Groups: one message to many sockets, of this process or, with Redis, of all.

A group is a name. It exists while somebody listens: sockets that joined it, and `subscribe()`.
Delivery is at most once, in the order in which one publisher published, and without history: who
joins later, or is away, does not get what was published before or meanwhile.

Where REDIS_URL is not set, groups live in the memory of the process that serves the sockets, and
only that process can publish to them. With it, any process can, and all that serve get it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol

from websocket import conf
from websocket.protocol import Event, SendEvent, encode_json

if TYPE_CHECKING:
    from websocket.connection import WebSocket

logger = logging.getLogger("django.websocket")

#: How often a client that is slow to read was closed, and how many messages it was spared.
counters: Counter[str] = Counter()

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,100}")

# What keeping a message costs beside its data, roughly; its data is one for all that keep it.
_OVERHEAD: Final = 64


class PublishError(Exception):
    """A message could not be handed to Redis: nobody gets it."""


class SubscriberTooSlow(Exception):
    """A `subscribe()` fell behind by more than WEBSOCKET_OUTBOX_SIZE, and messages were lost."""


def publish(group: str, message: Any, *, exclude: WebSocket | None = None) -> None:
    """Send a message to all members of a group, but for `exclude`; from sync code.

    A str goes out as a text message, bytes as a binary one, anything else as JSON in text, where
    dates, decimals and UUIDs become strings. Works in any thread and process: in views, signal
    handlers, `transaction.on_commit`, management commands and task queues. It does not wait for
    the members. Raises `ValueError` for a name that no group can have, `TypeError` for what is
    not JSON, and with Redis `PublishError` when it cannot be reached. With Redis it waits for the
    network: in async code use `apublish`.
    """
    encoded = Message.encode(message)
    check_name(group)
    if conf.REDIS_URL:
        redis_hub().publish(group, encoded.pack(exclude))
    else:
        _publish_in_memory(group, encoded, exclude)


async def apublish(group: str, message: Any, *, exclude: WebSocket | None = None) -> None:
    """Send a message to all members of a group; from async code. Otherwise as `publish`."""
    encoded = Message.encode(message)
    check_name(group)
    if conf.REDIS_URL:
        await redis_hub().apublish(group, encoded.pack(exclude))
    else:
        _publish_in_memory(group, encoded, exclude)
        # Somebody who publishes in a loop lets the server write meanwhile.
        await asyncio.sleep(0)


async def subscribe(*groups: str) -> AsyncIterator[Any]:
    """Iterate over what is published to some groups: for views that filter, or for no socket.

    Yields str, bytes, or the value of what was published as JSON. Listening starts with the first
    step, and ends with the loop. Raises `ValueError` as `publish` does, `PublishError` when Redis
    cannot be reached at the start, and `SubscriberTooSlow`, unless WEBSOCKET_SLOW_CLIENT is
    "drop": then the oldest messages are dropped.
    """
    subscription = Subscription()
    hub = get_hub()
    try:
        for group in groups:
            check_name(group)
            await hub.join(group, subscription)
        while True:
            yield (await subscription.get()).value()
    finally:
        for group in groups:
            hub.leave(group, subscription)


def check_name(group: str) -> None:
    """Raise `ValueError` unless a group can have this name."""
    if not (isinstance(group, str) and _NAME.fullmatch(group)):
        raise ValueError(
            "A group's name has 1 to 100 ASCII letters, digits, and characters of '_.:-'; "
            f"this is none: {group!r}."
        )


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

    def pack(self, exclude: WebSocket | None) -> bytes:
        """Return the message for Redis: its kind, whom it is not for, a line break, its data."""
        data = self.event["bytes"] if self.kind == b"b" else self.event["text"].encode()
        return b"%s%s\n%s" % (self.kind, exclude.id.encode() if exclude else b"", data)

    @classmethod
    def unpack(cls, packed: bytes) -> tuple[Message, str | None]:
        """Return the message that `pack` packed, and the id of whom it is not for."""
        head, _, data = packed.partition(b"\n")
        kind = head[:1]
        return cls(kind, data if kind == b"b" else data.decode()), head[1:].decode() or None


class Member(Protocol):
    """Who can be in a group."""

    id: str

    def push(self, message: Message) -> None:
        """Take a message, at once."""


class Subscription:
    """The member that a `subscribe()` is."""

    id = ""

    def __init__(self) -> None:
        self.waiting: deque[Message] = deque()
        self.size = 0
        self.arrived = asyncio.Event()
        self.too_slow = False

    def push(self, message: Message) -> None:
        self.waiting.append(message)
        self.size += message.size
        while self.size > conf.OUTBOX_SIZE:
            self.size -= self.waiting.popleft().size
            self.too_slow = conf.SLOW_CLIENT != "drop"
            counters["dropped"] += 1
        self.arrived.set()

    async def get(self) -> Message:
        while not self.waiting:
            self.arrived.clear()
            await self.arrived.wait()
        if self.too_slow:
            raise SubscriberTooSlow("More was published than this subscriber took in time.")
        message = self.waiting.popleft()
        self.size -= message.size
        return message


class Hub:
    """The groups of one event loop, and their members."""

    def __init__(self) -> None:
        self.members: dict[str, dict[Member, None]] = {}

    def add(self, group: str, member: Member) -> None:
        """Add a member; what is published reaches it soon."""
        self.members.setdefault(group, {})[member] = None

    async def join(self, group: str, member: Member) -> None:
        """Add a member; what is published once this returns reaches it."""
        self.add(group, member)

    def leave(self, group: str, member: Member) -> None:
        """Remove a member, if it is one."""
        members = self.members.get(group, {})
        members.pop(member, None)
        if not members:
            self.members.pop(group, None)

    def deliver(self, group: str, message: Message, exclude: str | None) -> None:
        """Hand a message to the members of a group; none can make the others wait."""
        for member in tuple(self.members.get(group, ())):
            if exclude is None or member.id != exclude:
                member.push(message)

    async def close(self) -> None:
        """Release what the hub holds outside of this process: nothing."""


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}
_lock = threading.Lock()


def get_hub() -> Hub:
    """Return the hub of the running event loop."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = redis_hub().RedisHub() if conf.REDIS_URL else Hub()
        with _lock:
            for closed in [loop for loop in _hubs if loop.is_closed()]:
                del _hubs[closed]
            _hubs[loop] = hub
    return hub


async def close_hub() -> None:
    """Close the hub of the running event loop, if there is one."""
    with _lock:
        hub = _hubs.pop(asyncio.get_running_loop(), None)
    if hub is not None:
        await hub.close()


def redis_hub() -> ModuleType:
    """Return the module that needs the package `redis`, which is there only where it is used."""
    return import_module("websocket.redis_hub")


#: Whether this process serves sockets: set by the middleware.
serving = False


def _publish_in_memory(group: str, message: Message, exclude: WebSocket | None) -> None:
    if not serving:
        logger.warning(
            "A message to the group %r reached nobody: this process serves no sockets, and "
            "without REDIS_URL it cannot reach the one that does.",
            group,
        )
        return
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    with _lock:
        hubs = list(_hubs.items())
    for loop, hub in hubs:
        arguments = (group, message, exclude.id if exclude else None)
        if loop is running:
            hub.deliver(*arguments)
        else:
            with suppress(RuntimeError):  # That loop has ended.
                loop.call_soon_threadsafe(hub.deliver, *arguments)
