"""Close sockets whose session has expired, or was deleted without a logout.

Each login's session is looked up every CHECK_EVERY seconds, many of them in one query.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Protocol

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.cache import SessionStore as CacheStore
from django.core.cache import caches
from django.utils import timezone

from websocket import sweep
from websocket.threads import enter_shared_thread

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase

logger = logging.getLogger("django.websocket")

# Seconds between two looks at a session: an expired one is noticed within a minute.
CHECK_EVERY: Final = 45.0

# The most sessions in one query.
_BATCH: Final = 500


class Login(Protocol):
    """A login with a session."""

    def session(self) -> SessionBase | None:
        """Return the session, or None if the connection is over."""

    def expire(self) -> None:
        """End the login, because its session has expired."""


class Sessions:
    """The sessions of an event loop's logins, in the order in which they are looked up next."""

    def __init__(self) -> None:
        self.due: deque[tuple[float, Login]] = deque()
        self.task: asyncio.Task[None] | None = None

    def add(self, login: Login) -> None:
        if not self.due:
            sweep.add(self)
        self.due.append((time.monotonic() + CHECK_EVERY, login))

    def look(self) -> None:
        """Look up the sessions whose time has come; called once a second."""
        logins = []
        while self.due and self.due[0][1].session() is None:
            self.due.popleft()  # Its connection is over.
        while self.task is None and self.due and self.due[0][0] <= time.monotonic():
            logins.append(self.due.popleft()[1])
        if logins:
            # In an empty context, so that it does not use the thread of one of the sockets.
            self.task = asyncio.get_running_loop().create_task(
                self.check(logins), context=Context()
            )
        elif not (self.due or self.task):
            sweep.discard(self)

    async def check(self, logins: list[Login]) -> None:
        enter_shared_thread()
        try:
            for start in range(0, len(logins), _BATCH):
                await self.check_batch(logins[start : start + _BATCH])
        finally:
            self.task = None

    async def check_batch(self, logins: list[Login]) -> None:
        pairs = [(login, login.session()) for login in logins]
        sessions = {session for _, session in pairs if session is not None}
        try:
            ended = await sync_to_async(find_ended)(sessions)
        except Exception as error:
            logger.warning("Sessions could not be checked, which is tried again: %s", error)
            ended = set()
        for login, session in pairs:
            if session in ended:
                login.expire()
            elif session is not None:
                self.due.append((time.monotonic() + CHECK_EVERY, login))


def find_ended(sessions: Iterable[SessionBase]) -> set[SessionBase]:
    """Return the sessions that have expired or were deleted."""
    ended = set()
    in_database: dict[Any, list[SessionBase]] = {}
    in_cache: list[CacheStore] = []
    for session in sessions:
        if model := getattr(session, "model", None):
            in_database.setdefault(model, []).append(session)
        elif isinstance(session, CacheStore):
            in_cache.append(session)
        elif not is_alive(session):
            ended.add(session)
    for model, stored in in_database.items():
        keys = [session.session_key for session in stored]
        valid = model.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
        alive = set(valid.values_list("session_key", flat=True))
        ended.update(session for session in stored if session.session_key not in alive)
    if in_cache:
        # Not by load(), for which a cache that is away is empty.
        cache = caches[settings.SESSION_CACHE_ALIAS]
        found = cache.get_many([session.cache_key for session in in_cache])
        ended.update(session for session in in_cache if session.cache_key not in found)
    return ended


def is_alive(session: SessionBase) -> bool:
    """Return whether a session can be loaded: the session of a login is never empty."""
    key = session.session_key
    fresh = type(session)(key)
    data = fresh.load()
    if not data and fresh.session_key not in (None, key):
        fresh.delete(fresh.session_key)  # Sessions in files are replaced by a new one.
    return bool(data)
