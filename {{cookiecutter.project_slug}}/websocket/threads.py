"""The few threads in which any number of sockets run their sync code, including the ORM's.

By default, asgiref runs the thread-sensitive code of all sockets in one thread, or gives each its
own thread and database connection. Here it is distributed over WEBSOCKET_THREADS threads: a
socket's code always runs in the same one, in order, with that thread's database connection. Slow
sync code never blocks the event loop, but it does hold up the sockets that share its thread: for
slow code that needs no database, use `sync_to_async(function, thread_sensitive=False)`.

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
from contextvars import ContextVar
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

#: Seconds for which a thread keeps a connection at least, even if CONN_MAX_AGE is lower.
KEEP = 1.0

#: Seconds after which a job counts as stuck: longer than an unreachable PostgreSQL can take with
#: the time limits of project/settings.py.
STUCK_AFTER = 20.0

#: Seconds after which no new job is queued behind a job, as long as another thread is left.
SLOW_AFTER = 1.0

#: The most threads for handshakes per WEBSOCKET_THREADS: one, and more in place of slow ones.
HANDSHAKE_THREADS = 4


class Jobs:
    """The jobs that a view and its tasks have queued and that have not ended.

    It refers to nothing else, because contexts are kept: by jobs, and by tasks that go on alone.
    """

    __slots__ = ("have_ended", "waiting")

    def __init__(self) -> None:
        #: None until there is one: most sockets never need it.
        self.waiting: set[Future[Any]] | None = None
        #: Whether any has ended since this was last set to False.
        self.have_ended = False

    def add(self, job: Future[Any]) -> None:
        if self.waiting is None:
            self.waiting = set()
        self.waiting.add(job)
        job.add_done_callback(self._remove)

    def _remove(self, job: Future[Any]) -> None:
        """Called in the job's thread, or in the event loop's if the job was cancelled."""
        if not job.cancelled():
            self.have_ended = True
        if self.waiting is not None:
            self.waiting.discard(job)


#: Those of the view to which the running task belongs.
current_jobs: ContextVar[Jobs | None] = ContextVar("current_jobs", default=None)


class DatabaseThread(ThreadPoolExecutor):
    """One thread, which maintains its database connections between jobs.

    Django does so between requests, but a socket may be iterating over a queryset, with one job
    per chunk. So a lost connection is replaced before each job. A connection older than
    CONN_MAX_AGE is closed then, or once the thread is idle, unless it has a cursor in use.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: The waiting and running jobs.
        self.jobs: set[Future[Any]] = set()
        #: The running job's start time and its thread; the time at which the last job ended.
        self.running: tuple[float, int] | None = None
        self.idle_since = 0.0
        self.reported = False
        #: When to close each of the thread's connections that has an age limit, by alias.
        self.close_at: dict[str, float] = {}
        self.cursors: WeakSet[CursorWrapper] = WeakSet()
        super().__init__(1, name, note_queries, (self.cursors, self.close_at))

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        job = super().submit(self._run, fn, *args, **kwargs)
        self.jobs.add(job)
        job.add_done_callback(self.jobs.discard)
        if (jobs := current_jobs.get()) is not None:
            jobs.add(job)
        return job

    def busy_for(self) -> float:
        """Return the seconds for which the running job, if any, has held the thread."""
        running = self.running
        return 0.0 if running is None else time.monotonic() - running[0]

    def is_slow(self) -> bool:
        return self.busy_for() > SLOW_AFTER

    def is_stuck(self) -> bool:
        return self.busy_for() > STUCK_AFTER

    def look(self) -> bool:
        """Close old connections if the thread is idle; log the stack once if it is stuck.

        Returns whether the thread needs another look.
        """
        close_at = min(list(self.close_at.values()), default=math.inf)
        if self.is_stuck():
            self._report()
        elif not self.jobs and time.monotonic() >= max(close_at, self.idle_since + KEEP):
            self.submit(int)  # Every job starts by closing them.
        return bool(self.jobs or self.close_at)

    def _report(self) -> None:
        running = self.running
        if running is None or self.reported:
            return
        self.reported = True
        stack = traceback.format_stack(sys._current_frames().get(running[1]), 12)
        logger.warning(
            "For %d seconds, one job has held up %s and everything that shares this thread:\n%s",
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
                if connection.connection is None:
                    self.close_at.pop(connection.alias, None)
                else:
                    take_over(connection, self.close_at)
            self.idle_since = time.monotonic()
            self.running, self.reported = None, False

    def _close_if_old(self, connection: BaseDatabaseWrapper) -> None:
        is_read = any(cursor.db is connection for cursor in self.cursors)
        internals.close_if_old(connection, None if is_read else self.close_at.get(connection.alias))


def take_over(connection: BaseDatabaseWrapper, close_at: dict[str, float]) -> None:
    """Hide a new connection's age from Django, which checks it at the end of every request."""
    if (age := internals.hide_age(connection)) is not None:
        close_at[connection.alias] = max(age, time.monotonic() + KEEP)


def note_queries(cursors: WeakSet[CursorWrapper], close_at: dict[str, float]) -> None:
    """Make this thread's connections note each cursor that runs a query, for its lifetime.

    A handshake ends as a request does, so its connection is taken over before that; unless closing
    it costs nothing, and others wait for it. (Not a method: a thread that refers to its executor
    never ends.)
    """

    def note(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        cursors.add(context["cursor"])
        connection = context["connection"]
        if connection.close_at is not None and not connection.settings_dict["OPTIONS"].get("pool"):
            take_over(connection, close_at)
        return execute(sql, params, many, context)

    for connection in connections.all():
        internals.wrap_queries(connection, note)


Dealt = dict[ThreadSensitiveContext, DatabaseThread]


class Threads:
    """The threads of this process, by the contexts under which asgiref finds them."""

    def __init__(self) -> None:
        self.sockets: Dealt = {}
        self.handshakes: Dealt = {}
        for number in range(conf.THREADS):
            self._add(self.sockets, f"websocket-{number}")
        self._turns = itertools.cycle(self.sockets)

    def for_socket(self) -> ThreadSensitiveContext:
        """Return each thread in turn; skip slow ones, unless all are slow."""
        turns = itertools.islice(self._turns, len(self.sockets))
        quick = (context for context in turns if not self.sockets[context].is_slow())
        return next(quick, None) or next(self._turns)

    def for_handshake(self) -> ThreadSensitiveContext:
        """Return the thread with the fewest jobs, or a new one if every thread is slow or busy.

        While the database is away, handshakes that query it are slow; others should not wait.
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
        """Look at each thread; return whether one of them needs another look."""
        looks = [thread.look() for thread in self._all()]
        return any(looks)

    def count_stuck(self) -> int:
        """Return the number of stuck threads, whose stacks are logged."""
        self.look()
        return sum(thread.is_stuck() for thread in self._all())

    def are_stuck(self) -> bool:
        """Return whether no thread is left for sockets, or none for handshakes."""
        groups = [self.sockets.values()]
        if len(self.handshakes) == HANDSHAKE_THREADS * conf.THREADS:
            groups.append(self.handshakes.values())
        return any(all(thread.is_stuck() for thread in threads) for threads in groups)

    def _all(self) -> list[DatabaseThread]:
        return [*self.sockets.values(), *self.handshakes.values()]

    def _add(self, threads: Dealt, name: str) -> ThreadSensitiveContext:
        # asgiref refers to contexts weakly: these dictionaries keep them alive.
        context, thread = ThreadSensitiveContext(), DatabaseThread(name)
        internals.set_executor(context, thread)
        threads[context] = thread
        return context


@cache
def get_threads() -> Threads:
    """Return the threads of this process."""
    return Threads()


def enter_handshake_thread() -> None:
    """Run this task's sync code in a thread for handshakes, until it enters another.

    If sync code is waiting for this task, as in Django's tests, that code's thread is used.
    """
    internals.enter_context(get_threads().for_handshake)


def enter_shared_thread() -> None:
    """From here on, run this task's sync code in one of the threads for sockets."""
    threads = get_threads()
    internals.enter_context(threads.for_socket, instead_of=threads.handshakes)
