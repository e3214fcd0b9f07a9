"""Presence: who is in a group, told apart by user, and when that changes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, NamedTuple

from asgiref.sync import sync_to_async
from django.dispatch import Signal

from websocket.groups.message import PublishError
from websocket.protocol import encode_json

logger = logging.getLogger("django.websocket")

# Bytes of JSON that one member's info may have.
MAX_INFO: Final = 1024

# Seconds in which a user can come back, for example by loading the page again, without having left.
RETURN: Final = 15.0

#: Sent when a user, or an anonymous visitor's socket, becomes a member of a group and when the last
#: socket of it has left, in the process where that happened; or where it is noticed, if a process
#: has died. Keyword arguments: `group`, `key`, `info` and `joined`, a bool. Receivers run in a
#: thread, so they may use the ORM, `publish` and `members`.
presence_changed = Signal()


class Identity(NamedTuple):
    """The member that a socket stands for: a user by primary key, or the socket itself by id."""

    key: str
    is_user: bool


class Present:
    """A member of a group, as far as this process is concerned."""

    __slots__ = ("count", "info", "is_entered", "lock")

    def __init__(self) -> None:
        #: The number of its sockets in this process.
        self.count = 0
        #: The info as JSON: the latest one, and the one that was entered.
        self.info = ""
        self.is_entered: str | None = None
        #: Held while the entry changes, so that its changes reach Redis in their order.
        self.lock = asyncio.Lock()


class Presence:
    """The members of the groups of one event loop; the methods that Redis needs are overridden.

    `enter_thread` makes the running task's sync code run in a thread for sockets.
    """

    def __init__(self, enter_thread: Callable[[], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.enter_thread = enter_thread
        self.groups: dict[str, dict[str, Present]] = {}
        #: Changes that the signal's receivers are still to be told of.
        self.changes: deque[dict[str, Any]] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.is_closed = False

    def local(self, group: str) -> dict[str, str]:
        """Return this process's members and their infos as JSON."""
        present = self.groups.get(group, {})
        return {key: one.info for key, one in list(present.items()) if one.is_entered is not None}

    async def join(self, group: str, identity: Identity, info: str) -> None:
        """Count one more socket of a member; raises `PublishError` if Redis cannot be reached."""
        present = self.groups.setdefault(group, {}).setdefault(identity.key, Present())
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
            self.loop.call_later(delay, self.settle_soon, group, identity.key, context=Context())

    def settle_soon(self, group: str, key: str) -> None:
        present = self.groups.get(group, {}).get(key)
        if not (present is None or present.count or self.is_closed):
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
            info = present.info
            if present.count and present.is_entered != info:
                is_first = await self.enter(group, key, info)
                present.is_entered = info
                if is_first:
                    self.tell(group, key, info, True)
            elif not present.count and present.is_entered is not None:
                present.is_entered = None
                if await self.remove(group, key):
                    self.tell(group, key, info, False)

    async def enter(self, group: str, key: str, info: str) -> bool:
        """Enter a member or its new info; return whether it is new in the group."""
        return self.groups[group][key].is_entered is None

    async def remove(self, group: str, key: str) -> bool:
        """Remove a member; return whether it has no socket left, in any process."""
        return True

    def tell(self, group: str, key: str, info: str, joined: bool) -> None:
        """Send the signal, after those before it."""
        if not presence_changed.has_listeners():
            return
        self.changes.append(
            {"group": group, "key": key, "info": json.loads(info), "joined": joined}
        )
        if len(self.changes) == 1:
            self.run(self.send_changes())

    async def send_changes(self) -> None:
        self.enter_thread()
        while self.changes:
            try:
                await sync_to_async(presence_changed.send)(sender=None, **self.changes[0])
            except Exception:
                logger.exception("A receiver of presence_changed failed.")
            self.changes.popleft()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In an empty context, so that the task keeps no data of a member alive.
        task = self.loop.create_task(coroutine, context=Context())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def close(self) -> None:
        """Stop. Users whom only this process knows have left if they do not return to another."""
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
        raise TypeError(f"presence= takes a value that JSON can hold: {error}") from error
    if (size := len(encoded.encode())) > MAX_INFO:
        raise ValueError(f"presence= may have {MAX_INFO} bytes of JSON; this one has {size}.")
    return encoded
