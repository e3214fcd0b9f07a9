"""Send the HTTP response that refuses a handshake, or Django's 500 if that response fails."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.http.response import HttpResponseBase

from websocket.counters import counters
from websocket.handshake import encode_headers, get_handler
from websocket.protocol import State
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
    if "websocket.http.response" not in (connection.scope.get("extensions") or {}):
        await connection.close()
        return
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
    counters[f"handshake {status}"] += 1
    connection.advance(State.DISCONNECTED, 1006)
    with suppress(OSError, RuntimeError):  # The client has left.
        await connection.server_send(
            {"type": "websocket.http.response.start", "status": status, "headers": headers}
        )
        await connection.server_send({"type": "websocket.http.response.body", "body": body})
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
    elif response.status_code in (301, 308):
        logger.warning(
            "The handshake at %s was redirected to %s, which no browser follows: connect there.",
            connection.path,
            response.get("Location", "").partition("?")[0],
        )
