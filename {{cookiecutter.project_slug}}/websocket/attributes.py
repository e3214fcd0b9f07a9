"""Socket attributes from the handshake's request, by the names that views and decorators use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.http import HttpRequest

from websocket import logins
from websocket.groups.presence import Identity
from websocket.members import address, identify
from websocket.protocol import Headers, QueryParams, Scope
from websocket.state import Connection

if TYPE_CHECKING:
    from django.contrib.auth.models import _AnyUser
    from django.contrib.sessions.backends.base import SessionBase


def of_connection(name: str) -> Any:
    """Return a property that reads an attribute of the connection."""
    return property(lambda self: getattr(self._connection, name))


def _of_request(name: str) -> Any:
    # Not __getattr__: it would halve the speed of every attribute lookup on the class.
    return property(lambda self: getattr(self.request, name))


class RequestAttributes:
    """The part of a socket that comes from its handshake.

    It has the attributes that Django's decorators expect of a request. `request` has all others,
    such as those that middleware added.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._headers: Headers | None = None

    #: The handshake: an `HttpRequest` that has been through `settings.MIDDLEWARE`.
    request: HttpRequest = of_connection("request")
    #: The handshake's ASGI scope.
    scope: Scope = of_connection("scope")

    @property
    def headers(self) -> Headers:
        """The handshake's headers."""
        if self._headers is None:
            self._headers = Headers(self.scope)
        return self._headers

    @property
    def scheme(self) -> str:
        """`ws` or `wss`, as the server sees it (behind a proxy: see `request.is_secure()`)."""
        return str(self.scope.get("scheme", "ws"))

    @property
    def path(self) -> str:
        """The percent-decoded path, including the `root_path` that the site is mounted at."""
        return str(self.scope["path"])

    @property
    def query_string(self) -> str:
        """The part of the URL after the question mark, as it was sent."""
        return str(self.scope.get("query_string", b"").decode())

    @property
    def query_params(self) -> QueryParams:
        """The query string's parameters."""
        return QueryParams(self.query_string)  # type: ignore[return-value]

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, in its order of preference."""
        return list(self.scope.get("subprotocols") or ())

    COOKIES = _of_request("COOKIES")
    GET = _of_request("GET")
    META = _of_request("META")
    build_absolute_uri = _of_request("build_absolute_uri")
    get_full_path = _of_request("get_full_path")
    get_host = _of_request("get_host")
    is_secure = _of_request("is_secure")
    method = _of_request("method")
    resolver_match = _of_request("resolver_match")

    @property
    def session(self) -> SessionBase:
        """The session, as read during the handshake; a view that changes it must save it."""
        session: SessionBase = self.request.session
        return session

    @property
    def user(self) -> _AnyUser:
        """The user that `AuthenticationMiddleware` found during the handshake.

        Reading it binds the socket to this user: it is closed with 1012 when the session ends, or
        the user gets another password or other rights (see websocket.auth).
        """
        logins.use(self._connection)
        user: _AnyUser = self.request.user
        return user

    async def auser(self) -> _AnyUser:
        """Return `user`; Django's decorators call this method."""
        return self.user

    @property
    def _own_id(self) -> str:
        """The same as `id`, without letting messages reach this socket."""
        return identify(self._connection)

    @property
    def id(self) -> str:
        """A random identifier: `publish(f"socket.{socket.id}", ...)` reaches this socket alone."""
        return address(self._connection)

    def _identity(self) -> Identity:
        """Return the member of a group with presence that this socket stands for."""
        user = self.user if hasattr(self.request, "user") else None
        if user is not None and user.is_authenticated:
            return Identity(str(user.pk), True)
        return Identity(self.id, False)
