"""The task in which a view runs, and those that it starts: they end together, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from websocket.protocol import WebSocketDisconnect


class Supervisor:
    """A context manager for a view: stops it in time, and what it started when it ends.

    Exceptions of both are kept in `errors`, and not raised. `asyncio.timeout()` and
    `asyncio.TaskGroup` would do most of this, but every open socket would keep theirs, and what
    nests them: 1 KiB more of 25.
    """

    __slots__ = (
        "base_error",
        "cancelling",
        "cancels",
        "errors",
        "is_over",
        "loop",
        "started",
        "task",
        "timer",
    )

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[Any] = task
        self.loop = asyncio.get_running_loop()
        # How often the task was asked to cancel before, and from here.
        self.cancelling = task.cancelling()
        self.cancels = 0
        #: Whether the view has ended.
        self.is_over = False
        #: What was raised in the view, and in what it started.
        self.errors: Sequence[Exception] = ()
        self.base_error: BaseException | None = None
        # None until they are needed, for most sockets never need them.
        self.started: set[asyncio.Task[None]] | None = None
        self.timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self.is_over = True
        if isinstance(error, Exception):
            self.errors = [*self.errors, *leaves(error)]
        elif not isinstance(error, asyncio.CancelledError):
            self.base_error = error or self.base_error
        while self.started:
            for task in self.started:
                task.cancel()
            # Who cancels this, the timer or the server, cancels those who are still at it again.
            with suppress(asyncio.CancelledError):
                await asyncio.wait(self.started)
        if self.timer is not None:
            self.timer.cancel()
        for _ in range(self.cancels):
            self.task.uncancel()
        if self.base_error is not None:
            raise self.base_error
        if self.task.cancelling() > self.cancelling and not self.errors:
            raise asyncio.CancelledError  # The server's; but errors have to be reported first.
        if isinstance(error, asyncio.CancelledError) and not (self.cancels or self.errors):
            self.errors = [RuntimeError("The view awaited something that was cancelled.")]
            self.errors[0].__cause__ = error
        return True

    @property
    def has_ended(self) -> bool:
        """Whether the view has ended, and what it started too."""
        return self.is_over and not self.started

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run a coroutine beside the view; an exception in it stops the view."""
        task = self.loop.create_task(_until_disconnect(coroutine))
        self.started = self.started or set()
        self.started.add(task)
        task.add_done_callback(self._task_ended)
        # A task that is cancelled before it has begun never awaits its coroutine.
        task.add_done_callback(lambda task: coroutine.close())
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if self.started is not None:
            self.started.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.errors = [*self.errors, *leaves(error)]
        elif error is not None:
            self.base_error = error
        if error is not None and not (self.cancels or self.is_over):
            self.stop()

    def stop(self) -> None:
        """Cancel the view or, where it has ended, what it started."""
        if not self.has_ended:
            self.cancels += 1
            self.task.cancel()

    def stop_in(self, seconds: float) -> None:
        """Stop so many seconds from now; this takes the place of an earlier call."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.has_ended:
            self.timer = self.loop.call_later(seconds, self.stop)


async def _until_disconnect(coroutine: Coroutine[Any, Any, Any]) -> None:
    """A task that finds the client gone ends quietly: the view may still have messages to read."""
    try:
        await coroutine
    except* WebSocketDisconnect:
        pass


def leaves(error: Exception) -> list[Exception]:
    """Return the exceptions in a group, such as an `asyncio.TaskGroup` raises; else the one."""
    if isinstance(error, ExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]
