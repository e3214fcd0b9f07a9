"""Attributes of the handshake's request, by the names that views and decorators know."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest

from websocket.protocol import Headers, QueryParams, Scope

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase


def _of_request(name: str) -> Any:
    # Not __getattr__: with one, Python finds every attribute of the class at half the speed.
    return property(lambda self: getattr(self.request, name))


class RequestAttributes:
    """The part of a socket that its handshake determines.

    It has the attributes that Django's decorators expect of a request. `request` has all others,
    such as those that middleware added.
    """

    #: The handshake: an `HttpRequest` that has been through `settings.MIDDLEWARE`.
    request: HttpRequest

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._id: str | None = None
        self._headers: Headers | None = None

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
        """The path, percent-decoded, with the `root_path` that the site is mounted at."""
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
        """The subprotocols that the client offers, its favorite first."""
        return list(self.scope.get("subprotocols") or ())

    @property
    def id(self) -> str:
        """A random name of this connection."""
        if self._id is None:
            self._id = uuid.uuid4().hex
        return self._id

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
        """The session, as read during the handshake; a view that changes it also saves it."""
        session: SessionBase = self.request.session
        return session
