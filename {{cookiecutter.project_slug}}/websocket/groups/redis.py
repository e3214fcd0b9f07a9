"""Groups over Redis: each process has one subscription, and fans out to its own members."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
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

# Seconds after which a silent connection is asked whether it lives, and between two attempts to
# connect, at the most.
PING_INTERVAL = 10.0
MAX_DELAY = 2.0

# Connections over which one process publishes at the same time, with one to listen.
MAX_CONNECTIONS = 20


class RedisHub(Hub):
    """The groups of one event loop, whose messages come from Redis."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server(conf.REDIS_URL, self.receive)

    @classmethod
    def ping(cls) -> None:
        try:
            _client(conf.REDIS_URL, conf.REDIS_TIMEOUT).ping()
        except ERRORS as error:
            raise PublishError(f"Redis does not answer: {error}") from error

    @classmethod
    def can_publish(cls) -> bool:
        return True

    @classmethod
    def publish(cls, group: str, message: Message, exclude: str | None) -> None:
        """Publish to all processes; raises `PublishError` when Redis is out of reach."""
        client = _client(conf.REDIS_URL, conf.REDIS_TIMEOUT)
        try:
            client.publish(conf.REDIS_PREFIX + group, message.pack(exclude))
        except ERRORS as error:
            raise PublishError(f"Redis did not take a message to {group!r}: {error}") from error

    async def apublish(self, group: str, message: Message, exclude: str | None) -> None:
        """Publish to all processes; raises `PublishError` when Redis is out of reach."""
        try:
            await self.server.publish(group, message.pack(exclude))
        except ERRORS as error:
            raise PublishError(f"Redis did not take a message to {group!r}: {error}") from error

    def add(self, group: str, member: Member) -> None:
        super().add(group, member)
        self.server.subscribe(group)

    async def join(self, group: str, member: Member) -> None:
        """Add a member, and wait until Redis has confirmed that this process gets the messages.

        Raises `PublishError` when it does not within WEBSOCKET_REDIS_TIMEOUT.
        """
        self.add(group, member)
        try:
            async with asyncio.timeout(conf.REDIS_TIMEOUT):
                await asyncio.shield(self.server.confirmed[group])
        except TimeoutError as error:
            self.leave(group, member)
            raise PublishError(f"Redis cannot be reached to join {group!r}.") from error

    def leave(self, group: str, member: Member) -> None:
        super().leave(group, member)
        if group not in self.members:
            self.server.unsubscribe(group)

    def receive(self, group: str, packed: bytes) -> None:
        self.deliver(group, *Message.unpack(packed))

    async def close(self) -> None:
        """End the subscription, and the loop's other connections to Redis."""
        await super().close()
        await self.server.close()


@cache
def _client(url: str, timeout: float) -> redis.Redis:
    # Publishing again by itself could publish twice: a failure is the caller's to handle.
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
    )


class Server:
    """One Redis server: connections to publish, and one that listens while it is asked to."""

    def __init__(self, url: str, receive: Callable[[str, bytes], None]) -> None:
        # These belong to the running event loop. A publisher that finds all of them busy waits.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            retry=AsyncRetry(NoBackoff(), 0),
            socket_connect_timeout=conf.REDIS_TIMEOUT,
            socket_timeout=conf.REDIS_TIMEOUT,
            timeout=conf.REDIS_TIMEOUT,
        )
        self.client = redis.asyncio.Redis.from_pool(pool)
        self.receive = receive
        self.loop = asyncio.get_running_loop()
        #: For each group that is listened to: done once Redis has confirmed that it sends to it.
        self.confirmed: dict[str, asyncio.Future[None]] = {}
        #: The groups that Redis has to be asked for, or no longer.
        self.changed: set[str] = set()
        self.has_changed = asyncio.Event()
        #: What this connection to Redis was asked for, and how many of its answers are to come.
        self.asked: set[str] = set()
        self.unanswered: Counter[str] = Counter()
        self.task: asyncio.Task[None] | None = None
        #: Seconds until the next attempt to connect, if the last one failed.
        self.delay = 0.0

    async def publish(self, group: str, packed: bytes) -> None:
        await self.client.publish(conf.REDIS_PREFIX + group, packed)

    def subscribe(self, group: str) -> None:
        """Listen to a group from soon on; `confirmed` has when."""
        if group not in self.confirmed:
            self.confirmed[group] = self.loop.create_future()
            self._note_change(group)
        if self.task is None:
            # In a context of its own, which keeps nothing of the first member's alive.
            self.task = self.loop.create_task(self._run(), context=Context())

    def unsubscribe(self, group: str) -> None:
        """Listen to a group no longer."""
        if group in self.confirmed:
            future = self.confirmed.pop(group)
            if not future.done():
                future.set_result(None)  # Who still waits for it has left.
            self._note_change(group)

    async def close(self) -> None:
        """Close all connections."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        await self.client.aclose()

    # The subscription

    def _note_change(self, group: str) -> None:
        self.changed.add(group)
        self.has_changed.set()

    async def _run(self) -> None:
        """Keep the subscription up while any group is listened to."""
        try:
            while self.confirmed:
                try:
                    await self._listen()
                except Exception as error:
                    if isinstance(error, ExceptionGroup):
                        error = error.exceptions[0]
                    if not self.delay:
                        logger.error("Redis is lost, and with it what is published: %s", error)
                    self.delay = min(self.delay * 2 or 0.1, MAX_DELAY)
                    await asyncio.sleep(self.delay * random.uniform(0.5, 1))
        finally:
            self.task = None

    async def _listen(self) -> None:
        """Listen until there is no group to listen to; raises when the connection is lost."""
        async with self.client.pubsub() as pubsub:
            try:
                await self._ask(pubsub)
                async with asyncio.TaskGroup() as tasks:
                    reader = tasks.create_task(self._read(pubsub))
                    while self.confirmed:
                        await self.has_changed.wait()
                        await self._ask(pubsub)
                    reader.cancel()
            finally:
                self._forget()

    def _forget(self) -> None:
        """Note that Redis sends nothing for now: who joins has to wait for a new answer."""
        self.asked.clear()
        self.unanswered.clear()
        self.changed = set(self.confirmed)
        for group, future in self.confirmed.items():
            if future.done():
                self.confirmed[group] = self.loop.create_future()

    async def _ask(self, pubsub: PubSub) -> None:
        """Tell Redis which groups to send from now on, and which no longer."""
        self.has_changed.clear()
        changed, self.changed = self.changed, set()
        new = (changed & self.confirmed.keys()) - self.asked
        old = (changed & self.asked) - self.confirmed.keys()
        if new:
            self.asked |= new
            self.unanswered.update(new)
            await pubsub.subscribe(*(conf.REDIS_PREFIX + group for group in new))
        if old:
            self.asked -= old
            await pubsub.unsubscribe(*(conf.REDIS_PREFIX + group for group in old))
        for group in changed:
            self._confirm(group)  # Some were left and joined again meanwhile.

    async def _read(self, pubsub: PubSub) -> None:
        """Hand on what Redis sends; raises when it is silent even to a ping."""
        silent = False
        while True:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=PING_INTERVAL)
            if message is None:
                if silent:
                    raise ConnectionError("It does not answer.")
                silent = True
                await pubsub.ping()
                continue
            silent = False
            if self.delay:
                logger.warning("Redis is back.")
                self.delay = 0.0
            if message["type"] in ("message", "subscribe"):
                group = message["channel"].decode().removeprefix(conf.REDIS_PREFIX)
                if message["type"] == "message":
                    self.receive(group, message["data"])
                    # In a flood, let the server write what was delivered.
                    await asyncio.sleep(0)
                else:
                    self.unanswered[group] -= 1
                    if not self.unanswered[group]:
                        del self.unanswered[group]
                    self._confirm(group)

    def _confirm(self, group: str) -> None:
        """Let those in who wait to join a group, if Redis has answered all that it was asked."""
        future = self.confirmed.get(group)
        is_sent = group in self.asked and not self.unanswered[group]
        if future is not None and not future.done() and is_sent:
            future.set_result(None)
