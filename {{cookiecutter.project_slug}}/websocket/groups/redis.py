"""Groups over Redis: each process has one subscription, and fans out to its own members."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from functools import cache
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from websocket import conf
from websocket.groups.memory import Hub
from websocket.groups.message import Member, Message, PublishError

logger = logging.getLogger("django.websocket")

# What redis-py raises when Redis is out of reach.
ERRORS = (redis.RedisError, OSError, TimeoutError)

# Seconds between two checks of a connection that listens; and between two attempts to connect,
# at the most.
CHECK_EVERY = 10.0
MAX_DELAY = 2.0

# Connections over which one process publishes at the same time, with one to listen.
MAX_CONNECTIONS = 20


@contextmanager
def publish_errors(problem: str) -> Iterator[None]:
    """Raise what redis-py raises as a `PublishError`."""
    try:
        yield
    except ERRORS as error:
        raise PublishError(f"{problem}: {error}") from error


class RedisHub(Hub):
    """The groups of one event loop, whose messages come from Redis."""

    def __init__(self) -> None:
        super().__init__()
        #: The groups to which other programs publish: each is warned of once.
        self.foreign: set[str] = set()
        self.server = Server(conf.REDIS_URL, self.receive, self.missed)

    @classmethod
    def ping(cls) -> None:
        with publish_errors("Redis does not answer"):
            _client(conf.REDIS_URL, conf.REDIS_TIMEOUT).ping()

    @classmethod
    def can_publish(cls) -> bool:
        return True

    @classmethod
    def publish(cls, group: str, message: Message, exclude: str | None) -> None:
        """Publish to all processes; raises `PublishError` when Redis is out of reach."""
        client = _client(conf.REDIS_URL, conf.REDIS_TIMEOUT)
        with publish_errors(f"Redis did not take a message to {group!r}"):
            client.publish(conf.REDIS_PREFIX + group, message.pack(exclude))

    async def apublish(self, group: str, message: Message, exclude: str | None) -> None:
        with publish_errors(f"Redis did not take a message to {group!r}"):
            await self.server.publish(group, message.pack(exclude))

    def add(self, group: str, member: Member) -> None:
        super().add(group, member)
        self.server.subscribe(group)

    async def until_ready(self, group: str) -> None:
        """Wait until Redis has confirmed that this process gets the group's messages.

        Raises `PublishError` if it does not within WEBSOCKET_REDIS_TIMEOUT.
        """
        channel = self.server.subscribe(group)
        try:
            async with asyncio.timeout(conf.REDIS_TIMEOUT):
                await channel.is_confirmed.wait()
        except TimeoutError as error:
            channel.has_gap = True
            raise PublishError(f"Redis cannot be reached to join {group!r}.") from error

    def release(self, group: str) -> None:
        super().release(group)
        if group not in self.members and group not in self.joining:
            self.server.unsubscribe(group)
            self.foreign.discard(group)

    def receive(self, group: str, packed: bytes) -> None:
        """Deliver a message; warn of one that is not from this project."""
        try:
            message, exclude = Message.unpack(packed)
        except ValueError:
            if group in self.members and group not in self.foreign:
                self.foreign.add(group)
                logger.warning(
                    "Another program publishes to the Redis channel %r, and its messages are "
                    "ignored. Let WEBSOCKET_REDIS_PREFIX be one that no other program uses.",
                    conf.REDIS_PREFIX + group,
                )
            return
        self.deliver(group, message, exclude)

    def missed(self, group: str) -> None:
        """Tell the members of a group that messages to it may have been missed."""
        for member in tuple(self.members.get(group, ())):
            try:
                member.missed()
            except Exception:
                logger.exception("%r failed when it was told of missed messages.", member)

    async def close(self) -> None:
        """End the subscription, and the loop's other connections to Redis."""
        await super().close()
        await self.server.close()


@cache
def _client(url: str, timeout: float) -> redis.Redis:
    """Return the client for sync code, whose connections any thread may use."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_options(timeout))


def _options(timeout: float) -> dict[str, Any]:
    # No retries, because publishing again by itself could publish twice. RESP2, because with RESP3
    # redis-py 8 publishes over connections that the server has closed while they were idle.
    return {"protocol": 2, "socket_connect_timeout": timeout, "socket_timeout": timeout}


class Channel:
    """A group that a server is to send."""

    __slots__ = ("has_gap", "is_confirmed")

    def __init__(self) -> None:
        #: Set while Redis sends what is published to the group.
        self.is_confirmed = asyncio.Event()
        #: Whether members may have missed messages.
        self.has_gap = False


class Server:
    """One Redis server: connections to publish, and one that listens while it is asked to."""

    def __init__(
        self, url: str, receive: Callable[[str, bytes], None], missed: Callable[[str], None]
    ) -> None:
        # These belong to the running event loop. A publisher that finds all of them busy waits.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            retry=AsyncRetry(NoBackoff(), 0),
            timeout=conf.REDIS_TIMEOUT,
            **_options(conf.REDIS_TIMEOUT),
        )
        self.client = redis.asyncio.Redis.from_pool(pool)
        #: Called with each message, and with each group whose messages may have been missed.
        self.receive = receive
        self.missed = missed
        self.loop = asyncio.get_running_loop()
        self.channels: dict[str, Channel] = {}
        #: The groups that Redis has to be asked for, or no longer.
        self.changed: set[str] = set()
        self.has_changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        #: Seconds until the next attempt to connect, if the last one failed.
        self.delay = 0.0

    async def publish(self, group: str, packed: bytes) -> None:
        await self.client.publish(conf.REDIS_PREFIX + group, packed)

    def subscribe(self, group: str) -> Channel:
        """Listen to a group from soon on."""
        channel = self.channels.get(group)
        if channel is None:
            channel = self.channels[group] = Channel()
            self._note_change(group)
        if self.task is None:
            # In a context of its own, which keeps nothing of the first member's alive.
            self.task = self.loop.create_task(self._run(), context=Context())
        return channel

    def unsubscribe(self, group: str) -> None:
        """Listen to a group no longer."""
        if channel := self.channels.pop(group, None):
            channel.is_confirmed.set()  # What still waits for it has left.
            self._note_change(group)

    async def close(self) -> None:
        """Close all connections."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        await self.client.aclose()

    def _note_change(self, group: str) -> None:
        self.changed.add(group)
        self.has_changed.set()

    async def _run(self) -> None:
        """Listen while there is a group to listen to, over one connection after the other."""
        try:
            while self.channels and not _is_cancelled():
                self.changed = set(self.channels)
                try:
                    async with self.client.pubsub() as pubsub:
                        await Listener(self, pubsub).run()
                except Exception as error:
                    self._lost(error)
                    await asyncio.sleep(self.delay * random.uniform(0.5, 1))
        finally:
            self.task = None

    def _lost(self, error: Exception) -> None:
        """Note that Redis sends nothing for now: joins wait, and members miss messages."""
        for channel in self.channels.values():
            channel.is_confirmed.clear()
            channel.has_gap = True
        errors = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        if not isinstance(errors[0], ERRORS):
            logger.error("Listening to Redis failed, and begins again.", exc_info=error)
        elif not self.delay:
            logger.error("Redis is lost, and with it what is published: %s", errors[0])
        self.delay = min(self.delay * 2 or 0.1, MAX_DELAY)

    def confirm(self, group: str) -> None:
        """Note that Redis sends a group from now on."""
        if self.delay:
            logger.warning("Redis is back.")
            self.delay = 0.0
        channel = self.channels.get(group)
        if channel is None or channel.is_confirmed.is_set():
            return
        channel.is_confirmed.set()
        if channel.has_gap:
            channel.has_gap = False
            self.missed(group)


class Listener:
    """One connection that listens, until it is lost."""

    def __init__(self, server: Server, pubsub: PubSub) -> None:
        self.server = server
        self.pubsub = pubsub
        #: What Redis was asked for, and how many of its answers are to come.
        self.asked: set[str] = set()
        self.unanswered: Counter[str] = Counter()
        #: A group of its own, for checks, and how many of these were sent and have come.
        self.group = f"@{uuid.uuid4().hex}"
        self.sent = self.came = 0
        self.is_silent = False

    async def run(self) -> None:
        """Listen until there is no group to listen to; raises when the connection is lost."""
        await self.pubsub.subscribe(conf.REDIS_PREFIX + self.group)
        await self.ask()
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(self.read()), tasks.create_task(self.check())]
            while self.server.channels and not _is_cancelled():
                await self.server.has_changed.wait()
                await self.ask()
            for task in others:
                task.cancel()

    async def ask(self) -> None:
        """Tell Redis which groups to send from now on, and which no longer."""
        server = self.server
        server.has_changed.clear()
        changed, server.changed = server.changed, set()
        new = (changed & server.channels.keys()) - self.asked
        old = (changed & self.asked) - server.channels.keys()
        if new:
            self.asked |= new
            self.unanswered.update(new)
            await self.pubsub.subscribe(*(conf.REDIS_PREFIX + group for group in new))
        if old:
            self.asked -= old
            await self.pubsub.unsubscribe(*(conf.REDIS_PREFIX + group for group in old))
        for group in changed & self.asked:
            if not self.unanswered[group]:
                server.confirm(group)  # It was left and joined again meanwhile.

    async def read(self) -> None:
        """Hand on what Redis sends."""
        while not _is_cancelled():
            message: dict[str, Any] | None = await self.pubsub.get_message(timeout=CHECK_EVERY)
            if message is None:
                continue
            self.is_silent = False
            kind, data = message["type"], message["data"]
            if kind == "message":
                group = message["channel"].decode().removeprefix(conf.REDIS_PREFIX)
                if group == self.group:
                    self.came += 1
                else:
                    self.server.receive(group, data)
                    # In a flood, let the server write what was delivered.
                    await asyncio.sleep(0)
            elif kind == "subscribe":
                self.answered(message["channel"].decode().removeprefix(conf.REDIS_PREFIX))
            elif kind == "pong" and self.came < int(data or 0):
                raise ConnectionError("It answers, but does not send what is published.")

    def answered(self, group: str) -> None:
        """Note an answer; of a group that was left and joined again, the last one counts."""
        self.unanswered[group] -= 1
        if self.unanswered[group] > 0:
            return
        del self.unanswered[group]
        if group in self.asked:
            self.server.confirm(group)

    async def check(self) -> None:
        """Check now and then that what is published arrives; raises if it does not.

        An answer to a ping is no proof: a proxy that has connected again by itself, or a server
        that was replaced, answers, and knows nothing of the subscription.
        """
        while True:
            await asyncio.sleep(CHECK_EVERY)
            if self.is_silent:
                raise ConnectionError("It does not answer.")
            self.is_silent = True
            with suppress(*ERRORS):  # All connections may be busy: then the ping has to do.
                await self.server.publish(self.group, b"")
                self.sent += 1
            # Its answer comes after what was published before it.
            await self.pubsub.ping(str(self.sent))


def _is_cancelled() -> bool:
    """Return whether this task is to end, even if what it awaited has swallowed that.

    `asyncio.wait_for`, which redis-py uses, may do so in Python 3.11, and a task group with errors.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
