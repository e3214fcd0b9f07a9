"""The logins of this process's sockets, and the notices that end them.

All processes listen to one group, to which websocket.auth publishes a `Notice` for each logout or
similar event. The sockets that it is about are closed with 1012: their pages connect again, and
the next handshake decides.

A process joins the group before its first handshake reads a session, and keeps the last notices
for handshakes in progress, so that it misses none about a session after a handshake has read it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextvars import Context
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.utils.crypto import salted_hmac

from websocket import groups
from websocket.pacing import call_in_turn
from websocket.protocol import State
from websocket.sessions import Sessions

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase

    from websocket.state import Connection

# A view's group cannot have this name.
GROUP: Final = "@auth"

# The number of notices kept for handshakes in progress.
RECENT: Final = 1000

# The item in which a signed-cookie session keeps its name: its key changes with every save.
NAME: Final = "_websocket_name"

# The reason with which sockets are closed, unless `disconnect` is given another.
CHANGED: Final = "The login has changed."


class Notice(NamedTuple):
    """An event that closes the sockets of some logins.

    `kind` is "ended" for a session that has ended for good, "session" for the sockets of a session,
    "user" for those of a user, and "missed" if this process may have missed a notice.
    """

    kind: str
    #: Identifies the session or, for a user, the password and rights of those who may stay.
    digest: str = ""
    #: The users' primary keys; empty if they are not known.
    pks: Sequence[str] = ()
    #: The close code and the reason.
    code: int = 1012
    reason: str = CHANGED


MISSED: Final = Notice("missed", reason="A logout may have been missed.")
EXPIRED: Final = Notice("ended", reason="The session has expired.")


class Login:
    """The user and the session that a socket was opened with."""

    __slots__ = (
        "connection",
        "digest",
        "ending",
        "is_used",
        "name",
        "pk",
        "user_digest",
        "watcher",
    )

    def __init__(self, connection: Connection) -> None:
        #: None once it is over.
        self.connection: Connection | None = connection
        self.pk = str(getattr(connection.request.user, "pk", ""))
        self.name = name_of(getattr(connection.request, "session", None))
        self.digest: str | None = None
        # Now, in the handshake's thread: it may query the database, and the view may change the
        # user.
        self.user_digest = digest_user(connection.request.user)
        #: Whether anything has read the user.
        self.is_used = False
        #: The notice that has ended the login.
        self.ending: Notice | None = None
        self.watcher: Watcher | None = None

    def use(self) -> None:
        """Bind the connection to the login, and close it if that has ended; from any thread."""
        self.is_used = True
        connection = self.connection
        if self.ending is not None and connection is not None and connection.supervisor is not None:
            connection.supervisor.call(partial(self.end, self.ending))

    def end(self, notice: Notice) -> bool:
        """Note that the login has ended, and close the connection if anything has read the user.

        Returns whether it was closed.
        """
        self.ending = notice
        if not self.is_used or self.connection is None:
            return False
        self.connection.close_soon(notice.code, notice.reason)
        return True

    def forget(self) -> None:
        """Forget the connection, because it is over."""
        self.connection = None
        if self.watcher is not None:
            self.watcher.forget(self)

    def session(self) -> SessionBase | None:
        """Return the session, or None if there is none or the connection is over."""
        if self.connection is None or self.name is None:
            return None
        session: SessionBase = self.connection.request.session
        return session

    def expire(self) -> None:
        """End the login, because its session has expired."""
        self.end(EXPIRED)

    def check(self, notice: Notice) -> None:
        """End the login if a notice is about it."""
        if (not notice.pks or self.pk in notice.pks) and self._is_meant(notice):
            self.end(notice)

    def _is_meant(self, notice: Notice) -> bool:
        if notice.kind == "missed":
            return True
        if notice.kind == "user":
            return notice.digest == "" or notice.digest != (self.user_digest or notice.digest)
        # Computed once, because a notice without a primary key is compared with every login.
        if self.digest is None and self.name is not None:
            self.digest = digest_of(self.name)
        return notice.digest == self.digest


class Watcher:
    """An event loop's member of the group, for all of its sockets."""

    id = ""

    def __init__(self, hub: groups.Hub) -> None:
        self.loop = hub.loop
        #: The logins of open sockets, by the users' primary keys.
        self.logins: dict[str, list[Login]] = {}
        #: The number of notices so far, and the most recent ones.
        self.count = 0
        self.recent: deque[Notice] = deque(maxlen=RECENT)
        self.sessions = Sessions()
        #: Done once Redis has confirmed that this process gets the messages, or has timed out.
        self.ready = self.loop.create_future()
        # In an empty context, so that the task keeps no data of the first handshake alive.
        self._joining = self.loop.create_task(self._join(hub), context=Context())

    async def _join(self, hub: groups.Hub) -> None:
        try:
            hub.add(GROUP, self)
            await hub.until_ready(GROUP)
        except groups.PublishError:
            pass  # Once Redis is back, the hub calls missed().
        finally:
            self.ready.set_result(None)

    def watch(self, login: Login, since: int) -> None:
        """End a login if a notice is about it, now or among those after the first `since`."""
        connection = login.connection
        is_over = connection is None or connection.app_state is State.DISCONNECTED
        if connection is None or is_over or login.watcher is not None:
            return
        login.watcher = self
        self.logins.setdefault(login.pk, []).append(login)
        connection.at_end(login.forget)
        self.sessions.add(login)
        # The browser may not have deleted the cookie of an ended session yet.
        session = getattr(connection.request, "session", None)
        is_in_cookie = isinstance(session, CookieStore)
        first = self.count - len(self.recent)
        if since < first:
            login.end(MISSED)
        if since < self.count or is_in_cookie:
            for number, notice in enumerate(self.recent, first):
                if number >= since or (is_in_cookie and notice.kind == "ended"):
                    login.check(notice)

    def forget(self, login: Login) -> None:
        """Stop watching a login."""
        logins = self.logins.get(login.pk, [])
        if login in logins:
            logins.remove(login)
        if not logins:
            self.logins.pop(login.pk, None)

    def push(self, message: groups.Message) -> None:
        """End the logins that a notice is about."""
        try:
            notice = Notice(*message.value())
        except TypeError:
            self.missed()  # From a process with another version of this code.
            return
        self._note(notice)
        for login in [*self._logins_of(notice.pks)]:
            login.check(notice)

    def missed(self) -> None:
        """End all logins one by one; the handshakes that follow check the sessions again."""
        self._note(MISSED)
        for login in list(self._all()):
            call_in_turn(partial(login.end, MISSED))

    def _note(self, notice: Notice) -> None:
        self.count += 1
        self.recent.append(notice)

    def _logins_of(self, pks: Sequence[str]) -> Iterable[Login]:
        return chain.from_iterable(self.logins.get(pk, ()) for pk in pks) if pks else self._all()

    def _all(self) -> Iterable[Login]:
        return chain.from_iterable(self.logins.values())


_watchers: WeakKeyDictionary[groups.Hub, Watcher] = WeakKeyDictionary()


def get_watcher() -> Watcher:
    """Return the watcher of the running event loop."""
    hub = groups.get_hub()
    watcher = _watchers.get(hub)
    if watcher is None:
        watcher = _watchers[hub] = Watcher(hub)
    return watcher


async def listen() -> int:
    """Wait until this process listens to the group, and return the number of notices so far.

    A handshake awaits this before it reads its session. If Redis is away, only the first handshakes
    wait, for WEBSOCKET_REDIS_TIMEOUT; their sockets are closed with 1012 once it is back.
    """
    watcher = get_watcher()
    if not watcher.ready.done():
        await asyncio.wait([watcher.ready])
    return watcher.count


def watch(connection: Connection, since: int | None = None) -> None:
    """Watch a connection's login, if any, for notices after the first `since` (see `listen`)."""
    if (login := login_of(connection)) is not None:
        watcher = get_watcher()
        watcher.watch(login, watcher.count if since is None else since)


def use(connection: Connection) -> None:
    """Bind a connection to its login, because something reads the user."""
    is_new = connection.login is None
    login = login_of(connection)
    if login is None:
        return
    if is_new and connection.supervisor is not None:  # The user logged in after the handshake.
        connection.supervisor.call(partial(watch, connection))
    login.use()


async def log_in(connection: Connection, user: Any) -> None:
    """Make this the connection's user, whatever its session says."""

    async def auser() -> Any:
        return user

    await listen()
    request: Any = connection.request
    request.user, request.auser = user, auser
    login = await sync_to_async(Login)(connection)
    login.name, login.is_used = None, True
    if connection.login is not None:
        connection.login.forget()
        if connection.endings and connection.login.forget in connection.endings:
            connection.endings.remove(connection.login.forget)
    connection.login = login
    watch(connection)


def login_of(connection: Connection) -> Login | None:
    """Return a connection's login, if its user is logged in."""
    if connection.login is None:
        user = getattr(connection.request, "user", None)
        if user is not None and user.is_authenticated:
            connection.login = Login(connection)
    login: Login | None = connection.login
    return login


def name_of(session: Any) -> str | None:
    """Return a session's key, or its name if the key does not stay the same."""
    key: str | None = getattr(session, "session_key", None)
    return session.get(NAME, key) if isinstance(session, CookieStore) else key


def digest_of(secret: str) -> str:
    """Return a digest that identifies a secret, such as a session key, without revealing it."""
    return salted_hmac(GROUP, secret, algorithm="sha256").hexdigest()


def digest_user(user: Any) -> str:
    """Return a digest of a user's password and rights, or an empty string without a password."""
    if not hasattr(user, "get_session_auth_hash"):
        return ""
    rights = [bool(getattr(user, name, False)) for name in ("is_staff", "is_superuser")]
    return digest_of(f"{user.get_session_auth_hash()} {rights}")
