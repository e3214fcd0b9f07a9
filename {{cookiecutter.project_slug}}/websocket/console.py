"""The response to a plain request for a socket's URL: 426, or a page to try the socket on."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Callable
from http.client import responses
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import get_script_prefix

from websocket.counters import refusals
from websocket.routes import is_mistaken

logger = logging.getLogger("django.websocket")

# A part of the page, so that the console needs nothing that serves static files.
STYLESHEET = Path(__file__).parent / "static" / "websocket" / "site.css"


def answer_plain_request(request: HttpRequest, view: Callable[..., Any]) -> HttpResponse:
    """Return 426 (RFC 9110, section 15.5.22), or the console for a browser if DEBUG is on."""
    accepts_html = "text/html" in request.META.get("HTTP_ACCEPT", "")
    if settings.DEBUG and request.method == "GET" and accepts_html:
        return render_console(request, view)
    if settings.DEBUG and (number := request.META.get("HTTP_X_REFUSED_SINCE")):
        response = HttpResponse(refusal_since(request, number), content_type="text/plain")
        response["X-Refused"] = refusals[-1][0]
        return response
    if is_mistaken(request):
        logger.warning(
            "A handshake arrived as a plain request: the server lacks WebSockets (install "
            "uvicorn[standard]), or the proxy does not pass on `Connection: Upgrade`: %s",
            quote(request.path),
        )
    response = HttpResponse("This URL is for WebSockets.", content_type="text/plain", status=426)
    response["Upgrade"] = "websocket"
    return response


def render_console(request: HttpRequest, view: Callable[..., Any]) -> HttpResponse:
    """Return a page where a developer can connect to the view, send messages and see frames."""
    nonce = secrets.token_urlsafe(16)
    match = request.resolver_match
    context = {
        "docstring": inspect.cleandoc(view.__doc__ or ""),
        "home": get_script_prefix(),
        "nonce": nonce,
        "refused": refusals[-1][0],
        "route": heading(match.route if match else "", request.path),
        "stylesheet": STYLESHEET.read_text(encoding="utf-8"),
        "user": getattr(request, "user", None),
        "view": name_of(view),
    }
    response = render(request, "websocket/console.html", context)
    response["Cache-Control"] = "no-store, private"
    response["Content-Security-Policy"] = (
        f"default-src 'none'; base-uri 'none'; connect-src 'self'; form-action 'none'; "
        f"img-src data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
    )
    return response


def heading(route: str, path: str) -> str:
    """Return the route of `websocket()`, or the path where a route is a regular expression."""
    return path.lstrip("/") if set(route) & set("^$\\?") else route


def refusal_since(request: HttpRequest, number: str) -> str:
    """Return how this URL has refused a handshake since the console knew of so many refusals.

    Browsers do not tell it to their pages.
    """
    known = int(number) if number.isdecimal() else 0
    for number_now, path, status in reversed(refusals):
        if number_now > known and path == quote(request.path):
            return f"{status} {responses.get(status, '')}".strip()
    return ""


def name_of(view: Callable[..., Any]) -> str:
    """Return the dotted path of a view, such as `users.views.echo`."""
    view = getattr(view, "view_class", view)  # as_view() leaves the class on its function.
    return f"{view.__module__}.{getattr(view, '__qualname__', type(view).__qualname__)}"
