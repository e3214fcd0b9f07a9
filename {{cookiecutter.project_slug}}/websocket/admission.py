"""Handshakes wait for their turn, so that many at a time do not hold up the sockets that are open.

The threads in which handshakes compute compete with the event loop, so few start at a time: during
500 at once, 95 % of the echoes of an open socket took at most 20 ms, and 150 ms without this. Those
that wait for a database compete with nobody, so another starts every few milliseconds.

A handshake keeps its place until its middleware has run, and not while its view runs: views that
wait for each other cannot keep others out. Pages do not wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextvars import Context
from typing import Final
from weakref import WeakKeyDictionary

from websocket import conf, sweep
from websocket.counters import counters
from websocket.link import Link
from websocket.threads import HANDSHAKE_THREADS

# Seconds after which one more handshake starts, if none of those in progress has finished.
PAUSE: Final = 0.005


class Queue:
    """The handshakes of one event loop: how many are in progress, and which ones wait, in order."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting: OrderedDict[asyncio.Future[bool], Link] = OrderedDict()
        self.timer: asyncio.TimerHandle | None = None
        self.is_closed = False

    async def enter(self, link: Link) -> bool:
        """Wait for a handshake's turn; the caller has to `leave()` once its middleware has run.

        Returns False if the handshake has to be refused instead: WEBSOCKET_HANDSHAKE_QUEUE others
        wait, the server is stopping, or the client has left, and so its link is closing.
        """
        if self.is_closed or len(self.waiting) >= conf.HANDSHAKE_QUEUE:
            return False
        if self.running < conf.HANDSHAKES:
            self.running += 1
            return True
        turn = self.line_up(link)
        try:
            has_place = await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.waiting.pop(turn, None)
            elif turn.result():
                self.leave()
            raise
        if has_place:
            link.drop_if_left()
            if link.is_closing():
                self.leave()
                return False
        return has_place

    def line_up(self, link: Link) -> asyncio.Future[bool]:
        """Return a future whose result tells whether the handshake has got a place."""
        counters["waited"] += 1
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self.waiting[turn] = link
        sweep.add(self)
        if self.timer is None:
            self.timer = loop.call_later(PAUSE, self.start_another, context=Context())
        return turn

    def leave(self) -> None:
        """Give a place back, which the handshake that has waited longest gets."""
        self.running -= 1
        if self.running < conf.HANDSHAKES:
            self.start_next()

    def start_next(self) -> None:
        while self.waiting:
            turn, _ = self.waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(True)
                self.running += 1
                return

    def start_another(self) -> None:
        """Start one more than WEBSOCKET_HANDSHAKES, as long as there can be a thread for it."""
        if self.running < max(conf.HANDSHAKES, HANDSHAKE_THREADS * conf.THREADS):
            self.start_next()
        self.timer = None
        if self.waiting:
            self.timer = asyncio.get_running_loop().call_later(PAUSE, self.start_another)

    def refuse(self, turn: asyncio.Future[bool]) -> None:
        del self.waiting[turn]
        if not turn.done():
            turn.set_result(False)

    def close(self) -> None:
        """Refuse the handshakes that wait, and all further ones, because the server is stopping."""
        self.is_closed = True
        for turn in list(self.waiting):
            self.refuse(turn)

    def look(self) -> None:
        """Free the places of clients that have left: the server is not reading from them yet."""
        for turn, link in list(self.waiting.items()):
            link.drop_if_left()
            if link.is_closing():
                self.refuse(turn)
        if not self.waiting:
            sweep.discard(self)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, Queue] = WeakKeyDictionary()


def get_queue() -> Queue:
    """Return the queue of the running event loop."""
    loop = asyncio.get_running_loop()
    queue = _queues.get(loop)
    if queue is None:
        queue = _queues[loop] = Queue()
    return queue


def count_waiting() -> int:
    """Return the number of handshakes that wait, in all event loops."""
    return sum(len(queue.waiting) for queue in list(_queues.values()))
