"""Supervises a view: ends it in time, together with the tasks that it started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from types import CodeType
from typing import Any, Final

from websocket import conf, internals
from websocket.protocol import WebSocketDisconnect
from websocket.threads import Jobs, current_jobs

logger = logging.getLogger("django.websocket")

# Seconds that a view may wait for sync code after its time is up: that code may be in a long queue,
# and a cleanup should not be lost because many clients left at once.
PATIENCE: Final = 30.0


class Supervisor:
    """An async context manager around a view, which ends it once its connection is over.

    From then on, the view has WEBSOCKET_DISCONNECT_GRACE seconds. If it does not know of the end by
    then, because it has neither received nor sent, it is cancelled, and has as long again to clean
    up. A view that knows is cut off: cancelled, with a warning; and so are its tasks. If they wait
    for sync code in the socket's thread, they have up to PATIENCE seconds more.

    Exceptions of the view and of its tasks are kept in `errors` and not raised. (An
    `asyncio.TaskGroup` would wait for the tasks, not cancel them, when the view returns; with one
    and an `asyncio.timeout()` every open socket takes 1 KiB more.)
    """

    def __init__(self, view: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[Any] = task
        self.loop = asyncio.get_running_loop()
        #: Whether the view has ended.
        self.is_over = False
        #: Whether the view has been told that its connection is over.
        self.view_knows = False
        #: The exceptions that the view and its tasks raised.
        self.errors: list[Exception] = []
        self._view = view
        self._base_error: BaseException | None = None
        self._cancelling = task.cancelling()
        self._stops = 0
        self._is_cut_off = False
        self._deadline = 0.0
        self._jobs = Jobs()
        # None until they are needed: most sockets never need them.
        self._started: set[asyncio.Task[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Supervisor:
        current_jobs.set(self._jobs)
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self.is_over = True
        current_jobs.set(None)
        was_cancelled = isinstance(error, asyncio.CancelledError)
        is_counted = self.task.cancelling() > self._cancelling
        by_server = was_cancelled and is_counted and not self._stops
        if isinstance(error, Exception):
            self.errors += leaves(error)
        elif error is not None and not was_cancelled:
            self._base_error = error
        by_server = await self._end_tasks() or by_server
        if self._timer is not None:
            self._timer.cancel()
        # Also undo cancellations that an asyncio.TaskGroup of the view leaves before Python 3.13.
        while self.task.cancelling() > self._cancelling:
            self.task.uncancel()
        if self._base_error is not None:
            raise self._base_error
        if by_server and not self.errors:
            raise asyncio.CancelledError
        if was_cancelled and not (by_server or self._stops or self.errors):
            cancelled = RuntimeError("The view awaited something that was cancelled.")
            cancelled.__cause__ = error
            self.errors.append(cancelled)
        return True

    async def _end_tasks(self) -> bool:
        """Cancel the view's tasks and wait for them; return whether the server cancelled this."""
        by_server = False
        if self._started and self._timer is not None:
            self.end_in(max(conf.DISCONNECT_GRACE, 0.1))  # They learn of the end only now.
        while self._started:
            for task in self._started:
                task.cancel()
            stops = self._stops
            try:
                await asyncio.wait(self._started)
            except asyncio.CancelledError:
                # From the timer or the server: cancel the remaining tasks once more.
                by_server = by_server or self._stops == stops
        return by_server

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the view's event loop: now, or soon if this is another thread."""
        try:
            is_here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            is_here = False
        if is_here:
            function()
        else:
            self.loop.call_soon_threadsafe(function)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run a coroutine alongside the view; an exception in it stops the view."""
        task = self.loop.create_task(_until_disconnect(coroutine))
        self._started = self._started or set()
        self._started.add(task)
        task.add_done_callback(self._task_ended)
        # A task that is cancelled before it starts never awaits its coroutine.
        task.add_done_callback(lambda task: coroutine.close())
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if self._started is not None:
            self._started.discard(task)
        if error := None if task.cancelled() else task.exception():
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Stop the view because of an exception, as if the view had raised it."""
        if isinstance(error, Exception):
            self.errors += leaves(error)
        else:
            self._base_error = error
        if not (self._stops or self.is_over):
            self._stop()

    def has_tasks(self) -> bool:
        """Return whether tasks run that the view has started."""
        return bool(self._started)

    def connection_ended(self) -> None:
        """Give the view WEBSOCKET_DISCONNECT_GRACE seconds to end, unless it has a deadline."""
        if self._timer is None:
            self.end_in(conf.DISCONNECT_GRACE)

    def end_in(self, seconds: float) -> None:
        """Give the view a number of seconds to end, in place of any earlier deadline."""
        self._deadline = self.loop.time() + seconds
        self._call_in(seconds)

    def _call_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._jobs.have_ended = False
        if not self._has_ended():
            self._timer = self.loop.call_later(seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        if self._has_ended():
            return
        if not (self.view_knows or self.is_over):
            self.view_knows = True
            self.end_in(conf.DISCONNECT_GRACE)
            self._stop()
            return
        chains = [list(_waiting(coroutine)) for coroutine in self._running()]
        if self._is_working(chains) and self.loop.time() < self._deadline + PATIENCE:
            self._call_in(max(conf.DISCONNECT_GRACE, 0.1))
            return
        if not self._is_cut_off:
            self._is_cut_off = True
            waiting = next(filter(None, chains), [])
            logger.warning(
                "%s %s was cut off: its connection is over, and it was waiting at %s.",
                "A task of the view" if self.is_over else "The view",
                self._view.__qualname__,
                " > ".join(f"{code.co_qualname}:{line}" for code, line in waiting),
            )
        self._call_in(max(conf.DISCONNECT_GRACE, 0.1))  # It may go on in spite of that.
        self._stop()

    def _is_working(self, chains: list[list[tuple[CodeType, int]]]) -> bool:
        """Return whether sync code runs for the view or its tasks, or has just ended."""
        if self._jobs.waiting or self._jobs.have_ended:  # The view may not have gone on yet.
            return True
        return any(chain and internals.waits_for_thread(chain[-1][0]) for chain in chains)

    def _running(self) -> list[Any]:
        """Return the coroutine of the view or, once it has ended, those of its tasks."""
        return [task.get_coro() for task in self._started or ()] if self.is_over else [self._view]

    def _stop(self) -> None:
        self._stops += 1
        self.task.cancel()

    def _has_ended(self) -> bool:
        return self.is_over and not self._started


async def _until_disconnect(coroutine: Coroutine[Any, Any, Any]) -> None:
    """End a task quietly when the client is gone: the view may still have messages to read."""
    try:
        await coroutine
    except* WebSocketDisconnect:
        pass


def _waiting(coroutine: Any) -> Iterator[tuple[CodeType, int]]:
    """Yield the code and the line of each coroutine in a chain of awaits, outermost first."""
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield frame.f_code, frame.f_lineno
        coroutine = coroutine.cr_await


def leaves(error: Exception) -> list[Exception]:
    """Return the exceptions in a group, such as from `asyncio.TaskGroup`, or the one exception."""
    if isinstance(error, ExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]
