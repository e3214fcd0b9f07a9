"""Runs beside a view: ends it in time, and with it the tasks that it started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from types import CodeType
from typing import Any, Final

from asgiref.sync import SyncToAsync

from websocket import conf
from websocket.protocol import WebSocketDisconnect

logger = logging.getLogger("django.websocket")

# Seconds that a view may wait for sync code after its time is up: that may have a long queue
# before it, and what cleans up should not be lost because many clients left at once.
PATIENCE: Final = 30.0


class Supervisor:
    """An async context manager around a view.

    Exceptions of the view and of its tasks are kept in `errors` and not raised. (An
    `asyncio.TaskGroup` would wait for the tasks, not cancel them, when the view returns; with one
    and an `asyncio.timeout()` every open socket takes 1 KiB more.)
    """

    __slots__ = (
        "_base_error",
        "_cancelling",
        "_deadline",
        "_is_cut_off",
        "_started",
        "_stops",
        "_timer",
        "_view",
        "errors",
        "is_over",
        "loop",
        "task",
        "view_knows",
    )

    def __init__(self, view: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[Any] = task
        self.loop = asyncio.get_running_loop()
        #: Whether the view has ended.
        self.is_over = False
        #: Whether the view has been told that its connection is over.
        self.view_knows = False
        #: What the view raised, and what its tasks did.
        self.errors: list[Exception] = []
        self._view = view
        self._base_error: BaseException | None = None
        self._cancelling = task.cancelling()
        self._stops = 0
        self._is_cut_off = False
        self._deadline = 0.0
        # None until they are needed: most sockets never need them.
        self._started: set[asyncio.Task[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self.is_over = True
        is_cancel = isinstance(error, asyncio.CancelledError)
        # The server's, unless it came from here or from what the view awaited.
        is_cancelled = is_cancel and not self._stops and self.task.cancelling() > self._cancelling
        if isinstance(error, Exception):
            self.errors += leaves(error)
        elif error is not None and not is_cancel:
            self._base_error = error
        while self._started:
            for task in self._started:
                task.cancel()
            stops = self._stops
            try:
                await asyncio.wait(self._started)
            except asyncio.CancelledError:
                # The timer's or the server's: it cancels the tasks that go on once more.
                is_cancelled = is_cancelled or self._stops == stops
        if self._timer is not None:
            self._timer.cancel()
        # Also what an asyncio.TaskGroup of the view left here: before Python 3.13 it does.
        while self.task.cancelling() > self._cancelling:
            self.task.uncancel()
        if self._base_error is not None:
            raise self._base_error
        if is_cancelled and not self.errors:
            raise asyncio.CancelledError
        if is_cancel and not (is_cancelled or self._stops or self.errors):
            cancelled = RuntimeError("The view awaited something that was cancelled.")
            cancelled.__cause__ = error
            self.errors.append(cancelled)
        return True

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run a coroutine beside the view; an exception in it stops the view."""
        task = self.loop.create_task(_until_disconnect(coroutine))
        self._started = self._started or set()
        self._started.add(task)
        task.add_done_callback(self._task_ended)
        # A task that is cancelled before it has begun never awaits its coroutine.
        task.add_done_callback(lambda task: coroutine.close())
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if self._started is not None:
            self._started.discard(task)
        if error := None if task.cancelled() else task.exception():
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Stop the view because of an exception, as if it were the view's own."""
        if isinstance(error, Exception):
            self.errors += leaves(error)
        else:
            self._base_error = error
        if not (self._stops or self.is_over):
            self._stop()

    def connection_ended(self) -> None:
        """Give the view WEBSOCKET_DISCONNECT_GRACE seconds to end, unless its time runs already."""
        if self._timer is None:
            self.end_in(conf.DISCONNECT_GRACE)

    def end_in(self, seconds: float) -> None:
        """Give the view so many seconds to end; this replaces what an earlier call gave it.

        A view that does not know yet that its connection is over learns it from being cancelled,
        and has WEBSOCKET_DISCONNECT_GRACE seconds from then on. One that knows is cut off.
        """
        self._deadline = self.loop.time() + seconds
        self._call_in(seconds)

    def _call_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._has_ended():
            self._timer = self.loop.call_later(seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        if self._has_ended():
            return
        waiting = list(_waiting(self._view))
        is_in_thread = bool(waiting) and waiting[-1][0] is SyncToAsync.__call__.__code__
        is_patient = self.loop.time() < self._deadline + PATIENCE
        if self.view_knows and is_in_thread and is_patient:
            self._call_in(conf.DISCONNECT_GRACE)
            return
        if self.view_knows and not self._is_cut_off and not self.is_over:
            self._is_cut_off = True
            logger.warning(
                "The view %s was cut off: its connection is over, and it was waiting at %s.",
                self._view.__qualname__,
                " > ".join(f"{code.co_qualname}:{line}" for code, line in waiting),
            )
        elif not self.view_knows:
            self.view_knows = True
            self.end_in(conf.DISCONNECT_GRACE)
        self._stop()

    def _stop(self) -> None:
        self._stops += 1
        self.task.cancel()

    def _has_ended(self) -> bool:
        return self.is_over and not self._started


async def _until_disconnect(coroutine: Coroutine[Any, Any, Any]) -> None:
    """A task that finds the client gone ends quietly: the view may still have messages to read."""
    try:
        await coroutine
    except* WebSocketDisconnect:
        pass


def _waiting(coroutine: Any) -> Iterator[tuple[CodeType, int]]:
    """Yield the code and the line of each coroutine in a chain of awaits, the outermost first."""
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield frame.f_code, frame.f_lineno
        coroutine = coroutine.cr_await


def leaves(error: Exception) -> list[Exception]:
    """Return the exceptions in a group, such as an `asyncio.TaskGroup` raises; else the one."""
    if isinstance(error, ExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]
