"""Connections to a Redis server: some to publish, and one to listen while there is a group."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any, cast

import redis
import redis.asyncio
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from websocket import conf
from websocket.groups.message import PublishError
from websocket.redis_url import Address

logger = logging.getLogger("django.websocket")

# Exceptions that redis-py raises when Redis is out of reach. The last is uvloop's, for a connection
# that is lost while redis-py opens it.
ERRORS = (redis.RedisError, OSError, TimeoutError, RuntimeError)

# Seconds between two checks of a listening connection, and the maximum between two attempts to
# connect.
CHECK_EVERY = 10.0
MAX_DELAY = 2.0

# Seconds for which messages from Redis are delivered before the event loop does something else.
TURN = 0.005

# The most connections of one process: to publish at the same time, and one to listen.
MAX_CONNECTIONS = 20

#: Returns the client of the server on which a group lives.
ClientOf = Callable[[str], redis.asyncio.Redis]


def cancellations() -> int:
    """Return how often the running task, if any, was cancelled, even if that was swallowed.

    `asyncio.wait_for`, which redis-py uses, may do so in Python 3.11, and a task group with errors.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:  # This is sync code.
        return 0
    return 0 if task is None else task.cancelling()


@contextmanager
def publish_errors(problem: str) -> Iterator[None]:
    """Convert redis-py's exceptions to `PublishError`; raise a cancellation that it swallows."""
    before = cancellations()
    try:
        yield
    except ERRORS as error:
        if cancellations() <= before:
            raise PublishError(f"{problem}: {error}") from error
    if cancellations() > before:
        raise asyncio.CancelledError


def register(client_of: ClientOf, *scripts: str) -> list[Any]:
    """Return scripts for redis-py, to be called with the client of a group's server."""
    # A script needs a client to exist, and any one will do.
    return [client_of("").register_script(script) for script in scripts]


def options(timeout: float) -> dict[str, Any]:
    # No retries, because an automatic retry could publish twice. RESP2, because with RESP3,
    # redis-py 8 publishes over connections that the server has closed while they were idle.
    return {"protocol": 2, "socket_connect_timeout": timeout, "socket_timeout": timeout}


def master(module: Any, address: Address, settings: dict[str, Any], **pool: Any) -> Any:
    """Return a client of `redis` or `redis.asyncio` for the server that Sentinels name.

    The login in the URL is for the server. The one for the Sentinels is in the query.
    """
    for_server = {**settings, **pool, **module.connection.parse_url(address.url)}
    username = for_server.pop("sentinel_username", None)
    password = for_server.pop("sentinel_password", None)
    for_sentinels = dict(settings)
    if password:
        # Not as arguments, which redis-py may show when no Sentinel answers.
        login = redis.UsernamePasswordCredentialProvider(username, password)
        for_sentinels["credential_provider"] = login
    sentinel = module.Sentinel(address.sentinels, sentinel_kwargs=for_sentinels)
    return sentinel.master_for(address.service, **for_server)


class SentinelPool(SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Connections to the server that Sentinels name; a publisher waits if all are busy."""


class Channel:
    """A group whose messages a server is asked for."""

    __slots__ = ("has_gap", "is_confirmed")

    def __init__(self) -> None:
        #: Set while Redis sends the group's messages.
        self.is_confirmed = asyncio.Event()
        #: Whether members may have missed messages.
        self.has_gap = False


class RedisServer:
    """The connections of one event loop to a Redis server."""

    def __init__(
        self,
        address: Address,
        receive: Callable[[str, bytes], None],
        missed: Callable[[str], None],
    ) -> None:
        self.name = address.name
        self.sentinels: list[redis.asyncio.Redis] = []
        self.client = self._open(address)
        #: Called with each message, and with each group whose messages may have been missed.
        self.receive = receive
        self.missed = missed
        self.loop = asyncio.get_running_loop()
        self.channels: dict[str, Channel] = {}
        #: The groups to subscribe to or unsubscribe from.
        self.changed: set[str] = set()
        self.has_changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        #: Seconds until the next attempt to connect, if the last one failed.
        self.delay = 0.0

    def _open(self, address: Address) -> redis.asyncio.Redis:
        # The connections belong to the running event loop. A publisher waits if all are busy.
        settings = {"retry": Retry(NoBackoff(), 0), **options(conf.REDIS_TIMEOUT)}
        limits: dict[str, Any] = {"max_connections": MAX_CONNECTIONS, "timeout": conf.REDIS_TIMEOUT}
        if not address.sentinels:
            kind = redis.asyncio.BlockingConnectionPool
            return redis.asyncio.Redis.from_pool(kind.from_url(address.url, **limits, **settings))
        pool = {"connection_pool_class": SentinelPool, **limits}
        client = master(redis.asyncio, address, settings, **pool)
        self.sentinels = client.connection_pool.sentinel_manager.sentinels
        return cast(redis.asyncio.Redis, client)

    async def publish(self, group: str, packed: bytes) -> None:
        await self.client.publish(conf.REDIS_PREFIX + group, packed)

    def subscribe(self, group: str) -> Channel:
        """Start listening to a group, without waiting until Redis confirms it."""
        channel = self.channels.get(group)
        if channel is None:
            channel = self.channels[group] = Channel()
            self._note_change(group)
        if self.task is None:
            # In an empty context, so that the task keeps no data of the first member alive.
            self.task = self.loop.create_task(self._run(), context=Context())
        return channel

    def unsubscribe(self, group: str) -> None:
        """Stop listening to a group."""
        if channel := self.channels.pop(group, None):
            channel.is_confirmed.set()  # Any member that still waits for it has left.
            self._note_change(group)

    async def close(self) -> None:
        """Close all connections."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        for client in (self.client, *self.sentinels):
            await client.aclose()

    def _note_change(self, group: str) -> None:
        self.changed.add(group)
        self.has_changed.set()

    async def _run(self) -> None:
        """Listen while there is a group to listen to, with a new connection if one is lost."""
        try:
            while self.channels and not cancellations():
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
            logger.error("Listening to Redis failed: trying again.", exc_info=error)
        elif not self.delay:
            logger.error(
                "Redis does not answer (%s), and what is published is lost: start it, or correct "
                "REDIS_URL: %s",
                self.name,
                errors[0],
            )
        self.delay = min(self.delay * 2 or 0.1, MAX_DELAY)

    def confirm(self, group: str) -> None:
        """Note that Redis sends the messages of a group from now on."""
        if self.delay:
            logger.warning("Redis is back (%s).", self.name)
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

    def __init__(self, server: RedisServer, pubsub: PubSub) -> None:
        self.server = server
        self.pubsub = pubsub
        #: The groups that Redis was asked for, and the numbers of answers still to come.
        self.asked: set[str] = set()
        self.unanswered: Counter[str] = Counter()
        #: Its own group, for checks, and the numbers of checks that were sent and have come.
        self.group = f"@{uuid.uuid4().hex}"
        self.sent = self.came = 0
        self.is_silent = False

    async def run(self) -> None:
        """Listen until there is no group to listen to; raises when the connection is lost."""
        await self.pubsub.subscribe(conf.REDIS_PREFIX + self.group)
        await self.ask()
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(self.read()), tasks.create_task(self.check())]
            while self.server.channels and not cancellations():
                await self.server.has_changed.wait()
                await self.ask()
            for task in others:
                task.cancel()

    async def ask(self) -> None:
        """Subscribe to new groups, and unsubscribe from those that are no longer needed."""
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
        """Handle the messages and answers that Redis sends."""
        turn_ends = 0.0
        while not cancellations():
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
                    # Let the server write delivered messages during a flood, but not after each
                    # one: a busy event loop would fall behind.
                    if time.monotonic() >= turn_ends:
                        await asyncio.sleep(0)
                        turn_ends = time.monotonic() + TURN
            elif kind == "subscribe":
                self.answered(message["channel"].decode().removeprefix(conf.REDIS_PREFIX))
            elif kind == "pong" and self.came < int(data or 0):
                raise ConnectionError("It answers, but does not send published messages.")

    def answered(self, group: str) -> None:
        """Note an answer; for a group that was left and joined again, only the last one counts."""
        self.unanswered[group] -= 1
        if self.unanswered[group] > 0:
            return
        del self.unanswered[group]
        if group in self.asked:
            self.server.confirm(group)

    async def check(self) -> None:
        """Check regularly that published messages arrive; raise an exception if they do not.

        An answer to a ping is no proof: a proxy that has connected again by itself, or a server
        that was replaced, answers but does not know the subscription.
        """
        while not cancellations():
            await asyncio.sleep(CHECK_EVERY)
            if self.is_silent:
                raise ConnectionError("It does not answer.")
            self.is_silent = True
            with suppress(*ERRORS):  # All connections may be busy: then the ping has to suffice.
                await self.server.publish(self.group, b"")
                self.sent += 1
            # Its answer comes after the messages published before it.
            await self.pubsub.ping(str(self.sent))
