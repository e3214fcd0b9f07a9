"""The threads in which sockets run sync code, the ORM's included: few, however many sockets.

Left alone, asgiref runs the thread-sensitive code of all sockets in one thread, or in a thread and
with a database connection for each. Here it is dealt out to WEBSOCKET_THREADS threads: a socket's
code always runs in the same one, in its order, with that thread's database connection. Slow sync
code never blocks the event loop, but it does hold up the sockets that share its thread: for what
takes long and needs no database, use `sync_to_async(function, thread_sensitive=False)`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import close_old_connections, connections

from websocket import conf

P = ParamSpec("P")
R = TypeVar("R")


class DatabaseThread(ThreadPoolExecutor):
    """One thread that treats each of its jobs as Django does a request's database connections."""

    def __init__(self, number: int) -> None:
        super().__init__(max_workers=1, thread_name_prefix=f"websocket-{number}")
        self.connected = False
        self.last_job = 0.0

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        self.last_job = time.monotonic()
        return super().submit(self._run, fn, *args, **kwargs)

    def _run(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        # A connection that is too old, or was lost with its server, is made anew.
        close_old_connections()
        try:
            return fn(*args, **kwargs)
        finally:
            self.connected = any(c.connection is not None for c in connections.all())


@cache
def get_contexts() -> tuple[list[DatabaseThread], Iterator[ThreadSensitiveContext]]:
    """Return the threads, and the contexts that lead asgiref to them, one after the other."""
    threads = [DatabaseThread(number) for number in range(conf.THREADS)]
    contexts = [ThreadSensitiveContext() for _ in threads]
    # asgiref asks this table which executor a context has. It holds contexts weakly: cycle()
    # keeps them.
    SyncToAsync.context_to_thread_executor.update(zip(contexts, threads, strict=True))
    return threads, itertools.cycle(contexts)


def enter_shared_thread() -> None:
    """Have the sync code of this task, from here on, run in one of the shared threads.

    Where sync code waits for this task further up, as in Django's tests, its thread is used.
    """
    if SyncToAsync.thread_sensitive_context.get(None) is None:
        SyncToAsync.thread_sensitive_context.set(next(get_contexts()[1]))


def close_idle_connections() -> bool:
    """Close the database connections of idle threads that are beyond CONN_MAX_AGE.

    Returns whether any thread still holds a connection.
    """
    connected = [thread for thread in get_contexts()[0] if thread.connected]
    for thread in connected:
        if time.monotonic() - thread.last_job >= 1:
            thread.submit(int)  # Any job starts with closing them.
    return bool(connected)
