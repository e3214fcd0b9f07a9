"""Groups over Redis: each process has one subscription, and fans out to its own members."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from websocket import conf
from websocket.groups.memory import Hub, is_loop_running
from websocket.groups.message import Member, Message, PublishError
from websocket.groups.server import ERRORS, RedisServer, options

logger = logging.getLogger("django.websocket")


@contextmanager
def publish_errors(problem: str) -> Iterator[None]:
    """Convert redis-py's exceptions to `PublishError`."""
    try:
        yield
    except ERRORS as error:
        raise PublishError(f"{problem}: {error}") from error


class RedisHub(Hub):
    """The groups of one event loop, whose messages come from Redis."""

    def __init__(self) -> None:
        super().__init__()
        #: The groups to which other programs publish, to log one warning for each.
        self.foreign: set[str] = set()
        self.server = RedisServer(conf.REDIS_URL, self.receive, self.missed)

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
        if is_loop_running():
            warnings.warn(
                "publish() holds up all sockets while it waits for Redis: use `await apublish()` "
                "in async code.",
                RuntimeWarning,
                stacklevel=4,
            )
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
                    "ignored. Set WEBSOCKET_REDIS_PREFIX to one that no other program uses.",
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
        """Close the loop's connections to Redis, including its subscription."""
        await super().close()
        await self.server.close()


@cache
def _client(url: str, timeout: float) -> redis.Redis:
    """Return the client for sync code, whose connections any thread may use."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options(timeout))
