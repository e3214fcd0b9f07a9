"""Send the HTTP response that refuses a handshake, or Django's 500 if that response fails."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.core.exceptions import DisallowedHost
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch

from websocket import conf, internals
from websocket.handshake import encode_headers, get_handler, is_origin_allowed
from websocket.protocol import SendEvent, State
from websocket.state import Connection

logger = logging.getLogger("django.websocket")


async def refuse(connection: Connection, response: HttpResponseBase) -> None:
    """Refuse the handshake with a response, or with a plain 403 if the server cannot send one.

    A server can if it supports ASGI's extension "WebSocket Denial Response".
    """
    try:
        status, headers, body = await complete(connection, response)
    except Exception as error:
        response = await sync_to_async(get_handler().respond)(connection.request, error)
        status, headers, body = await complete(connection, response)
    warn(connection, response)
    if connection.app_state is not State.CONNECTING:
        return  # It was closed meanwhile, for example by a logout.
    if explanation := explain(connection, response):
        await close(connection, status, headers, explanation)
    elif "websocket.http.response" not in (connection.scope.get("extensions") or {}):
        await connection.close()
    else:
        await send(connection, status, headers, body)
    # Let uvicorn note the end of the connection first: otherwise it logs a false error.
    await asyncio.sleep(0)


async def send(
    connection: Connection, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Send a response, with the headers that middleware set for the accept."""
    names = {name for name, value in headers}
    for header in connection.accept_headers:
        if header[0] == b"set-cookie" or header[0] not in names:
            headers.append(header)
    connection.note_refusal(status)
    connection.advance(State.DISCONNECTED, 1006)
    with suppress(OSError, RuntimeError):  # The client has left.
        await connection.server_send(
            {"type": "websocket.http.response.start", "status": status, "headers": headers}
        )
        await connection.server_send({"type": "websocket.http.response.body", "body": body})
    connection.link.end()


def explain(connection: Connection, response: HttpResponseBase) -> tuple[int, str] | None:
    """Return the close code and the reason that tell a browser's page why it is refused.

    Browsers hide the response from their pages. Clients that send no `Origin` are no browsers, and
    pages of a foreign origin learn nothing.
    """
    request = getattr(connection, "request", None)
    if not conf.EXPLAIN_REFUSALS or request is None or "HTTP_ORIGIN" not in request.META:
        return None
    status = response.status_code
    if not (status in (401, 403) or leads_to_login(response)):
        return None
    with suppress(DisallowedHost):
        if is_origin_allowed(request):
            if status in (401, 403):
                reason = response.reason_phrase.encode(errors="replace")[:123]
                return 3000 if status == 401 else 3003, reason.decode(errors="ignore")
            # A decorator such as permission_required sends those who are logged in there as well.
            user = internals.loaded_user(request)
            is_known = user is not None and user.is_authenticated
            return (3003, "Forbidden") if is_known else (3000, "Log in first.")
    return None


def leads_to_login(response: HttpResponseBase) -> bool:
    """Return whether a response redirects to the login page, as Django's decorators do."""
    if response.status_code not in (302, 303, 307):
        return False
    with suppress(NoReverseMatch, ValueError):
        location = urlsplit(response.get("Location", ""))
        if any(name == REDIRECT_FIELD_NAME for name, value in parse_qsl(location.query)):
            return True
        return location.path == urlsplit(resolve_url(settings.LOGIN_URL)).path
    return False


async def close(
    connection: Connection,
    status: int,
    headers: list[tuple[bytes, bytes]],
    explanation: tuple[int, str],
) -> None:
    """Accept and close at once, which counts as a refusal; only cookies are sent with it."""
    code, reason = explanation
    headers = [*connection.accept_headers, *headers]
    cookies = [header for header in headers if header[0] == b"set-cookie"]
    # A browser that offers subprotocols takes no accept without one.
    subprotocol = next(iter(connection.scope.get("subprotocols") or ()), None)
    accept = {"type": SendEvent.ACCEPT, "subprotocol": subprotocol, "headers": cookies}
    connection.note_refusal(status)
    connection.advance(State.DISCONNECTED, code, reason)
    with suppress(OSError, RuntimeError):  # The client has left.
        await connection.server_send(accept)
        connection.link.resume()
        await connection.server_send({"type": SendEvent.CLOSE, "code": code, "reason": reason})
    connection.link.end()


async def complete(
    connection: Connection, response: HttpResponseBase
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Render, read and close a response; return its status, headers and body."""
    try:
        if not getattr(response, "is_rendered", True):
            response = await sync_to_async(get_handler().render)(connection.request, response)
        return response.status_code, encode_headers(response), await read(response)
    finally:
        if response.streaming:
            await sync_to_async(response.close)()


async def read(response: Any) -> bytes:
    """Return the whole body of a response, streaming or not."""
    if not response.streaming:
        return bytes(response.content)
    if getattr(response, "is_async", False):
        return b"".join([chunk async for chunk in response])
    return bytes(await sync_to_async(b"".join)(response.streaming_content))


def warn(connection: Connection, response: HttpResponseBase) -> None:
    """Log a warning for a response that a WebSocket client cannot use."""
    if response.status_code < 300:
        logger.warning(
            "The handshake at %s was answered with a page (status %s): mount a page's view with "
            "path(), not with websocket(), and refuse a handshake with an error status.",
            connection.path,
            response.status_code,
        )
    elif response.status_code == 404 and settings.DEBUG:
        if getattr(connection.request, "resolver_match", None) is None:
            logger.warning(
                "No URL pattern fits %s: `manage.py sockets` lists the URLs of sockets.",
                connection.path,
            )
    elif response.has_header("Location") and not leads_to_login(response):
        url = response.get("Location", "").partition("?")[0]
        hint = ""
        if url.startswith("https:"):
            hint = " If it connects there, set SECURE_PROXY_SSL_HEADER: Django takes it for ws://."
        logger.warning(
            "The handshake at %s was redirected, which no browser follows: connect to %s.%s",
            connection.path,
            f"ws{url[4:]}" if url.startswith("http") else url,
            hint,
        )
