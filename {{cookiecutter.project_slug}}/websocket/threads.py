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
from weakref import WeakSet

from asgiref.sync import ThreadSensitiveContext
from django.db import connections
from django.db.backends.utils import CursorWrapper

from websocket import conf, internals

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds for which a thread keeps a connection, however low CONN_MAX_AGE is.
KEEP = 1.0


class DatabaseThread(ThreadPoolExecutor):
    """One thread, which looks after its database connections between its jobs.

    Django does so between requests, but a socket may be iterating over a queryset, one job for
    each chunk. So before each job a lost connection is replaced; one that is older than
    CONN_MAX_AGE is closed then, or once the thread is idle, unless it has a cursor in use.
    """

    def __init__(self, number: int) -> None:
        #: The jobs that wait or run, and when the last one ended.
        self.jobs: set[Future[Any]] = set()
        self.idle_since = 0.0
        #: When to close the thread's connections, by alias, as far as they have an age limit.
        self.close_at: dict[str, float] = {}
        self.cursors: WeakSet[CursorWrapper] = WeakSet()
        super().__init__(1, f"websocket-{number}", note_cursors, (self.cursors,))

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        job = super().submit(self._run, fn, *args, **kwargs)
        self.jobs.add(job)
        job.add_done_callback(self.jobs.discard)
        return job

    def is_due(self) -> bool:
        """Tell whether the thread is idle with a connection that is too old."""
        now = time.monotonic()
        return (
            not self.jobs
            and now - self.idle_since >= KEEP
            and now >= min(list(self.close_at.values()), default=now + 1)
        )

    def _run(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        self._close_old_connections()
        try:
            return fn(*args, **kwargs)
        finally:
            self._take_over_connections()
            self.idle_since = time.monotonic()

    def _close_old_connections(self) -> None:
        for connection in connections.all():
            if not any(cursor.db is connection for cursor in self.cursors):
                connection.close_at = self.close_at.get(connection.alias)
            connection.close_if_unusable_or_obsolete()
            connection.close_at = None

    def _take_over_connections(self) -> None:
        """Hide the connections' age from Django, which looks at it wherever a request ends."""
        for connection in connections.all():
            if connection.connection is None:
                self.close_at.pop(connection.alias, None)
            elif connection.close_at is not None:
                keep_until = time.monotonic() + KEEP
                self.close_at[connection.alias] = max(connection.close_at, keep_until)
                connection.close_at = None


def note_cursors(cursors: WeakSet[CursorWrapper]) -> None:
    """Have this thread's connections note each cursor that runs a query, for as long as it lives.

    (Not a method: a thread that refers to its executor never ends.)
    """

    def note(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        cursors.add(context["cursor"])
        return execute(sql, params, many, context)

    for connection in connections.all():
        connection.execute_wrappers.insert(0, note)


@cache
def get_contexts() -> tuple[list[DatabaseThread], Iterator[ThreadSensitiveContext]]:
    """Return the threads, and the contexts that lead asgiref to them, one after the other."""
    threads = [DatabaseThread(number) for number in range(conf.THREADS)]
    contexts = [ThreadSensitiveContext() for _ in threads]
    for context, thread in zip(contexts, threads, strict=True):
        internals.set_executor(context, thread)
    # asgiref holds contexts weakly: cycle() keeps them.
    return threads, itertools.cycle(contexts)


def enter_shared_thread() -> None:
    """Have the sync code of this task, from here on, run in one of the shared threads.

    Where sync code waits for this task further up, as in Django's tests, its thread is used.
    """
    internals.enter_context(lambda: next(get_contexts()[1]))


def close_idle_connections() -> bool:
    """Close the database connections of idle threads that are beyond CONN_MAX_AGE.

    Returns whether any thread holds a connection that has to be closed some time.
    """
    aging = [thread for thread in get_contexts()[0] if thread.close_at]
    for thread in aging:
        if thread.is_due():
            thread.submit(int)  # Any job starts with closing them.
    return bool(aging)
