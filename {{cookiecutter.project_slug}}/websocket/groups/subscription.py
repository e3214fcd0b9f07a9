"""A `subscribe()`: messages that wait for the code that iterates over them."""

from __future__ import annotations

import asyncio
from collections import deque

from websocket import conf
from websocket.counters import counters
from websocket.groups.message import Message, SubscriberTooSlow


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
