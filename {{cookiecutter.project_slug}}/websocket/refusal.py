"""The HTTP response that refuses a handshake, or Django's 500 in its place if it fails."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import quote

from asgiref.sync import sync_to_async
from django.http.response import HttpResponseBase

from websocket.connection import WebSocket
from websocket.handshake import encode_headers, get_handler
from websocket.protocol import State

logger = logging.getLogger("django.websocket")


async def refuse(socket: WebSocket, response: HttpResponseBase) -> None:
    """Answer the handshake with a response, or with a plain 403 if the server cannot.

    (ASGI's extension "WebSocket Denial Response".)
    """
    try:
        status, headers, body = await complete(socket, response)
    except Exception as error:
        response = await sync_to_async(get_handler().respond)(socket.request, error)
        status, headers, body = await complete(socket, response)
    warn(socket, response)
    if socket.app_state is not State.CONNECTING:
        return  # It was closed meanwhile, such as by a logout.
    if "websocket.http.response" not in (socket.scope.get("extensions") or {}):
        await socket.close()
        return
    await socket._refuse(status, headers, body)
    # uvicorn logs a false error unless it can note the end of the connection first.
    await asyncio.sleep(0)


async def complete(
    socket: WebSocket, response: HttpResponseBase
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Render, read and close a response; return its status, headers and body."""
    try:
        if not getattr(response, "is_rendered", True):
            response = await sync_to_async(get_handler().render)(socket.request, response)
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


def warn(socket: WebSocket, response: HttpResponseBase) -> None:
    """Log a response that is of no use to a client that asks for a WebSocket."""
    if response.status_code < 300:
        logger.warning(
            "The handshake at %s was answered with a page (status %s): mount a page's view with "
            "path(), not with websocket(), and refuse a handshake with an error's status.",
            quote(socket.path),
            response.status_code,
        )
    elif response.status_code in (301, 308):
        logger.warning(
            "The handshake at %s was redirected to %s, which no browser follows: connect there.",
            quote(socket.path),
            response.get("Location", "").partition("?")[0],
        )
