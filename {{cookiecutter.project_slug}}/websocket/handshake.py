"""Route handshakes as Django requests, through middleware and the URLconf, to a socket view."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine
from io import BytesIO
from typing import Any, Concatenate
from urllib.parse import quote, urlsplit

from django.conf import settings
from django.contrib.messages.storage import default_storage
from django.contrib.messages.storage.base import BaseStorage
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.core.signals import request_started
from django.db import connections, transaction
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

from websocket import internals, logins, routes
from websocket.connection import WebSocket
from websocket.console import answer_plain_request, name_of
from websocket.protocol import Receive, Scope, Send, encode_header
from websocket.state import Connection

logger = logging.getLogger("django.websocket")

#: An async view, or the result of a decorator or `as_view()`. Called with a socket and the URL's
#: arguments, it returns a coroutine, or a response that refuses the handshake.
SocketView = Callable[
    Concatenate[WebSocket, ...], Coroutine[Any, Any, HttpResponseBase | None] | HttpResponseBase
]

LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"

_SCHEMES = {"ws": "http", "wss": "https"}
_DEFAULT_PORTS = {"http": 80, "https": 443}


# Returns an equal string from an earlier call. Not sys.intern: CPython 3.12 never frees interned
# strings, and clients choose the names of headers.
share = functools.lru_cache(maxsize=128)(str)


class Handshake(ASGIRequest):
    """The GET request with which a client asks for a WebSocket (RFC 6455, section 4.1)."""

    #: Whether the storage of django.contrib.messages was removed: `_messages` makes it anew.
    _lacks_messages = False

    def __init__(self, connection: Connection) -> None:
        super().__init__({**connection.scope, "method": "GET"}, BytesIO())
        self.scope = connection.scope
        # Open sockets keep their requests: let them share the headers' names.
        self.META = {share(name): value for name, value in self.META.items()}
        #: Deleted once the middleware has finished, because the socket refers to this request.
        self.socket = WebSocket(connection.scope, connection.receive, connection.send)

    def _get_scheme(self) -> str:
        # Not ws or wss: is_secure() knows http and https only.
        scheme: str = self.scope.get("scheme", "ws")
        return _SCHEMES.get(scheme, scheme)  # Some servers pass http or https.

    @functools.cached_property
    def _messages(self) -> BaseStorage:
        if not self._lacks_messages:
            raise AttributeError("There are no messages.")
        return default_storage(self)


class SwitchingProtocols(HttpResponse):
    """The response that passes a handshake on to its view; middleware handles it like any other."""

    status_code = 101

    def __init__(self, view: Coroutine[Any, Any, HttpResponseBase | None]) -> None:
        super().__init__()
        del self["Content-Type"]
        self._view: Coroutine[Any, Any, HttpResponseBase | None] | None = view

    def take_view(self) -> Coroutine[Any, Any, HttpResponseBase | None]:
        """Return the view's coroutine, for the caller to run."""
        view, self._view = self._view, None
        assert view is not None
        return view

    def __del__(self) -> None:
        # Middleware returned another response, or the server abandoned the handshake meanwhile.
        if self._view is not None:
            self._view.close()


class HandshakeHandler(BaseHandler):
    """Runs handshakes through `settings.MIDDLEWARE`, in a single call in a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()
        #: Whether a handshake may block: middleware and transactions may.
        self.needs_thread = bool(settings.MIDDLEWARE) or any(
            database["ATOMIC_REQUESTS"] for database in connections.databases.values()
        )

    def handle(
        self, scope: Scope, receive: Receive, send: Send
    ) -> tuple[Connection, HttpResponseBase]:
        """Return the connection and the response: `SwitchingProtocols` or a refusal."""
        request_started.send(sender=self.__class__, scope=scope)
        connection = Connection(scope, receive, send)
        try:
            request = Handshake(connection)
        except UnicodeDecodeError:
            return connection, HttpResponseBadRequest()
        connection.request = request
        response = self.get_response(request)
        internals.set_handler(response, self.__class__)
        del request.socket
        try:
            forget_deleted_session(response)
            if isinstance(response, SwitchingProtocols):
                del response["Content-Length"]  # A 101 has no content (RFC 9110, section 8.6).
                connection.accept_headers = encode_headers(response)
                request._lacks_messages = internals.remove_messages(request)
            if not response.streaming:
                response.close()  # Also sends request_finished, which resets the URLconf.
                set_urlconf(getattr(request, "urlconf", None))
        except Exception as error:
            if isinstance(response, SwitchingProtocols):
                response.take_view().close()
            response = self.respond(request, error)
        return connection, response

    def render(self, request: HttpRequest, response: Any) -> HttpResponseBase:
        """Render a response as Django does, for a view that runs after the middleware."""
        for method in internals.template_middleware(self):
            response = method(request, response)
        rendered: HttpResponseBase = response.render()
        return rendered

    def respond(self, request: HttpRequest, error: Exception) -> HttpResponseBase:
        """Return middleware's response to an exception, or Django's 404, 403, 400 or 500."""

        def view(request: HttpRequest) -> HttpResponseBase:
            try:
                raise error
            except Exception:
                response = self.process_exception_by_middleware(error, request)
                if response is None:
                    raise
                return response

        return convert_exception_to_response(view)(request)  # type: ignore[return-value]

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        """Resolve the path as Django does, but to a socket view; raise `Http404` without one."""
        found = super().resolve_request(request)
        match = found if routes.is_socket(found.func) else routes.find(request, sockets=True)
        if match is None:
            problem = (
                f"No socket at {quote(request.path)}: mount {name_of(found.func)} with "
                "websocket(), not with path(), if it is a socket view."
            )
            logger.warning(problem)
            raise Http404(problem)
        match.func = match.func.handshake  # type: ignore[attr-defined]
        # Do not keep it while the socket is open: it lists all URL patterns before this one.
        match.tried = None
        request.resolver_match = match
        return match


@functools.cache
def get_handler() -> HandshakeHandler:
    """Return the process's handler, with its middleware loaded."""
    return HandshakeHandler()


def upgrade(view: SocketView) -> Callable[..., HttpResponseBase]:
    """Wrap a socket view in a Django view for plain requests, and in another for handshakes.

    The first answers with the page at the same path, or with 426, or with the console if DEBUG is
    on. The second, its attribute `handshake`, answers with 101 and the view's coroutine, which
    runs after the middleware, or with 403 if the Origin is foreign.

    They are sync views, because ATOMIC_REQUESTS does not support async views. The second calls the
    socket view in the handshake's thread. An async function does not start yet. A sync decorator
    runs here and may use the database, unless MIDDLEWARE is empty: then there is no such thread.
    """
    if not callable(view) or isinstance(view, type):
        hint = " Use its as_view()." if hasattr(view, "as_view") else ""
        raise TypeError(f"A socket view is a callable that takes a socket, not {view!r}.{hint}")

    @functools.wraps(view)
    def handshake(request: Handshake, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not getattr(view, "origin_exempt", False) and not is_origin_allowed(request):
            return forbid_origin(request)
        load_user(request, view)
        response = view(request.socket, *args, **kwargs)
        if isinstance(response, HttpResponseBase):
            return response
        if not isinstance(response, Coroutine):
            raise TypeError(
                f"The socket view {name_of(view)} returned {response!r}: is it async? "
                "(It must not yield: send with `await socket.send_text()`.)"
            )
        return SwitchingProtocols(response)

    @functools.wraps(view, updated=())
    def plain(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        page = routes.get_page(get_handler(), request)
        return answer_plain_request(request, view) if page is None else page

    internals.unmark_coroutine(handshake)
    # Whether a page is exempt from CSRF checks, a login or a transaction, its own view decides.
    vars(plain).update(csrf_exempt=True, login_required=False)
    for alias in connections:
        transaction.non_atomic_requests(using=alias)(plain)
    vars(plain).update(handshake=handshake, socket_view=view)
    return plain


def load_user(request: Handshake, view: SocketView) -> None:
    """Load the session and the user now: queries are not allowed in the event loop."""
    if hasattr(request, "session"):
        request.session.keys()
    if hasattr(request, "user"):
        bool(request.user)
        logins.login_of(request.socket._connection)
        if LOGIN_REQUIRED in settings.MIDDLEWARE and getattr(view, "login_required", True):
            logins.use(request.socket._connection)


def forget_deleted_session(response: HttpResponseBase) -> None:
    """Do not delete the session's cookie: the page may have got another one meanwhile.

    A page whose socket closed because of a new password connects again, perhaps with its old
    cookie, while the response with the new one is on its way.
    """
    cookie = response.cookies.get(settings.SESSION_COOKIE_NAME)
    if cookie is not None and not cookie.value:
        del response.cookies[settings.SESSION_COOKIE_NAME]


def encode_headers(response: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    """Return a response's headers and cookies for ASGI; raise `ValueError` for an invalid one."""
    cookies = [("set-cookie", cookie.OutputString()) for cookie in response.cookies.values()]
    return [encode_header(header) for header in (*response.items(), *cookies)]


# Origin: browsers let any page open a socket to any site, and send the site's cookies with it


def is_origin_allowed(request: HttpRequest) -> bool:
    """Return whether a page of this Origin may open a socket (RFC 6455, section 10.2).

    The origin (scheme, host and port) must be the request's own, or be listed in
    CSRF_TRUSTED_ORIGINS, where `https://*.example.com` stands for all subdomains. A client that
    sends no Origin is not a browser, and is allowed.
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
    """Split an origin into scheme, host and port; return None if it is `null` or invalid."""
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
    """Refuse a handshake because of its Origin, and log the setting that would allow it."""
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


def omit_refusal(record: logging.LogRecord) -> bool:
    """Drop Django's line about a refused handshake: `Connection.note_refusal` logs another.

    A filter for the logger "django.request".
    """
    is_handshake = isinstance(getattr(record, "request", None), Handshake)
    is_djangos = hasattr(record, "status_code") and record.levelno == logging.WARNING
    return not (is_handshake and is_djangos)
