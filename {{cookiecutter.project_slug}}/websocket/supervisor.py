"""The task in which a view runs, and those that it starts: they end together, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from websocket.protocol import WebSocketDisconnect


class Supervisor:
    """A context manager for a view: stops it in time, and what it started when it ends.

    Exceptions are kept in `errors`, and not raised. `asyncio.timeout()` and `asyncio.TaskGroup`
    would do most of this, but every open socket would keep theirs: 1 KiB more of 25.
    """

    __slots__ = ("errors", "is_over", "is_stopping", "loop", "started", "task", "timer")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[Any] | None = asyncio.current_task()
        self.started: set[asyncio.Task[None]] | None = None
        self.timer: asyncio.TimerHandle | None = None
        #: Whether the view was cancelled from here, and whether it has ended.
        self.is_stopping = self.is_over = False
        #: What was raised in the view, and in what it started.
        self.errors: list[Exception] = []

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        assert self.task is not None
        self.is_over = True
        if self.timer is not None:
            self.timer.cancel()
        if self.is_stopping:
            self.task.uncancel()
        if isinstance(error, asyncio.CancelledError) and not self.task.cancelling():
            if not self.is_stopping:
                cancelled = RuntimeError("The view awaited something that was cancelled.")
                cancelled.__cause__ = error
                self.errors.append(cancelled)
            error = None
        elif isinstance(error, Exception):
            self.errors += leaves(error)
            error = None
        if self.started:
            for task in self.started:
                task.cancel()
            await asyncio.wait(self.started)
        return error is None

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
            self.errors += leaves(error)
            self.stop()

    def stop(self) -> None:
        """Cancel the view, once."""
        if self.task is not None and not (self.is_stopping or self.is_over):
            self.is_stopping = True
            self.task.cancel()

    def stop_in(self, seconds: float) -> None:
        """Stop the view so many seconds from now, and not when an earlier call said."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.is_over:
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
