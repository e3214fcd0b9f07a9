"""End event streams when the server stops: uvicorn would wait for them without limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from websocket import conf, internals, sweep
from websocket.link import Link
from websocket.protocol import Event, Receive, Scope, Send

# The media type of Server-Sent Events (HTML, section 9.2).
EVENT_STREAM: Final = b"text/event-stream"


async def serve(
    app: Callable[[Any, Any, Any], Awaitable[None]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Run the application for an HTTP request, and complete an event stream that was ended."""
    response = Response(receive, send)
    try:
        await app(scope, response.receive, response.send)
    finally:
        if response.is_event_stream:
            sweep.discard(response)
    if response.is_ended and not response.is_complete:
        # A client that does not read would hold up the server as well.
        Link(send).end(conf.DISCONNECT_GRACE)
        await send({"type": "http.response.body"})


class Response:
    """A response to an HTTP request; one that is an event stream is checked once a second.

    When the server stops, the application is told that the client has left. Django (5.0 and later)
    then cancels the view's iterator, whose `finally` blocks run.
    """

    __slots__ = (
        *("is_complete", "is_ended", "is_event_stream"),
        *("reader", "server_receive", "server_send"),
    )

    def __init__(self, receive: Receive, send: Send) -> None:
        self.server_receive = receive
        self.server_send = send
        #: The application's task that waits in receive().
        self.reader: asyncio.Task[Any] | None = None
        self.is_event_stream = False
        self.is_complete = False
        self.is_ended = False

    async def receive(self) -> Event:
        if self.is_ended:
            return {"type": "http.disconnect"}
        self.reader = reader = asyncio.current_task()
        try:
            return await self.server_receive()
        except asyncio.CancelledError:
            # It may have been cancelled by others as well.
            if not self.is_ended or reader is None or reader.uncancel():
                raise
            return {"type": "http.disconnect"}
        finally:
            self.reader = None

    async def send(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in event.get("headers", ())}
            if headers.get(b"content-type", b"").startswith(EVENT_STREAM):
                self.is_event_stream = True
                sweep.add(self)
        elif not event.get("more_body"):
            self.is_complete = True
        await self.server_send(event)

    def look(self) -> None:
        """End the stream if the server is to stop."""
        if not self.is_ended and internals.is_stopping():
            self.is_ended = True
            if self.reader is not None:
                self.reader.cancel()
