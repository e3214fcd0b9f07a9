"""The handshake as a Django request: through the middleware and the URLconf, to a socket view."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Coroutine
from io import BytesIO
from typing import Any, Concatenate
from urllib.parse import quote, urlsplit

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.signals import got_request_exception, request_started
from django.db import connections
from django.dispatch import receiver
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseForbidden,
)
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, set_urlconf
from django.utils.http import is_same_domain
from django.utils.log import log_response

from websocket import internals
from websocket.connection import WebSocket
from websocket.console import answer_plain_request, name_of
from websocket.protocol import Receive, Scope, Send

logger = logging.getLogger("django.websocket")

#: An async view, or what a decorator or `as_view()` made of one: called with a socket and with
#: the URL's arguments, it returns a coroutine, or a response that refuses the handshake.
SocketView = Callable[
    Concatenate[WebSocket, ...], Coroutine[Any, Any, HttpResponseBase | None] | HttpResponseBase
]

_SCHEMES = {"ws": "http", "wss": "https"}
_DEFAULT_PORTS = {"http": 80, "https": 443}


# Returns the string that it got first. Not sys.intern: CPython 3.12 kept what it got for ever, and
# clients choose the names of headers.
share = functools.lru_cache(maxsize=128)(str)


class Handshake(ASGIRequest):
    """The GET request with which a client asks for a WebSocket (RFC 6455, section 4.1)."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__({**scope, "method": "GET"}, BytesIO())
        self.scope = scope
        # Open sockets keep their requests: let them share what is the same in most.
        self.META = {share(name): value for name, value in self.META.items()}
        self.channel = (scope, receive, send)

    def _get_scheme(self) -> str:
        # Not ws: is_secure(), and all that follows from it, knows only http and https.
        scheme: str = self.scope.get("scheme", "ws")
        return _SCHEMES.get(scheme, scheme)  # Some servers say http and https already.


class SwitchingProtocols(HttpResponse):
    """The response that lets a handshake through; middleware sees it as any other."""

    status_code = 101

    def __init__(self, socket: WebSocket, view: Coroutine[Any, Any, HttpResponseBase | None]):
        super().__init__()
        del self["Content-Type"]
        self.socket = socket
        self._view: Coroutine[Any, Any, HttpResponseBase | None] | None = view

    def take_view(self) -> Coroutine[Any, Any, HttpResponseBase | None]:
        """Return the view, to be run."""
        view, self._view = self._view, None
        assert view is not None
        return view

    def __del__(self) -> None:
        # Middleware returned another response, or the server gave up the handshake meanwhile.
        if self._view is not None:
            self._view.close()


class HandshakeHandler(BaseHandler):
    """Runs handshakes through `settings.MIDDLEWARE`, in sync mode: one hop to a thread does all."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()
        #: Without middleware, and without a transaction, there is nothing that may block.
        self.needs_thread = bool(settings.MIDDLEWARE) or any(
            database["ATOMIC_REQUESTS"] for database in connections.databases.values()
        )

    def handle(self, scope: Scope, receive: Receive, send: Send) -> HttpResponseBase:
        """Return the response to a handshake: `SwitchingProtocols`, or one that refuses it."""
        request_started.send(sender=self.__class__, scope=scope)
        try:
            request = Handshake(scope, receive, send)
        except UnicodeDecodeError:
            return HttpResponseBadRequest()
        response = self.get_response(request)
        response._handler_class = self.__class__  # type: ignore[attr-defined]
        if not response.streaming:
            response.close()  # Also sends request_finished, which forgets the URLconf.
            set_urlconf(getattr(request, "urlconf", None))
        return response

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        """Resolve the path as Django does, but raise `Http404` for the view of a page."""
        match = super().resolve_request(request)
        if not hasattr(match.func, "socket_view"):
            problem = (
                f"No socket at {quote(request.path)}: mount {name_of(match.func)} with "
                "websocket(), not with path(), if it is a socket view."
            )
            logger.warning(problem)
            raise Http404(problem)
        # A list for each URL pattern before this one: too much to keep while the socket is open.
        match.tried = None
        return match


@functools.cache
def get_handler() -> HandshakeHandler:
    """Return the process's handler, with its middleware loaded."""
    return HandshakeHandler()


def upgrade(view: SocketView) -> Callable[..., HttpResponseBase]:
    """Make a Django view of a socket view.

    It answers a handshake with 101 and the view, which is run once the middleware has finished;
    a foreign Origin with 403; and a plain request with 426, or the console where DEBUG is on. It
    is a sync view, and so allowed under ATOMIC_REQUESTS, and it calls the view in the handshake's
    thread: of an async function that runs nothing yet, but a sync decorator may use the database.
    (Where MIDDLEWARE is empty there is no such thread, and it may not.)
    """
    if not callable(view) or isinstance(view, type):
        hint = " Use its as_view()." if hasattr(view, "as_view") else ""
        raise TypeError(f"A socket view is a callable that takes a socket, and not {view!r}.{hint}")

    @functools.wraps(view)
    def handshake(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not isinstance(request, Handshake):
            return answer_plain_request(request, view)
        if not getattr(view, "origin_exempt", False) and not is_origin_allowed(request):
            return forbid_origin(request)
        socket = WebSocket(*request.channel)
        socket.request = request
        # Read now what the view will use, for in the event loop nothing may query.
        if hasattr(request, "session"):
            request.session.keys()
        if hasattr(request, "user"):
            bool(request.user)
        response = view(socket, *args, **kwargs)
        if isinstance(response, HttpResponseBase):
            return response
        if not isinstance(response, Coroutine):
            raise TypeError(
                f"The socket view {name_of(view)} returned {response!r}: is it async? "
                "(And without yield: it sends with `await socket.send_text()`.)"
            )
        return SwitchingProtocols(socket, response)

    internals.unmark_coroutine(handshake)
    handshake.socket_view = view  # type: ignore[attr-defined]
    return handshake


# Origin: browsers let any page open a socket to any site, and send the site's cookies with it


def is_origin_allowed(request: HttpRequest) -> bool:
    """Tell whether the page that asks for a socket may have one (RFC 6455, section 10.2).

    Its origin (scheme, host and port) must be the request's own, or be listed in
    CSRF_TRUSTED_ORIGINS, where `https://*.example.com` stands for all subdomains. A client that
    sends no Origin is no browser, and is allowed.
    """
    origin = request.META.get("HTTP_ORIGIN")
    if origin is None:
        return True
    own = f"{request.scheme}://{request.get_host()}"
    if origin == own:
        return True
    asking = _parse_origin(origin)
    if asking is None:
        return False
    if asking == _parse_origin(own):
        return True
    scheme, host, port = asking
    for trusted in settings.CSRF_TRUSTED_ORIGINS:
        parsed = _parse_origin(trusted.replace("://*.", "://."))
        if parsed and (scheme, port) == (parsed[0], parsed[2]) and is_same_domain(host, parsed[1]):
            return True
    return False


def _parse_origin(origin: str) -> tuple[str, str, int] | None:
    """Split an origin into scheme, host and port; None for `null` and for garbage."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    if "@" in parts.netloc or parts.path or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme]


def forbid_origin(request: HttpRequest) -> HttpResponse:
    """Refuse a handshake for its Origin, and log what would allow it."""
    response = HttpResponseForbidden("Origin not allowed.", content_type="text/plain")
    log_response(
        "Forbidden (Origin %s is neither this host nor in CSRF_TRUSTED_ORIGINS): %s",
        ascii(request.META["HTTP_ORIGIN"]),
        quote(request.path),
        response=response,
        request=request,
        logger=logging.getLogger("django.security.csrf"),
    )
    return response


# Sockets mistaken for requests

_OF_SOCKETS = ("accept", "iter_", "join", "receive", "reject", "send")


@receiver(got_request_exception)
def explain(sender: Any, **kwargs: Any) -> None:
    """Add a note to the exception of a view that is mounted as one of the other kind."""
    error = sys.exc_info()[1]
    if not isinstance(error, AttributeError):
        return
    if isinstance(error.obj, HttpRequest) and (error.name or "").startswith(_OF_SOCKETS):
        error.add_note("Mount a socket view with websocket(), not with path().")
    elif isinstance(error.obj, WebSocket) and error.name in dir(error.obj.request):
        error.add_note(
            "A socket is not a request: use `socket.request`, or mount a page's view with path()."
        )
