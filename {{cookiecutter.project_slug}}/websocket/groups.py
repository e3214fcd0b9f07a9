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
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol

from websocket import conf
from websocket.protocol import Event, SendEvent, encode_json

if TYPE_CHECKING:
    from websocket.connection import WebSocket

logger = logging.getLogger("django.websocket")

#: What has happened so far: see websocket.metrics. What costs nothing to count is counted here.
counters: Counter[str] = Counter()

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,100}")

# What keeping a message costs beside its data, roughly; its data is one for all that keep it.
_OVERHEAD: Final = 64

# Messages that a thread may publish before it is slowed down to what the event loop can deliver.
_MAX_BACKLOG: Final = 1000


class PublishError(Exception):
    """A message could not be handed to Redis: nobody gets it."""


class SubscriberTooSlow(Exception):
    """A `subscribe()` fell behind by more than WEBSOCKET_OUTBOX_SIZE, and messages were lost."""


def publish(group: str, message: Any, *, exclude: WebSocket | None = None) -> None:
    """Send a message to all members of a group, but for `exclude`; from sync code.

    A str goes out as a text message, bytes as a binary one, anything else as JSON in text, where
    dates, decimals and UUIDs become strings. Works in any thread and process: in views, signal
    handlers, `transaction.on_commit`, management commands and task queues. It does not wait for
    the members; a thread that is far ahead of the event loop is slowed down. Raises `ValueError`
    for a name that no group can have, `TypeError` for what is not JSON, and with Redis
    `PublishError` when it cannot be reached. With Redis it waits for the network: in async code
    use `apublish`.
    """
    check_name(group)
    publish_message(group, Message.encode(message), exclude)


async def apublish(group: str, message: Any, *, exclude: WebSocket | None = None) -> None:
    """Send a message to all members of a group; from async code. Otherwise as `publish`."""
    check_name(group)
    encoded = Message.encode(message)
    if conf.REDIS_URL:
        await redis_hub().apublish(group, encoded.pack(exclude))
        return
    own = get_hub()
    await own.caught_up()
    for hub in _hubs_for(group):
        (own.deliver if hub is own else hub.deliver_soon)(group, encoded, _id_of(exclude))
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
        while self.size > conf.OUTBOX_SIZE and len(self.waiting) > 1:
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
        self.loop = asyncio.get_running_loop()
        self.members: dict[str, dict[Member, None]] = {}
        #: What is still to be delivered for publishers that do not wait for it, and whom to tell.
        self.backlog: deque[Callable[[], None]] = deque()

    def add(self, group: str, member: Member) -> None:
        """Add a member; what is published reaches it soon."""
        self.members.setdefault(group, {})[member] = None

    async def join(self, group: str, member: Member) -> None:
        """Add a member; what is published once this returns reaches it."""
        await self.caught_up()
        self.add(group, member)

    def leave(self, group: str, member: Member) -> None:
        """Remove a member, if it is one."""
        members = self.members.get(group, {})
        members.pop(member, None)
        if not members:
            self.members.pop(group, None)

    def deliver(self, group: str, message: Message, exclude: str | None) -> None:
        """Hand a message to the members of a group; none can make the others wait."""
        members = tuple(self.members.get(group, ()))
        if exclude is not None:
            members = tuple(member for member in members if member.id != exclude)
        counters["deliveries"] += len(members)
        for member in members:
            member.push(message)

    def deliver_soon(self, group: str, message: Message, exclude: str | None) -> None:
        """Deliver a message after those that wait; from any thread."""
        self.do_soon(partial(self.deliver, group, message, exclude))

    async def caught_up(self) -> None:
        """Wait until what was published before is delivered."""
        if self.backlog:
            done = asyncio.Event()
            self.do_soon(done.set)
            await done.wait()

    def do_soon(self, action: Callable[[], None]) -> None:
        with _lock:
            self.backlog.append(action)
            is_first = len(self.backlog) == 1
        if is_first:
            with suppress(RuntimeError):  # The loop has ended.
                self.loop.call_soon_threadsafe(self.do_next)

    def do_next(self) -> None:
        """Do one thing of the backlog: after each, the server gets to write to its clients."""
        try:
            self.backlog[0]()
        finally:
            with _lock:
                self.backlog.popleft()
                is_more = bool(self.backlog)
            if is_more:
                self.loop.call_soon(self.do_next)

    async def close(self) -> None:
        """Release what the hub holds outside of this process: nothing."""


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}
# Taken again by the same thread where the handler of a signal publishes.
_lock = threading.RLock()


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


def publish_message(group: str, message: Message, exclude: WebSocket | None = None) -> None:
    """Publish a message, as `publish` does, to a group whose name has been checked."""
    if conf.REDIS_URL:
        redis_hub().publish(group, message.pack(exclude))
        return
    for hub in _hubs_for(group):
        hub.deliver_soon(group, message, _id_of(exclude))
        if len(hub.backlog) > _MAX_BACKLOG and not _is_loop_running():
            time.sleep(0.01)  # A thread that is far ahead lets the loop catch up.


def _hubs_for(group: str) -> list[Hub]:
    """Return the hubs of this process, all that can be reached without Redis."""
    if not serving:
        logger.warning(
            "A message to the group %r reached nobody: this process serves no sockets, and "
            "without REDIS_URL it cannot reach the one that does.",
            group,
        )
        return []
    with _lock:
        return list(_hubs.values())


def _id_of(socket: WebSocket | None) -> str | None:
    return None if socket is None else socket.id


def _is_loop_running() -> bool:
    """Tell whether this thread runs an event loop, which must not be held up."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
