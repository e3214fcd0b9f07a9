"""The threads in which sockets run sync code, the ORM's included: few, however many sockets.

Left alone, asgiref runs the thread-sensitive code of all sockets in one thread, or in a thread and
with a database connection for each. Here it is dealt out to WEBSOCKET_THREADS threads: a socket's
code always runs in the same one, in its order, with that thread's database connection. Slow sync
code never blocks the event loop, but it does hold up the sockets that share its thread: for what
takes long and needs no database, use `sync_to_async(function, thread_sensitive=False)`.

Handshakes run in a few threads of their own, so that slow code in sockets does not hold them up.
"""

from __future__ import annotations

import itertools
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

from asgiref.sync import ThreadSensitiveContext
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from websocket import conf, internals

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("django.websocket")

#: Seconds for which a thread keeps a connection, however low CONN_MAX_AGE is.
KEEP = 1.0

#: Seconds after which a job is taken for stuck: more than a PostgreSQL that is gone can take, with
#: the time limits of project/settings.py.
STUCK_AFTER = 20.0

#: Seconds after which nothing new is put behind a job, as long as another thread is left.
SLOW_AFTER = 1.0

#: Threads for handshakes, for each of WEBSOCKET_THREADS: one, and more in place of slow ones.
HANDSHAKE_THREADS = 4


class DatabaseThread(ThreadPoolExecutor):
    """One thread, which looks after its database connections between its jobs.

    Django does so between requests, but a socket may be iterating over a queryset, one job for
    each chunk. So before each job a lost connection is replaced; one that is older than
    CONN_MAX_AGE is closed then, or once the thread is idle, unless it has a cursor in use.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: The jobs that wait or run.
        self.jobs: set[Future[Any]] = set()
        #: When the job that runs has started, and in which thread; when the last one has ended.
        self.running: tuple[float, int] | None = None
        self.idle_since = 0.0
        self.reported = False
        #: When to close the thread's connections, by alias, as far as they have an age limit.
        self.close_at: dict[str, float] = {}
        self.cursors: WeakSet[CursorWrapper] = WeakSet()
        super().__init__(1, name, note_cursors, (self.cursors,))

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        job = super().submit(self._run, fn, *args, **kwargs)
        self.jobs.add(job)
        job.add_done_callback(self.jobs.discard)
        return job

    def busy_for(self) -> float:
        """Return for how many seconds the job that runs, if any, has held the thread."""
        running = self.running
        return 0.0 if running is None else time.monotonic() - running[0]

    def is_slow(self) -> bool:
        return self.busy_for() > SLOW_AFTER

    def is_stuck(self) -> bool:
        return self.busy_for() > STUCK_AFTER

    def look(self) -> bool:
        """Close old connections if the thread is idle; log once where it is stuck.

        Returns whether there is reason to look again.
        """
        close_at = min(list(self.close_at.values()), default=math.inf)
        if self.is_stuck():
            self._report()
        elif not self.jobs and time.monotonic() >= max(close_at, self.idle_since + KEEP):
            self.submit(int)  # Any job starts with closing them.
        return bool(self.jobs or self.close_at)

    def _report(self) -> None:
        running = self.running
        if running is None or self.reported:
            return
        self.reported = True
        stack = traceback.format_stack(sys._current_frames().get(running[1]), 12)
        logger.warning(
            "For %d seconds one job has held up %s, and all that shares this thread:\n%s",
            STUCK_AFTER,
            self.name,
            "".join(stack).rstrip(),
        )

    def _run(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        own = connections.all()
        self.running = time.monotonic(), threading.get_ident()
        try:
            for connection in own:
                if connection.connection is not None:
                    self._close_if_old(connection)
            return fn(*args, **kwargs)
        finally:
            for connection in own:
                self._take_over(connection)
            self.idle_since = time.monotonic()
            self.running, self.reported = None, False

    def _close_if_old(self, connection: BaseDatabaseWrapper) -> None:
        if not any(cursor.db is connection for cursor in self.cursors):
            connection.close_at = self.close_at.get(connection.alias)
        connection.close_if_unusable_or_obsolete()
        connection.close_at = None

    def _take_over(self, connection: BaseDatabaseWrapper) -> None:
        """Hide the connection's age from Django, which looks at it wherever a request ends."""
        if connection.connection is None:
            self.close_at.pop(connection.alias, None)
        elif connection.close_at is not None:  # It is new.
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


Dealt = dict[ThreadSensitiveContext, DatabaseThread]


class Threads:
    """The threads of this process, by the contexts that lead asgiref to them."""

    def __init__(self) -> None:
        self.sockets: Dealt = {}
        self.handshakes: Dealt = {}
        for number in range(conf.THREADS):
            self._add(self.sockets, f"websocket-{number}")
        self._turns = itertools.cycle(self.sockets)

    def for_socket(self) -> ThreadSensitiveContext:
        """Return each thread in turn, but none that is slow, unless all are."""
        turns = itertools.islice(self._turns, len(self.sockets))
        quick = (context for context in turns if not self.sockets[context].is_slow())
        return next(quick, None) or next(self._turns)

    def for_handshake(self) -> ThreadSensitiveContext:
        """Return the thread with the least to do, or a new one if all that are not slow are busy.

        While the database is away, handshakes that ask it are slow; others should not wait.
        """
        threads = self.handshakes
        quick = [context for context, thread in threads.items() if not thread.is_slow()]
        least = min(quick or threads, key=lambda context: len(threads[context].jobs), default=None)
        if least is None or (
            threads[least].jobs
            and len(quick) < conf.THREADS
            and len(threads) < HANDSHAKE_THREADS * conf.THREADS
        ):
            return self._add(threads, f"handshake-{len(threads)}")
        return least

    def look(self) -> bool:
        """Look after each thread; return whether there is reason to do so again."""
        looks = [thread.look() for thread in self._all()]
        return any(looks)

    def count_stuck(self) -> int:
        """Return how many threads are stuck; the log says where."""
        self.look()
        return sum(thread.is_stuck() for thread in self._all())

    def are_stuck(self) -> bool:
        """Tell whether no thread is left for sockets, or none for handshakes."""
        groups = [self.sockets.values()]
        if len(self.handshakes) == HANDSHAKE_THREADS * conf.THREADS:
            groups.append(self.handshakes.values())
        return any(all(thread.is_stuck() for thread in threads) for threads in groups)

    def _all(self) -> list[DatabaseThread]:
        return [*self.sockets.values(), *self.handshakes.values()]

    def _add(self, threads: Dealt, name: str) -> ThreadSensitiveContext:
        # asgiref holds contexts weakly: these dictionaries keep them.
        context, thread = ThreadSensitiveContext(), DatabaseThread(name)
        internals.set_executor(context, thread)
        threads[context] = thread
        return context


@cache
def get_threads() -> Threads:
    """Return the threads of this process."""
    return Threads()


def enter_handshake_thread() -> None:
    """Have the sync code of this task run in a thread for handshakes, until it enters another.

    Where sync code waits for this task further up, as in Django's tests, its thread is used.
    """
    internals.enter_context(get_threads().for_handshake)


def enter_shared_thread() -> None:
    """Have the sync code of this task, from here on, run in one of the threads for sockets."""
    threads = get_threads()
    internals.enter_context(threads.for_socket, instead_of=threads.handshakes)
