"""The logins of this process's sockets, and the messages about logouts that end them.

All processes listen to one group, to which websocket.auth publishes a line of text for each logout
or similar event:

    ended DIGEST PK     a session has ended for good; DIGEST identifies it
    session DIGEST      close the sockets of a session
    user DIGEST PK      close a user's sockets, unless DIGEST identifies the user's password
    user - PK           close all sockets of a user

PK is the user's primary key. It is empty for "session", whose line ends with a space. A process
that may have missed lines notes "missed" among its own.

A process joins the group before its first handshake reads a session, and keeps the last lines for
handshakes in progress, so that it misses no line about a session after a handshake has read it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextvars import Context
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.utils.crypto import salted_hmac

from websocket import groups
from websocket.protocol import State

if TYPE_CHECKING:
    from websocket.state import Connection

# A view's group cannot have this name.
GROUP: Final = "@auth"

LOGGED_OUT: Final = (3000, "Logged out.")
IN_DOUBT: Final = (1012, "Connect again: a logout may have been missed.")

# The number of messages kept for handshakes in progress.
RECENT: Final = 1000

# Seconds between closing two sockets in doubt, so that not all clients reconnect at once.
PAUSE: Final = 0.005

# The item in which a signed-cookie session keeps its name: its key changes with every save.
NAME: Final = "_websocket_name"


class Login:
    """The user and the session that a socket was opened with."""

    __slots__ = ("connection", "digest", "ending", "is_used", "name", "pk", "watcher")

    def __init__(self, connection: Connection) -> None:
        #: None once it is over.
        self.connection: Connection | None = connection
        self.pk = str(getattr(connection.request.user, "pk", ""))
        self.name = name_of(getattr(connection.request, "session", None))
        self.digest: str | None = None
        #: Whether anything has read the user.
        self.is_used = False
        #: The close code and the reason, once the login has ended.
        self.ending: tuple[int, str] | None = None
        self.watcher: Watcher | None = None

    def use(self) -> None:
        """Bind the connection to the login, and close it if that has ended; from any thread."""
        self.is_used = True
        if self.ending is None or self.watcher is None:
            return
        if _is_running(self.watcher.loop):
            self.end(self.ending)
        else:
            self.watcher.loop.call_soon_threadsafe(self.end, self.ending)

    def end(self, ending: tuple[int, str]) -> None:
        """Note that the login has ended, and close the connection if anything has read the user."""
        self.ending = ending
        if self.is_used and self.connection is not None:
            self.connection.close_soon(*ending)

    def forget(self) -> None:
        """Forget the connection, because it is over."""
        self.connection = None
        if self.watcher is not None:
            self.watcher.forget(self)

    def check(self, text: str) -> None:
        """End the login if a message is about it."""
        kind, _, rest = text.partition(" ")
        digest, _, pk = rest.partition(" ")
        if kind == "missed":
            self.end(IN_DOUBT)
        elif pk in ("", self.pk) and self._is_meant(kind, digest):
            self.end(LOGGED_OUT)

    def _is_meant(self, kind: str, digest: str) -> bool:
        if kind == "user":
            user = self.connection and self.connection.request.user
            return digest == "-" or digest != (digest_password(user) or digest)
        # Computed once, because a message without a primary key is compared with every login.
        if self.digest is None and self.name is not None:
            self.digest = digest_of(self.name)
        return digest == self.digest


class Watcher:
    """An event loop's member of the group, for all of its sockets."""

    id = ""

    def __init__(self, hub: groups.Hub) -> None:
        self.loop = hub.loop
        #: The logins of open sockets, by the users' primary keys.
        self.logins: dict[str, list[Login]] = {}
        #: The number of messages so far, and the most recent ones.
        self.count = 0
        self.recent: deque[str] = deque(maxlen=RECENT)
        #: The logins that are still to be ended because a message may have been missed.
        self.in_doubt: list[Login] = []
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
        """End a login if a message is about it, now or among those after the first `since`."""
        connection = login.connection
        if connection is None or connection.app_state is State.DISCONNECTED:
            return
        login.watcher = self
        self.logins.setdefault(login.pk, []).append(login)
        connection.at_end(login.forget)
        # The browser may not have deleted the cookie of an ended session yet.
        session = getattr(connection.request, "session", None)
        is_in_cookie = isinstance(session, CookieStore)
        first = self.count - len(self.recent)
        if since < first:
            login.end(IN_DOUBT)
        if since < self.count or is_in_cookie:
            for number, text in enumerate(self.recent, first):
                if number >= since or (is_in_cookie and text.startswith("ended ")):
                    login.check(text)

    def forget(self, login: Login) -> None:
        """Stop watching a login."""
        logins = self.logins.get(login.pk, [])
        if login in logins:
            logins.remove(login)
        if not logins:
            self.logins.pop(login.pk, None)

    def push(self, message: groups.Message) -> None:
        """End the logins that a message is about."""
        text: str = message.event["text"]
        self._note(text)
        pk = text.split(" ", 2)[2]
        for login in list(self.logins.get(pk, ()) if pk else self._all()):
            login.check(text)

    def missed(self) -> None:
        """End all logins one by one; the handshakes that follow check the sessions again."""
        self._note("missed")
        is_ending = bool(self.in_doubt)
        self.in_doubt = list(self._all())
        if not is_ending:
            self._end_next()

    def _end_next(self) -> None:
        if self.in_doubt:
            self.in_doubt.pop().end(IN_DOUBT)
            self.loop.call_later(PAUSE, self._end_next, context=Context())

    def _note(self, text: str) -> None:
        self.count += 1
        self.recent.append(text)

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
    """Wait until this process listens to the group, and return the number of messages so far.

    A handshake awaits this before it reads its session. If Redis is away, only the first handshakes
    wait, for WEBSOCKET_REDIS_TIMEOUT; their sockets are closed with 1012 once it is back.
    """
    watcher = get_watcher()
    if not watcher.ready.done():
        await asyncio.wait([watcher.ready])
    return watcher.count


def watch(connection: Connection, since: int | None = None) -> None:
    """Watch a connection's login, if any, for messages after the first `since` (see `listen`)."""
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
        connection.supervisor.loop.call_soon_threadsafe(watch, connection)
    login.use()


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


def digest_password(user: Any) -> str:
    """Return a digest that identifies a user's password, or an empty string if there is none."""
    has_hash = hasattr(user, "get_session_auth_hash")
    return digest_of(user.get_session_auth_hash()) if has_hash else ""


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
