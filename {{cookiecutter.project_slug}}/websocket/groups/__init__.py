"""Groups: send one message to many sockets, of this process or, with Redis, of all processes.

A group is a name. It exists while it has members: sockets that joined it, and `subscribe()`.
The messages of one publisher are delivered in their order. Those published before a join, or while
a socket is away, are delivered only in groups with a history (WEBSOCKET_HISTORY).

If REDIS_URL is not set, groups live in the memory of the process that serves the sockets, and
only that process can publish to them. With it, any process can publish to all serving processes.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websocket import conf
from websocket.counters import counters
from websocket.groups.memory import Hub, has_history, hubs, new_id
from websocket.groups.message import (
    Member,
    Message,
    MessagesMissed,
    PublishError,
    Socket,
    SubscriberTooSlow,
    check_name,
    id_of,
)
from websocket.groups.presence import presence_changed
from websocket.groups.subscription import Subscription

__all__ = [
    "Hub",
    "Member",
    "Message",
    "MessagesMissed",
    "PublishError",
    "SubscriberTooSlow",
    "amember_count",
    "amembers",
    "aposition",
    "apublish",
    "can_publish",
    "check_name",
    "close_hub",
    "counters",
    "get_hub",
    "member_count",
    "members",
    "new_id",
    "ping",
    "position",
    "presence_changed",
    "publish",
    "publish_message",
    "subscribe",
]


def publish(group: str, message: Any, *, exclude: Socket | str | None = None) -> None:
    """Send a message to a group's members except `exclude`, a socket or its id; from sync code.

    A str goes out as a text message, bytes as a binary one, anything else as JSON in text, where
    dates, decimals and UUIDs become strings. Works in any thread and process: in views, signal
    handlers, `transaction.on_commit`, management commands and task queues. It does not wait for
    the members; a thread that is far ahead of the event loop is slowed down. Raises `ValueError`
    for an invalid group name, `TypeError` for a value that JSON cannot hold, and `PublishError`
    when Redis is used but cannot be reached within WEBSOCKET_REDIS_TIMEOUT. With Redis it waits for
    the network: async code should use `apublish`, and gets a warning if it does not.
    """
    check_name(group)
    publish_message(group, Message.encode(message), exclude)


async def apublish(group: str, message: Any, *, exclude: Socket | str | None = None) -> None:
    """Send a message to all members of a group; from async code. Otherwise as `publish`."""
    check_name(group)
    await get_hub().apublish(group, Message.encode(message), id_of(exclude))


def subscribe(*groups: str, positions: bool = False) -> Subscription:
    """Iterate over the messages of some groups: for views that filter, or code without a socket.

        async with subscribe("page.1") as inbox:  # From here on, nothing is missed.
            await inbox.join("page.2")
            inbox.leave("page.1")
            async for message in inbox: ...

    Yields str, bytes, or the value of a message published as JSON; with `positions=True` pairs of
    the position (empty for a group without a history) and that. `async for message in
    subscribe("orders")` works as well, but listens only from its first step on. Raises
    `ValueError` as `publish` does, `PublishError` when Redis cannot be reached to join, and
    `SubscriberTooSlow` when more than WEBSOCKET_OUTBOX_SIZE bytes wait, unless
    WEBSOCKET_SLOW_CLIENT is "drop": then the oldest messages are dropped. Raises `MessagesMissed`
    after an outage of Redis in which messages may have been lost.
    """
    return Subscription(get_hub, groups, positions)


def position(group: str) -> str:
    """Return the position of a group's last message, for a page that shows the group's state.

    Read it before the state, and give it to the page: `new ReconnectingWebSocket(url, [],
    {resume: position})` then gets everything that was published since. From sync code; raises
    `ValueError` for a group that WEBSOCKET_HISTORY gives no history, and `PublishError` when Redis
    is used but cannot be reached. Empty if this process serves no sockets and has no Redis.
    """
    check_history(group)
    return _hub_class().position(group)


async def aposition(group: str) -> str:
    """Return the position of a group's last message; from async code. Otherwise as `position`."""
    check_history(group)
    return await get_hub().aposition(group)


def check_history(group: str) -> None:
    """Raise `ValueError` for a group without a history."""
    check_name(group)
    if not has_history(group):
        raise ValueError(f"The group {group!r} has no history: add it to WEBSOCKET_HISTORY.")


def members(group: str) -> dict[str, Any]:
    """Return the members of a group that joined with `presence=`: their keys, and their infos.

    The key is a user's primary key as a str, however many sockets the user has, or the id of an
    anonymous visitor's socket. A user stays a member for 15 seconds after the last socket has left,
    so that a reload changes nothing. From sync code; raises `ValueError` for an invalid group name,
    and `PublishError` when Redis is used but cannot be reached. Without Redis, these are the
    members in this process. For a large group, `member_count` is cheaper.
    """
    check_name(group)
    return {key: json.loads(info) for key, info in _hub_class().members_of(group).items()}


async def amembers(group: str) -> dict[str, Any]:
    """Return the members of a group; from async code. Otherwise as `members`."""
    check_name(group)
    return {key: json.loads(info) for key, info in (await get_hub().amembers_of(group)).items()}


def member_count(group: str) -> int:
    """Return the number of members of a group; from sync code. Otherwise as `members`."""
    check_name(group)
    return _hub_class().count_members(group)


async def amember_count(group: str) -> int:
    """Return the number of members of a group; from async code. Otherwise as `members`."""
    check_name(group)
    return await get_hub().acount_members(group)


def publish_message(group: str, message: Message, exclude: Socket | str | None = None) -> None:
    """Publish a message, as `publish` does, to a group whose name has been checked."""
    _hub_class().publish(group, message, id_of(exclude))


def can_publish() -> bool:
    """Return whether this process can reach sockets: its own or, with Redis, all processes'."""
    return _hub_class().can_publish()


def ping() -> None:
    """Check that Redis answers, if it is used; raises `PublishError` if it does not."""
    _hub_class().ping()


def get_hub() -> Hub:
    """Return the hub of the running event loop."""
    return hubs.get(asyncio.get_running_loop()) or _hub_class()()


async def close_hub() -> None:
    """Close the hub of the running event loop, if there is one."""
    if hub := hubs.get(asyncio.get_running_loop()):
        await hub.close()


def _hub_class() -> type[Hub]:
    if not conf.REDIS_URL:
        return Hub
    # Imported only when it is used, because it needs the package `redis`.
    from websocket.groups.redis import RedisHub

    return RedisHub
