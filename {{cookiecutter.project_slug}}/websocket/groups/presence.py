"""Presence: the members of a group, one for each user, and the signal for changes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import django
from asgiref.sync import sync_to_async
from django.dispatch import Signal

from websocket.groups.message import PublishError
from websocket.protocol import encode_json

logger = logging.getLogger("django.websocket")

# Bytes of JSON that one member's info may have.
MAX_INFO: Final = 1024

EXAMPLE: Final = 'such as {"name": "Anna"}'

# Seconds in which a user can come back, for example by loading the page again, without having left.
RETURN: Final = 15.0

#: Sent when a group gets a new member, a user or an anonymous visitor's socket, and when the last
#: socket of a member has left. It is sent in the process where this happened. If that process has
#: died, another one with members in the group sends it. Keyword arguments: `group`, `key`, `info`,
#: and `joined`, a bool. Receivers run in a thread: they may use the ORM, `publish` and `members`.
presence_changed = Signal()


class Identity(NamedTuple):
    """The member that a socket stands for: a user by primary key, or the socket itself by id."""

    key: str
    is_user: bool


class Owner(Protocol):
    """The hub that presence and tasks belong to."""

    #: Makes the running task's sync code run in a thread for sockets.
    enter_thread: Callable[[], None]


class Present:
    """A member of a group, as far as this process is concerned."""

    __slots__ = ("count", "entered", "info", "lock", "timer")

    def __init__(self) -> None:
        #: The number of its sockets in this process.
        self.count = 0
        #: The info as JSON: the latest one, and the one that was entered, if any.
        self.info = ""
        self.entered: str | None = None
        #: Held while the entry changes, so that its changes reach Redis in their order.
        self.lock = asyncio.Lock()
        #: Runs while a user may come back.
        self.timer: asyncio.TimerHandle | None = None


class Presence:
    """The members of the groups of one event loop; the methods that Redis needs are overridden."""

    def __init__(self, owner: Owner) -> None:
        self.loop = asyncio.get_running_loop()
        self.owner = owner
        self.groups: dict[str, dict[str, Present]] = {}
        #: The changes that receivers are still to be told of: one for each member, because a leave
        #: after a join that nobody was told of needs no telling.
        self.changes: dict[tuple[str, str], tuple[str, bool]] = {}
        self.is_telling = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.is_closed = False

    def local(self, group: str) -> dict[str, str]:
        """Return this process's members and their infos as JSON."""
        present = self.groups.get(group, {})
        return {key: one.entered for key, one in list(present.items()) if one.entered is not None}

    async def join(self, group: str, identity: Identity, info: str) -> None:
        """Count one more socket of a member; raises `PublishError` if Redis cannot be reached."""
        present = self.groups.setdefault(group, {}).setdefault(identity.key, Present())
        if present.timer is not None:
            present.timer.cancel()
        present.count += 1
        present.info = info
        try:
            # Not cancelled with the join: Redis may have the entry by then.
            await asyncio.shield(self.run(self.settle(group, identity.key, present)))
        except BaseException:
            self.leave(group, identity)
            raise

    def leave(self, group: str, identity: Identity) -> None:
        """Count one socket less. A user has RETURN seconds to come back."""
        present = self.groups[group][identity.key]
        present.count -= 1
        if not (present.count or self.is_closed):
            delay = RETURN if identity.is_user else 0.0
            leave = partial(self.settle_soon, group, identity.key, present)
            present.timer = self.loop.call_later(delay, leave, context=Context())

    def settle_soon(self, group: str, key: str, present: Present) -> None:
        if not (present.count or self.is_closed):
            self.run(self.leave_if_gone(group, key, present))

    async def leave_if_gone(self, group: str, key: str, present: Present) -> None:
        with suppress(PublishError):  # Redis forgets it by itself.
            await self.settle(group, key, present)
        if not present.count and self.groups.get(group, {}).get(key) is present:
            del self.groups[group][key]
            if not self.groups[group]:
                del self.groups[group]

    async def settle(self, group: str, key: str, present: Present) -> None:
        """Enter or remove a member, so that its entry agrees with the number of its sockets."""
        async with present.lock:
            info, entered = present.info, present.entered
            if present.count and entered != info:
                try:
                    is_new = await self.enter(group, key, info)
                except PublishError:
                    if entered is None:
                        with suppress(PublishError):  # Only its answer may have been lost.
                            await self.remove(group, key)
                    raise
                present.entered = info
                if is_new and entered is None:
                    self.tell(group, key, info, True)
            elif not present.count and entered is not None:
                present.entered = None
                if await self.remove(group, key):
                    self.tell(group, key, entered, False)

    async def enter(self, group: str, key: str, info: str) -> bool:
        """Enter a member or its new info; return whether no other process has it."""
        return True

    async def remove(self, group: str, key: str) -> bool:
        """Remove a member; return whether no other process has it."""
        return True

    def tell(self, group: str, key: str, info: str, joined: bool) -> None:
        """Send the signal, after those before it."""
        if not presence_changed.has_listeners():
            return
        waiting = self.changes.pop((group, key), None)
        if waiting is None or waiting[1] == joined:
            self.changes[group, key] = info, joined
        if not self.is_telling:
            self.is_telling = True
            self.run(self.send_changes())

    async def send_changes(self) -> None:
        self.owner.enter_thread()
        try:
            while self.changes:
                group, key = next(iter(self.changes))
                info, joined = self.changes.pop((group, key))
                arguments = {"group": group, "key": key, "info": json.loads(info), "joined": joined}
                send = sync_to_async(presence_changed.send_robust)
                for _, error in await send(sender=None, **arguments):
                    if isinstance(error, Exception) and django.VERSION < (4, 2):
                        # Later versions log it themselves.
                        logger.error("A receiver of presence_changed failed.", exc_info=error)
        finally:
            self.is_telling = False

    def run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In an empty context, so that the task keeps no data of a member alive.
        task = self.loop.create_task(coroutine, context=Context())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def close(self) -> None:
        """Stop. Members stay in Redis until they expire: pages can go to another process."""
        self.is_closed = True
        self.stop()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=1)

    def stop(self) -> None:
        """Stop what does not end by itself."""


def encode_info(info: Any) -> str:
    """Return a member's info as JSON; raises `TypeError` or `ValueError` if it cannot be kept."""
    try:
        encoded: str = encode_json(info)
    except TypeError as error:
        raise TypeError(f"presence= takes a value for JSON, {EXAMPLE}: {error}") from None
    if (size := len(encoded.encode())) > MAX_INFO:
        raise ValueError(
            f"presence= may have {MAX_INFO} bytes of JSON, {EXAMPLE}; this one has {size}."
        )
    return encoded
