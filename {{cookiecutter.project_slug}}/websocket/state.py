"""An ASGI WebSocket connection: the states of its two sides, and the calls that they allow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from django.http import HttpRequest

from websocket import conf, internals
from websocket.counters import count_refusal, counters
from websocket.inbox import Inbox
from websocket.link import LINGER, Link
from websocket.outbox import Outbox, begin
from websocket.protocol import (
    HEADERS_OF_CONTENT,
    Event,
    InvalidMessage,
    Receive,
    ReceiveEvent,
    Scope,
    Send,
    SendEvent,
    State,
    WebSocketDisconnect,
    check_close,
    is_too_large,
    one_line,
    size_of,
)
from websocket.resume import Resume, marking, resume_of
from websocket.supervisor import Supervisor

logger = logging.getLogger("django.websocket")

# Looked up once, for speed on every message: a global is faster to reach than an enum's member.
_CONNECTING, _CONNECTED, _DISCONNECTED = State


class Connection:
    """One client's connection, which a view uses through a `WebSocket`.

    Its two states change in two methods: `note_client` changes `client_state`, `advance` changes
    `app_state`. `is_drained` is set where the view learns of the end, or closes the connection.
    """

    #: The handshake, once it is about to enter the middleware.
    request: HttpRequest

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.server_receive = receive
        self.server_send = send
        self.link = Link(send)
        #: Whether the client has asked to connect, and whether it is known to have left.
        self.client_state = State.CONNECTING
        #: Whether the application has accepted, and whether it can still send.
        self.app_state = State.CONNECTING
        #: The close code, and the reason given with it, once the connection has ended.
        self.close_code: int | None = None
        self.close_reason = ""
        #: The numbers of messages that the view has received and sent.
        self.messages_in = self.sent = 0
        #: The headers that middleware put on the handshake's response.
        self.accept_headers: Sequence[tuple[bytes, bytes]] = ()
        #: Whether nothing more may be received: the view has seen the disconnect, or has closed.
        self.is_drained = False
        self.is_receiving = False
        self.before_receive: Callable[[], None] | None = None  # Called when the view receives.
        self.opened = 0.0
        # None until they are needed: most sockets never need them.
        self.id: str | None = None
        self.has_own_group = False  # Whether messages to `socket.<id>` reach it.
        self.inbox: Inbox | None = None
        self.outbox: Outbox | None = None
        self.supervisor: Supervisor | None = None
        self.closing: asyncio.Task[None] | None = None
        #: Functions to call when the connection is over.
        self.endings: list[Callable[[], None]] | None = None
        #: What the client asks to resume, if it does.
        self.resume: Resume | None = None
        #: The groups that the client has joined, and the user's login: see `members`, `logins`.
        self.memberships: Any = None
        self.login: Any = None

    def __repr__(self) -> str:
        return f"<WebSocket {self.path} {self.app_state.name}>"

    @property
    def path(self) -> str:
        """The path, percent-encoded for the log."""
        return quote(str(self.scope["path"]))

    @property
    def messages_out(self) -> int:
        """The number of messages sent to the client so far, including its groups' messages."""
        return self.sent + (self.outbox.sent if self.outbox is not None else 0)

    # From the client

    async def receive(self) -> Event:
        """Return the next event, as `WebSocket.receive` does."""
        if self.app_state is not _CONNECTED or self.is_receiving or self.before_receive:
            await self.check_receive()
        self.is_receiving = True
        try:
            event = await (self.server_receive() if self.inbox is None else self.inbox.receive())
        finally:
            self.is_receiving = False
        if event["type"] != "websocket.receive":
            self.note_other(event)
            return event
        if self.app_state is not _CONNECTED or is_too_large(event):
            self.check_message(event)
        self.messages_in += 1
        return event

    async def check_receive(self) -> None:
        """Raise an exception if the view may not receive now."""
        if self.is_receiving:
            raise RuntimeError("Another task is receiving from this socket: only one may.")
        if self.is_drained:
            await asyncio.sleep(0)  # A view that catches it in a loop would block all others.
            raise self.disconnected()
        if self.app_state is _CONNECTING and self.client_state is not _CONNECTING:
            raise self.misuse("receive a message")
        if self.app_state is _DISCONNECTED and self.supervisor is not None:
            # A view that reads messages from before the end is at work: restart its grace period.
            self.supervisor.end_in(conf.DISCONNECT_GRACE)
        if (call := self.before_receive) is not None:
            self.before_receive = None
            call()

    def check_message(self, event: Event) -> None:
        """Close the connection over a message that is too large; raise if it may not be had."""
        if self.client_state is _CONNECTING:
            raise InvalidMessage(f"The server sent a message before the connect: {event!r}.", 1002)
        if is_too_large(event):
            self.close_too_large(event)
        if self.is_drained:
            raise self.disconnected()

    def note_other(self, event: Event) -> None:
        """Handle an event that is not a message, when the view receives it."""
        kind = event["type"]
        if kind == ReceiveEvent.DISCONNECT:
            self.note_client(event)
            self.is_drained = True
            self.tell_view()
        elif kind == ReceiveEvent.CONNECT and self.client_state is not _CONNECTED:
            self.note_client(event)
        else:
            raise InvalidMessage(f"The server sent an event that is not allowed: {event!r}.", 1002)

    def note_ahead(self, event: Event) -> None:
        """Handle an event that was read ahead of the view."""
        if event["type"] == ReceiveEvent.DISCONNECT:
            self.note_client(event)
        elif is_too_large(event):
            self.close_too_large(event)

    def note_client(self, event: Event) -> None:
        """Update the client's state: it has asked to connect, or it has left."""
        if event["type"] == ReceiveEvent.DISCONNECT:
            self.client_state = State.DISCONNECTED
            self.advance(State.DISCONNECTED, event.get("code") or 1005, event.get("reason") or "")
        elif self.client_state is _CONNECTING:
            self.client_state = State.CONNECTED

    # To the client

    async def send(self, event: Event) -> None:
        """Send an event, as `WebSocket.send` does."""
        try:
            kind = event["type"]
        except (KeyError, TypeError):
            raise TypeError(
                f"send() takes an ASGI event with a type, not {event!r:.80}: to send a message, "
                "use send_text(), send_bytes() or send_json()."
            ) from None
        if kind == SendEvent.CLOSE:
            await self.close(event.get("code", 1000), event.get("reason") or "")
        elif kind == SendEvent.SEND:
            text = event.get("text")
            message = event.get("bytes") if text is None else text
            if message is None:
                raise ValueError(f"A message has text or bytes: {event!r} has neither.")
            await self.send_message(message)
        elif kind == SendEvent.ACCEPT and self.app_state is _CONNECTING:
            await self.accept(event)
        else:
            raise self.misuse(f"send {kind!r}")

    async def accept(self, event: Event) -> None:
        """Send an accept, with the headers of the handshake's response."""
        headers = [item for item in self.accept_headers if item[0] not in HEADERS_OF_CONTENT]
        headers += event.get("headers") or ()
        self.advance(State.CONNECTED)
        self.resume = resume_of(self.scope.get("query_string", b""))
        if self.resume is not None:
            self.server_send = marking(self.server_send)
        try:
            await self.server_send({**event, "headers": headers})
        except (OSError, RuntimeError) as error:
            self.lost()
            raise self.disconnected() from error
        self.link.resume()
        self.accept_headers = ()
        self.opened = time.monotonic()
        counters["handshake 101"] += 1
        self.log("open")

    async def send_message(self, message: str | bytes) -> None:
        """Send a message, as `WebSocket.send_message` does."""
        if isinstance(message, str):
            event: Event = {"type": "websocket.send", "text": message}
        elif isinstance(message, (bytes, bytearray, memoryview)):
            event = {"type": "websocket.send", "bytes": message}
        else:
            raise TypeError(
                f"A message is a str or bytes, not a {type(message).__name__}: to send JSON, use "
                "send_json()."
            )
        if self.app_state is not _CONNECTED:
            raise self.misuse("send 'websocket.send'")
        try:
            await self.server_send(event)
        except (OSError, RuntimeError) as error:
            # uvicorn raises OSError if the client has left, and RuntimeError if uvicorn itself has
            # closed the connection, over an invalid frame or a missing pong.
            self.lost()
            raise self.disconnected() from error
        self.sent += 1

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, as `WebSocket.close` does."""
        self.close_soon(code, reason)
        if self.closing is not None:
            await asyncio.wait([self.closing])

    def close_soon(self, code: int = 1000, reason: str = "", grace: float | None = None) -> None:
        """Close the connection without waiting for the client to read the close.

        The view has `grace` seconds to end: WEBSOCKET_DISCONNECT_GRACE if it is None.
        """
        check_close(code, reason)
        if self.app_state is not _DISCONNECTED:
            if self.app_state is _CONNECTING:
                self.note_refusal(403)
            self.advance(State.DISCONNECTED, code, reason)
            self.is_drained = True
            if (rest := begin(self.send_close(code, reason))) is not None:
                self.closing = asyncio.ensure_future(rest)
        if self.supervisor is not None and grace is not None:
            self.supervisor.end_in(grace)

    async def send_close(self, code: int, reason: str) -> None:
        with suppress(OSError, RuntimeError):  # The client left first.
            await self.server_send({"type": SendEvent.CLOSE, "code": code, "reason": reason})

    def close_too_large(self, event: Event) -> None:
        size, limit = size_of(event), conf.MAX_MESSAGE_SIZE
        self.close_soon(1009, f"A message may have {limit} bytes; this one has {size}.")

    # The end

    def advance(self, state: State, code: int | None = None, reason: str = "") -> None:
        """Change the application's state; at the end, leave all groups and let the view end."""
        self.app_state = state
        if state is not _DISCONNECTED:
            return
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
        while self.endings:
            self.endings.pop()()
        if self.supervisor is not None:
            self.supervisor.connection_ended()

    def at_end(self, ending: Callable[[], None]) -> None:
        """Call a function when the connection is over."""
        self.endings = self.endings or []
        self.endings.append(ending)

    def lost(self) -> None:
        """Note that nothing can be sent any more; what arrived before can still be received."""
        self.advance(State.DISCONNECTED)

    def disconnected(self) -> WebSocketDisconnect:
        """Return the exception for a call after the end of the connection."""
        self.tell_view()
        return WebSocketDisconnect(self.close_code or 1006, self.close_reason)

    def misuse(self, attempt: str) -> Exception:
        """Return the exception for a call that the application's state does not allow."""
        if self.app_state is _DISCONNECTED:
            return self.disconnected()
        is_new = self.app_state is _CONNECTING
        hint = "call `await socket.accept()` first" if is_new else "to end it, use close()"
        return RuntimeError(
            f"Cannot {attempt} while the connection is {self.app_state.name}: {hint}."
        )

    def tell_view(self) -> None:
        """If the view is the current task, note that it knows that the connection is over."""
        supervisor = self.supervisor
        if supervisor is not None and asyncio.current_task() is supervisor.task:
            supervisor.view_knows = True

    def release(self) -> None:
        """Release the connection's resources, and log its end."""
        self.advance(State.DISCONNECTED)
        if self.inbox is not None:
            self.inbox.stop()
        if self.closing is not None:
            self.closing.cancel()
        # A server that stops cannot wait for a client that does not read.
        has_stopped = self.close_code == 1012 and self.client_state is _DISCONNECTED
        self.link.end(conf.DISCONNECT_GRACE if has_stopped else LINGER)
        if self.opened:
            seconds = time.monotonic() - self.opened
            counts = f"{self.messages_in} in, {self.messages_out} out"
            self.log(f"{self.close_code or 1006} {seconds:.1f} s, {counts}")

    # The log: one line if a handshake is refused, else one when the socket opens and one when it
    # closes, without the query string

    def note_refusal(self, status: int) -> None:
        """Count and log that the handshake is refused."""
        count_refusal(self.path, status)
        self.log(f"refused: {status}", logging.WARNING if status >= 400 else logging.INFO)

    def log(self, what: str, level: int = logging.INFO) -> None:
        if logger.isEnabledFor(level):
            client = quote(str((self.scope.get("client") or ("-",))[0]), safe=":.")
            user = name_of_user(getattr(self, "request", None))
            logger.log(level, "WebSocket %s %s %s %s", self.path, client, user, what)


def name_of_user(request: Any) -> str:
    """Return the name of a request's user for the log, or a dash if it is not known."""
    user = internals.loaded_user(request)
    if user is None or not user.is_authenticated:
        return "-"
    # Not str(), which may query the database.
    return one_line(user.get_username() if hasattr(user, "get_username") else user.pk)
