"""The iterator of `subscribe()`, which keeps messages for the code that iterates over it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from websocket import conf
from websocket.counters import counters
from websocket.groups.membership import Memberships
from websocket.groups.memory import Hub
from websocket.groups.message import Message, MessagesMissed, SubscriberTooSlow, check_name
from websocket.resume import Position, Resume, key_of


class Subscription:
    """An async iterator over the messages of some groups, and an async context manager.

    As a context manager, it listens from the start of its block until the block ends.
    Canceling is safe in the block: a cancelled iteration loses no message, and a cancelled join
    changes nothing.

    Without a block, it listens from its first step on and ends as an async generator does: after a
    cancelled iteration, after `aclose`, or once nothing refers to it, as after a `break` out of
    `async for message in subscribe("orders")`.
    """

    def __init__(
        self, get_hub: Callable[[], Hub], groups: tuple[str, ...], positions: bool = False
    ) -> None:
        for group in groups:
            if isinstance(group, (frozenset, list, set, tuple)):
                raise ValueError(f"subscribe() takes names, as subscribe(*names); got {group!r}.")
            check_name(group)
        self._get_hub = get_hub
        self._groups = groups
        self._has_positions = positions
        # A hub keeps its members alive: as a member, this object would never be garbage-collected.
        self._mailbox: Mailbox | None = None
        self._has_block = False

    async def __aenter__(self) -> Subscription:
        self._has_block = True
        await self._begin()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Any:
        mailbox = await self._begin()
        try:
            message = await mailbox.get()
            if self._has_positions:
                return str(message.position or ""), message.value()
            return message.value()
        except BaseException:
            if not self._has_block:
                mailbox.close()
            raise

    async def join(self, group: str, since: str = "") -> bool:
        """Listen to another group, once this returns.

        With `positions=True`, `since` may be a position in the history of a group that has not been
        joined yet: what was published after it comes first. Returns whether all of that is there.
        Raises `ValueError` and `PublishError` as `subscribe` does, and `RuntimeError` once the
        subscription has ended.
        """
        check_name(group)
        mailbox = await self._begin()
        if mailbox.is_closed:
            raise RuntimeError("This subscription has ended: it cannot join a group.")
        position = Position.parse(since)
        if group not in mailbox.memberships.groups and mailbox.resume is not None:
            mailbox.resume.positions.pop(key_of(group), None)
            if position is not None and position.key == key_of(group):
                mailbox.resume.positions[position.key] = position
        return await mailbox.memberships.join(group)

    def leave(self, group: str) -> None:
        """Stop listening to a group. Messages that have arrived can still be received."""
        if self._mailbox is not None:
            self._mailbox.memberships.leave(group)

    async def aclose(self) -> None:
        """Leave all groups, and end the iteration."""
        if self._mailbox is None:
            self._mailbox = Mailbox(self._get_hub(), self._has_positions)
        self._mailbox.close()

    async def _begin(self) -> Mailbox:
        if self._mailbox is None:
            mailbox = self._mailbox = Mailbox(self._get_hub(), self._has_positions)
            try:
                for group in self._groups:
                    await mailbox.memberships.join(group)
            except BaseException:
                mailbox.close()
                self._mailbox = None
                raise
        return self._mailbox

    def __del__(self) -> None:
        # This can run in any thread.
        mailbox = getattr(self, "_mailbox", None)
        if mailbox is not None and mailbox.memberships.groups:
            with suppress(RuntimeError):  # The loop has ended.
                mailbox.memberships.hub.loop.call_soon_threadsafe(mailbox.close)


class Mailbox:
    """A subscription as a member of groups, and the messages that wait for it."""

    id = ""

    def __init__(self, hub: Hub, has_positions: bool = False) -> None:
        self.resume = Resume() if has_positions else None
        self.memberships = Memberships(hub, self)
        self.waiting: deque[Message] = deque()
        self.size = 0
        self.has_news = asyncio.Event()
        self.is_closed = False
        self.is_too_slow = False
        self.has_missed = False

    def close(self) -> None:
        self.memberships.leave_all()
        self.waiting.clear()
        self.is_closed = True
        self.has_news.set()

    def push(self, message: Message) -> None:
        if self.has_missed or self.is_too_slow:
            return
        if self.resume is not None and not self.resume.takes(message):
            if self.resume.held_size > conf.OUTBOX_SIZE:
                self.is_too_slow = True
                self.has_news.set()
            return
        self.waiting.append(message)
        self.size += message.size
        while self.size > conf.OUTBOX_SIZE and len(self.waiting) > 1:
            self.size -= self.waiting.popleft().size
            self.is_too_slow = conf.SLOW_CLIENT != "drop" or self.resume is not None
            counters["dropped"] += 1
        self.has_news.set()

    def reach(self, position: Position, is_complete: bool) -> None:
        """Do nothing: each message has its position."""

    def missed(self) -> None:
        self.has_missed = True
        self.has_news.set()

    async def get(self) -> Message:
        """Return the next message, or stop the iteration."""
        while not (self.waiting or self.is_closed or self.has_missed or self.is_too_slow):
            self.has_news.clear()
            await self.has_news.wait()
        if self.is_too_slow:
            self.close()
            raise SubscriberTooSlow("This subscriber did not take its messages in time.")
        if self.is_closed:
            raise StopAsyncIteration
        if self.has_missed and not self.waiting:
            self.close()
            raise MessagesMissed("Messages to this subscriber may have been missed.")
        message = self.waiting.popleft()
        self.size -= message.size
        return message
