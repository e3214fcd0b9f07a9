"""Groups over Redis: each process has one subscription, and fans out to its own members."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable
from functools import cache
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from websocket import conf
from websocket.counters import counters
from websocket.groups import memory
from websocket.groups.following import Following
from websocket.groups.memory import Hub, has_history, is_loop_running
from websocket.groups.message import Member, Message, PublishError, socket_of
from websocket.groups.redis_history import (
    PUBLISH,
    READ,
    Stored,
    split,
    to_publish,
    to_read,
    unpack_stored,
)
from websocket.groups.redis_presence import RedisPresence
from websocket.groups.redis_tasks import RedisLeases
from websocket.groups.server import RedisServer, master, options, publish_errors
from websocket.redis_url import Address, choose, parse_all
from websocket.resume import Position, key_of

logger = logging.getLogger("django.websocket")


class RedisHub(Hub):
    """The groups of one event loop, whose messages come from Redis."""

    def __init__(self) -> None:
        #: The channels to which other programs publish, to log one warning for each.
        self.foreign: set[str] = set()
        self.servers = {
            address.name: RedisServer(address, self.receive, self.lost)
            for address in parse_all(conf.REDIS_URL)
        }
        super().__init__()
        self.following = Following(self.client_of, self.fan_out, self.missed)

    def share(self) -> tuple[RedisPresence, RedisLeases]:
        return RedisPresence(self, self.client_of), RedisLeases(self.client_of)

    def server_of(self, channel: str) -> RedisServer:
        """Return the server of a channel, and of all else that belongs to its group."""
        return choose(channel, self.servers)

    def client_of(self, group: str) -> redis.asyncio.Redis:
        return self.server_of(group).client

    def serve(self, enter_thread: Callable[[], None]) -> None:
        """Listen to the channel of this process's sockets, before the first of them is open."""
        super().serve(enter_thread)
        channel = channel_of_sockets(memory.process)
        self.server_of(channel).subscribe(channel)

    @classmethod
    def ping(cls) -> None:
        for name, client in _clients(conf.REDIS_URL, conf.REDIS_TIMEOUT).items():
            with publish_errors(f"Redis does not answer ({name})"):
                client.ping()

    @classmethod
    def can_publish(cls) -> bool:
        return True

    @classmethod
    def publish(cls, group: str, message: Message, exclude: str | None) -> None:
        """Publish to all processes; raises `PublishError` when Redis is out of reach."""
        warn_of_wait("publish", 5)
        channel, only = channel_of(group)
        client = _client_of(channel)
        packed = message.pack(exclude, only)
        with publish_errors(f"Redis did not take a message to {group!r}"):
            if has_history(group):
                client.register_script(PUBLISH)(**to_publish(group, packed))
            else:
                client.publish(conf.REDIS_PREFIX + channel, packed)

    async def apublish(self, group: str, message: Message, exclude: str | None) -> None:
        channel, only = channel_of(group)
        packed = message.pack(exclude, only)
        with publish_errors(f"Redis did not take a message to {group!r}"):
            if has_history(group):
                await self.following.publish(group, packed)
            else:
                await self.server_of(channel).publish(channel, packed)

    @classmethod
    def position(cls, group: str) -> str:
        """Return a group's position; raises `PublishError` as `publish` does."""
        warn_of_wait("position", 4)
        script = _client_of(group).register_script(READ)
        with publish_errors(f"Redis did not return the position of {group!r}"):
            answer = script(**to_read(group, None))
        return position_of(group, unpack_stored(group, answer))

    async def aposition(self, group: str) -> str:
        return position_of(group, await self.following.read(group, None))

    async def catch_up(
        self, group: str, since: Position | None
    ) -> tuple[Position | None, list[Message] | None]:
        return await self.following.catch_up(group, since)

    @classmethod
    def members_of(cls, group: str) -> dict[str, str]:
        """Return the members in all processes; raises `PublishError` as `publish` does."""
        warn_of_wait("members", 4)
        found = _client_of(group).hscan_iter(conf.redis_key(group, "i"), count=500)
        with publish_errors(f"Redis did not return the members of {group!r}"):
            return dict(map(unpack_member, found))

    @classmethod
    def count_members(cls, group: str) -> int:
        warn_of_wait("member_count", 4)
        client = _client_of(group)
        with publish_errors(f"Redis did not count the members of {group!r}"):
            return int(client.hlen(conf.redis_key(group, "i")))

    async def amembers_of(self, group: str) -> dict[str, str]:
        found = self.client_of(group).hscan_iter(conf.redis_key(group, "i"), count=500)
        with publish_errors(f"Redis did not return the members of {group!r}"):
            return dict([unpack_member(item) async for item in found])

    async def acount_members(self, group: str) -> int:
        with publish_errors(f"Redis did not count the members of {group!r}"):
            return int(await self.client_of(group).hlen(conf.redis_key(group, "i")))

    def add(self, group: str, member: Member) -> None:
        super().add(group, member)
        channel, _ = channel_of(group)
        self.server_of(channel).subscribe(channel)

    async def until_ready(self, group: str) -> None:
        """Wait until Redis has confirmed that this process gets the group's messages.

        Raises `PublishError` if it does not within WEBSOCKET_REDIS_TIMEOUT.
        """
        name, _ = channel_of(group)
        channel = self.server_of(name).subscribe(name)
        try:
            async with asyncio.timeout(conf.REDIS_TIMEOUT):
                await channel.is_confirmed.wait()
        except TimeoutError as error:
            channel.has_gap = True
            raise PublishError(f"Redis cannot be reached to join {group!r}.") from error
        # All may have left while this waited.
        if has_history(group) and self.has_members(group):
            await self.following.begin(group)

    def release(self, group: str) -> None:
        super().release(group)
        channel, only = channel_of(group)
        if not (self.has_members(channel) if only is None else self.has_sockets(channel)):
            self.server_of(channel).unsubscribe(channel)
            self.foreign.discard(channel)
            self.following.forget(group)

    def has_members(self, group: str) -> bool:
        return group in self.members or group in self.joining

    def has_sockets(self, channel: str) -> bool:
        """Return whether this process serves the sockets of a channel, or listens to one."""
        if self.is_serving and channel == channel_of_sockets(memory.process):
            return True
        return any(channel_of(group)[0] == channel for group in (*self.members, *self.joining))

    def receive(self, channel: str, packed: bytes) -> None:
        """Deliver a message; warn of one that is not from this project."""
        position = None
        try:
            if packed[:1].isdigit():
                position, packed = split(channel, packed)
            message, exclude, only = Message.unpack(packed)
        except ValueError:
            if channel not in self.foreign:
                self.foreign.add(channel)
                logger.warning(
                    "Another program publishes to the Redis channel %r, and its messages are "
                    "ignored. Set WEBSOCKET_REDIS_PREFIX to one that no other program uses.",
                    conf.REDIS_PREFIX + channel,
                )
            return
        if position is None:
            self.fan_out(f"socket.{only}" if only else channel, message, exclude)
        else:
            self.following.arrived(channel, *position, message, exclude)

    def lost(self, channel: str) -> None:
        """Handle a possible loss of messages, now that the subscription is back."""
        if has_history(channel):
            self.following.lost(channel)
        elif channel.startswith("@sockets."):
            for group in [group for group in self.members if channel_of(group)[0] == channel]:
                self.missed(group)
        else:
            self.missed(channel)

    def missed(self, group: str) -> None:
        """Tell the members of a group that messages to it may have been missed."""
        counters["gaps"] += 1
        for member in tuple(self.members.get(group, ())):
            try:
                member.missed()
            except Exception:
                logger.exception("%r failed when it was told of missed messages.", member)

    async def disconnect(self) -> None:
        """Close the loop's connections to Redis, including its subscription."""
        self.following.close()
        await asyncio.gather(*(server.close() for server in self.servers.values()))


def position_of(group: str, stored: Stored | None) -> str:
    return "" if stored is None else str(Position(key_of(group), stored.epoch, stored.offset))


def unpack_member(item: tuple[bytes, bytes]) -> tuple[str, str]:
    """Return a member's key and its info as JSON, without the number of its holders."""
    key, value = item
    return key.decode(), value.partition(b" ")[2].decode()


def channel_of(group: str) -> tuple[str, str | None]:
    """Return the channel that carries a group's messages, and the socket's id in `socket.<id>`.

    The sockets of a process share a channel, so that an open socket needs none of its own.
    """
    id = socket_of(group)
    return (channel_of_sockets(id[: len(memory.process)]), id) if id else (group, None)


def channel_of_sockets(process: str) -> str:
    return f"@sockets.{process}"


def warn_of_wait(name: str, level: int) -> None:
    """Warn of a sync function in an event loop; `level` is the caller's in the stack."""
    if is_loop_running():
        warnings.warn(
            f"{name}() holds up all sockets while it waits for Redis: use `await a{name}()` in "
            "async code.",
            RuntimeWarning,
            stacklevel=level,
        )


def _client_of(channel: str) -> redis.Redis:
    """Return the client for sync code of the server that has a channel, and its group."""
    return choose(channel, _clients(conf.REDIS_URL, conf.REDIS_TIMEOUT))


@cache
def _clients(urls: str, timeout: float) -> dict[str, redis.Redis]:
    """Return the clients for sync code by servers' names; any thread may use their connections."""
    return {address.name: _open(address, timeout) for address in parse_all(urls)}


def _open(address: Address, timeout: float) -> redis.Redis:
    settings = {"retry": Retry(NoBackoff(), 0), **options(timeout)}
    if address.sentinels:
        return cast(redis.Redis, master(redis, address, settings))
    return redis.Redis.from_url(address.url, **settings)
