"""The other end of a connection, for these tests: a client of one view, and a server by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from django.conf import settings
from django.test import override_settings
from django.utils.module_loading import import_string

from websocket.connection import WebSocket
from websocket.protocol import Event, Scope
from websocket.testing import ClientSocket, connect, connections_kept
from websocket.urls import websocket

# Now, because it sets up the log anew: within a test, assertNoLogs() would hear nothing after it.
import_string(settings.ASGI_APPLICATION)

CONNECT: Final = {"type": "websocket.connect"}


def text(data: str) -> Event:
    return {"type": "websocket.receive", "text": data}


def binary(data: bytes) -> Event:
    return {"type": "websocket.receive", "bytes": data}


def left(code: int = 1001, reason: str = "") -> Event:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until a condition holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def serving(view: Any) -> override_settings:
    """Make a view the whole site, for a block."""
    return override_settings(ROOT_URLCONF=(websocket("ws/", view),))


@asynccontextmanager
async def connect_to(view: Any, path: str = "/ws/", **kwargs: Any) -> AsyncIterator[ClientSocket]:
    """Connect to a view, which is the whole site for the block."""
    with serving(view):
        async with connect(path, **kwargs) as client:
            yield client


class Server:
    """An ASGI server with one connection: it keeps what it is sent.

    It gives the application `events`, one after the other, and then waits for more; `drained` is
    set when the application waits as well.
    """

    #: As uvicorn's: seconds that it waits for a pong.
    ping_timeout: float = 20

    def __init__(self, *events: Event) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.drained = asyncio.Event()
        self.sent: list[Event] = []
        for event in events:
            self.events.put_nowait(event)

    async def receive(self) -> Event:
        if self.events.empty():
            self.drained.set()
        return await self.events.get()

    async def send(self, event: Event) -> None:
        self.sent.append(event)

    async def serve(self, **scope: Any) -> list[Event]:
        """Run the project's application to its end, and return what it sent."""
        application = import_string(settings.ASGI_APPLICATION)
        serving = application(make_scope(**scope), self.receive, self.send)
        with connections_kept():
            # In a task, as servers do: what a connection changes in its context is its own.
            await asyncio.wait_for(asyncio.create_task(serving), 5)
        return self.sent


class Transport(asyncio.Transport):
    """What uvicorn keeps of a connection below ASGI."""

    aborted = closing = False
    reading = True
    unsent = 0

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


class ServerWithTransport(Server):
    """A server that shows its transport, as uvicorn does."""

    def __init__(self, *events: Event) -> None:
        super().__init__(*events)
        self.transport = Transport()
        self.frames: list[bytes] = []


class GoneServer(Server):
    """A server that refuses to send, for its client has left."""

    async def send(self, event: Event) -> None:
        raise ConnectionResetError


def make_scope(**scope: Any) -> Scope:
    return {
        "type": "websocket",
        "path": "/ws/",
        "headers": [(b"host", b"testserver")],
        "extensions": {"websocket.http.response": {}},
        **scope,
    }


async def open_socket(*events: Event) -> tuple[WebSocket, Server]:
    """Return a socket that is accepted, and its server, which gives it the events."""
    server = Server(CONNECT, *events)
    socket = WebSocket(make_scope(), server.receive, server.send)
    await socket.accept()
    server.sent.clear()
    return socket, server
