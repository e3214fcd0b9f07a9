"""A WebSocket connection, as a view sees it: receive, send, and one exception when it is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from websocket import conf, groups, internals, logins, sweep
from websocket.attributes import RequestAttributes
from websocket.counters import counters
from websocket.groups.membership import Memberships
from websocket.inbox import Inbox
from websocket.link import LINGER, Link
from websocket.outbox import Outbox, begin
from websocket.protocol import (
    HEADERS_OF_CONTENT,
    Event,
    Headers,
    InvalidMessage,
    QueryParams,
    Receive,
    ReceiveEvent,
    Scope,
    Send,
    SendEvent,
    State,
    WebSocketDisconnect,
    check_close,
    decode_json,
    dump_json,
    encode_header,
    is_too_large,
    one_line,
    size_of,
)
from websocket.supervisor import Supervisor

if TYPE_CHECKING:
    from django.contrib.auth.models import _AnyUser

__all__ = [
    "Headers",
    "InvalidMessage",
    "QueryParams",
    "ReceiveEvent",
    "SendEvent",
    "State",
    "WebSocket",
    "WebSocketDisconnect",
]

logger = logging.getLogger("django.websocket")

# Looked up once: on every message, a member of an enum costs more to reach than a global.
_CONNECTING, _CONNECTED, _DISCONNECTED = State


class WebSocket(RequestAttributes):
    """One connection, which a view receives in place of a request.

    One task at a time may receive; any number may send. Once the connection is over, receiving
    and sending raise `WebSocketDisconnect`. Used against the protocol (sent to before it is
    accepted, accepted twice), it raises `RuntimeError`.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = getattr(receive, "__self__", None)
        if isinstance(connection, WebSocket):  # See `_receive`: this is the same connection.
            connection.__dict__.update(self.__dict__)
            self.__dict__ = connection.__dict__
            return
        super().__init__(scope)
        self._server_receive = receive
        self._server_send = send
        self._link = Link(send)
        #: Whether the client has asked to connect, and whether it has been seen to leave.
        self.client_state = State.CONNECTING
        #: Whether the application has accepted, and whether it can still send.
        self.app_state = State.CONNECTING
        #: How the connection ended, once it has: the close code, and the reason given with it.
        self.close_code: int | None = None
        self.close_reason = ""
        #: Messages that the view has received so far.
        self.messages_in = 0
        self._messages_out = 0
        # The headers that middleware put on the handshake's response.
        self._accept_headers: Sequence[tuple[bytes, bytes]] = ()
        # Nothing more may be received: the view has seen the end, or has closed.
        self._is_over = False
        self._is_receiving = False
        # The number of messages that the view had received at the last look.
        self._seen = 0
        self._opened = 0.0
        # None until they are needed: most sockets never need them.
        self._inbox: Inbox | None = None
        self._outbox: Outbox | None = None
        self._memberships: Memberships | None = None
        self._login: logins.Login | None = None
        self._closing: asyncio.Task[None] | None = None
        self._supervisor: Supervisor | None = None

    def __repr__(self) -> str:
        return f"<WebSocket {quote(self.path)} {self.app_state.name}>"

    @property
    def messages_out(self) -> int:
        """Messages that the client was sent so far, those of its groups included."""
        return self._messages_out + (self._outbox.sent if self._outbox is not None else 0)

    # The state machine: `_note_client` changes the client's state, `_advance` the application's

    async def receive(self) -> Event:
        """Return the next ASGI event: the connect, a message, or the disconnect.

        Canceling is safe: no event is lost. Raises `WebSocketDisconnect` after the disconnect or
        a `close()`, `InvalidMessage` for an event that ASGI does not allow here, and
        `RuntimeError` for a message asked for before the accept, or while another task is
        receiving. A message beyond WEBSOCKET_MAX_MESSAGE_SIZE closes the connection with 1009.
        """
        if self.app_state is not _CONNECTED or self._is_receiving:
            self._check_receive()
        self._is_receiving = True
        try:
            event = await (self._server_receive() if self._inbox is None else self._inbox.receive())
        finally:
            self._is_receiving = False
        if event["type"] != "websocket.receive":
            self._note_other(event)
            return event
        if self.app_state is not _CONNECTED or is_too_large(event):
            self._check_message(event)
        self.messages_in += 1
        return event

    async def send(self, event: Event) -> None:
        """Send an ASGI event: accept, send or close.

        Waits while the client is slow to read. Canceling is safe before the event is handed to
        the server, which takes it whole or not at all; a close is sent all the same. Raises
        `WebSocketDisconnect` when the connection is over, `RuntimeError` for an event that is not
        allowed now, `TypeError` for anything but an event, and `ValueError` for a message without
        text or bytes.
        """
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
            headers = [item for item in self._accept_headers if item[0] not in HEADERS_OF_CONTENT]
            headers += event.get("headers") or ()
            self._advance(State.CONNECTED)
            try:
                await self._server_send({**event, "headers": headers})
            except (OSError, RuntimeError) as error:
                raise self._lost() from error
            self._link.resume()
            self._accept_headers = ()
            self._opened = time.monotonic()
            counters["handshake 101"] += 1
            self._log("open")
        else:
            raise self._misuse(f"send {kind!r}")

    async def send_message(self, message: str | bytes) -> None:
        """Send a str as a text message, bytes as a binary one.

        Waits while the client is slow to read. Raises `WebSocketDisconnect` when the connection
        is over, `RuntimeError` before the accept, and `TypeError` for anything else.
        """
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
            raise self._misuse("send 'websocket.send'")
        try:
            await self._server_send(event)
        except (OSError, RuntimeError) as error:
            # uvicorn raises the one when the client has left, the other when it has closed the
            # connection itself, over a frame that breaks the protocol or a missing pong.
            raise self._lost() from error
        self._messages_out += 1

    def _check_receive(self) -> None:
        """Raise unless an event may be asked for."""
        if self._is_receiving:
            raise RuntimeError("Another task is receiving from this socket: only one may.")
        if self._is_over:
            raise self._disconnect()
        if self.app_state is _CONNECTING:
            if self.client_state is not _CONNECTING:
                raise self._misuse("receive a message")
        elif self._supervisor is not None:
            # A view that reads what came before the end is at work: its grace starts anew.
            self._supervisor.end_in(conf.DISCONNECT_GRACE)

    def _check_message(self, event: Event) -> None:
        """Raise unless the view may have this message."""
        if self.client_state is _CONNECTING:
            raise InvalidMessage(f"The server sent a message before the connect: {event!r}.", 1002)
        if is_too_large(event):
            self._close_too_large(event)
        if self._is_over:
            raise self._disconnect()

    def _note_other(self, event: Event) -> None:
        """Note an event that is no message, as the view receives it."""
        kind = event["type"]
        if kind == ReceiveEvent.DISCONNECT:
            self._note_client(event)
            self._is_over = True
            self._tell_view()
        elif kind == ReceiveEvent.CONNECT and self.client_state is not _CONNECTED:
            self._note_client(event)
        else:
            raise InvalidMessage(f"The server sent an event that is not allowed: {event!r}.", 1002)

    def _read_ahead(self, event: Event) -> None:
        """Note what an event means that no view receives yet."""
        if event["type"] == ReceiveEvent.DISCONNECT:
            self._note_client(event)
        elif is_too_large(event):
            self._close_too_large(event)

    def _note_client(self, event: Event) -> None:
        """Follow the client's state: it asks to connect, it leaves."""
        if event["type"] == ReceiveEvent.DISCONNECT:
            self.client_state = State.DISCONNECTED
            self._advance(State.DISCONNECTED, event.get("code") or 1005, event.get("reason") or "")
        elif self.client_state is _CONNECTING:
            self.client_state = State.CONNECTED

    def _advance(self, state: State, code: int | None = None, reason: str = "") -> None:
        """Change the application's state; at the end, leave all groups and let the view end."""
        self.app_state = state
        if state is not _DISCONNECTED:
            return
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
        self._leave_groups()
        if self._supervisor is not None:
            self._supervisor.connection_ended()

    def _lost(self) -> WebSocketDisconnect:
        """Note that a send has failed, and return the exception for the sender.

        Events that arrived before can still be received, the disconnect included.
        """
        self._advance(State.DISCONNECTED)
        return self._disconnect()

    def _disconnect(self) -> WebSocketDisconnect:
        self._tell_view()
        return WebSocketDisconnect(self.close_code or 1006, self.close_reason)

    def _tell_view(self) -> None:
        supervisor = self._supervisor
        if supervisor is not None and asyncio.current_task() is supervisor.task:
            supervisor.view_knows = True

    def _misuse(self, attempt: str) -> Exception:
        """Return the exception for an attempt that the application's state does not allow."""
        if self.app_state is _DISCONNECTED:
            return self._disconnect()
        hint = f"only {SendEvent.SEND!r} and {SendEvent.CLOSE!r} are allowed"
        if self.app_state is _CONNECTING:
            hint = "call `await socket.accept()` first"
        return RuntimeError(
            f"Cannot {attempt} while the connection is {self.app_state.name}: {hint}."
        )

    # From the accept to the close

    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[bytes | str, bytes | str]] | None = None,
    ) -> None:
        """Accept the connection, with one of the offered subprotocols and with extra headers.

        Raises `RuntimeError` when it was accepted before, `ValueError` for a header or subprotocol
        with control characters in it, `WebSocketDisconnect` when the client has left.
        """
        pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
        encoded = [encode_header(pair) for pair in pairs]
        encode_header(("sec-websocket-protocol", subprotocol or ""))
        if subprotocol and subprotocol not in self.subprotocols:
            logger.warning(
                "%r accepts the subprotocol %r, which its client does not offer: a browser then "
                "closes the connection.",
                self,
                subprotocol,
            )
        if self.client_state is _CONNECTING:
            await self.receive()
        await self.send({"type": SendEvent.ACCEPT, "subprotocol": subprotocol, "headers": encoded})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; once it is over, do nothing.

        Before the accept this refuses the handshake: the client sees an empty 403, never the
        code. `reason` may have 123 bytes of UTF-8 (RFC 6455, section 5.5). Raises `ValueError`
        for a longer one, and for a code that must not be sent (section 7.4). Canceling is safe:
        the client is told all the same.
        """
        self.close_soon(code, reason)
        if self._closing is not None:
            await asyncio.wait([self._closing])

    def close_soon(self, code: int = 1000, reason: str = "", grace: float | None = None) -> None:
        """Close the connection as `close` does, but without waiting for the client to take it.

        The view has `grace` seconds to end: WEBSOCKET_DISCONNECT_GRACE if it is None.
        """
        check_close(code, reason)
        if self.app_state is not _DISCONNECTED:
            if self.app_state is _CONNECTING:
                counters["handshake 403"] += 1
            self._advance(State.DISCONNECTED, code, reason)
            self._is_over = True
            if (rest := begin(self._send_close(code, reason))) is not None:
                self._closing = asyncio.ensure_future(rest)
        if self._supervisor is not None and grace is not None:
            self._supervisor.end_in(grace)

    async def _send_close(self, code: int, reason: str) -> None:
        with suppress(OSError, RuntimeError):  # The client was faster.
            await self._server_send({"type": SendEvent.CLOSE, "code": code, "reason": reason})

    async def reject(self, code: int, reason: str = "") -> None:
        """Accept the connection and close it at once.

        This is the only way to tell code in a browser why: for a refused handshake, browsers show
        a page nothing but 1006. Takes and raises what `close` does.
        """
        check_close(code, reason)
        await self.accept()
        await self.close(code, reason)

    async def join(self, group: str) -> None:
        """Send this client what is published to a group, from when this returns until it leaves.

        It leaves by itself when the connection is over or the view has ended. Canceling is safe:
        a socket that was no member before is none. Raises `ValueError` for a name that no group
        can have, `RuntimeError` before the accept, `WebSocketDisconnect` when the connection is
        over, and with Redis `PublishError` when it cannot be reached.
        """
        groups.check_name(group)
        if self.app_state is not _CONNECTED:
            raise self._misuse("join a group")
        if self._outbox is None:
            self._outbox = Outbox(self.id, self._server_send, self._failed, self._too_slow)
            self._memberships = Memberships(groups.get_hub(), self._outbox)
        assert self._memberships is not None
        await self._memberships.join(group)
        if self.app_state is not _CONNECTED:
            raise self._disconnect()

    async def leave(self, group: str) -> None:
        """Send this client no more of what is published to a group; nothing if it is no member."""
        if self._memberships is not None:
            self._memberships.leave(group)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run a coroutine beside the view, to push while the view waits for its client.

        Returns its task, which is cancelled and awaited when the view ends. An exception in it
        ends the view as one of the view's own would. Raises `RuntimeError` once the view has
        ended, and `TypeError` for a function that was not called.
        """
        if not isinstance(coroutine, Coroutine):
            raise TypeError(
                "start() takes a coroutine, as in socket.start(tick(socket)), not a "
                f"{type(coroutine).__name__}."
            )
        if self._supervisor is None or self._supervisor.is_over:
            coroutine.close()
            raise RuntimeError("start() can be called only while the socket's view runs.")
        return self._supervisor.start(coroutine)

    # Messages in

    async def receive_text(self) -> str:
        """Return the next message, which has to be text.

        Raises `WebSocketDisconnect` when the connection is over, `InvalidMessage` for bytes.
        """
        event = await self.receive()
        text: str | None = event.get("text")
        if text is None:
            raise self._unexpected(event, "text")
        return text

    async def receive_bytes(self) -> bytes:
        """Return the next message, which has to be binary.

        Raises `WebSocketDisconnect` when the connection is over, `InvalidMessage` for text.
        """
        event = await self.receive()
        data: bytes | None = event.get("bytes")
        if data is None:
            raise self._unexpected(event, "binary")
        return data

    async def receive_json(self) -> Any:
        """Return the value of the next message, JSON in a text frame.

        Raises `WebSocketDisconnect` when the connection is over, `InvalidMessage` for bytes and
        for anything but JSON.
        """
        return decode_json(await self.receive_text())

    async def receive_jsonb(self) -> Any:
        """Return the value of the next message, JSON in a binary frame.

        Raises `WebSocketDisconnect` when the connection is over, `InvalidMessage` for text and
        for anything but JSON.
        """
        return decode_json(await self.receive_bytes())

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message, str for text, bytes for binary; stop when the client left."""
        try:
            event = await self.receive()
        except WebSocketDisconnect:
            raise StopAsyncIteration from None
        message: str | bytes | None = event.get("text")
        if message is None:
            message = event.get("bytes")
            if message is None:
                if event["type"] == ReceiveEvent.DISCONNECT:
                    raise StopAsyncIteration
                raise self._unexpected(event, "text or binary")
        return message

    def iter_text(self) -> AsyncIterator[str]:
        """Iterate over messages until the client leaves; raises as `receive_text` does."""
        return _until_left(self.receive_text)

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """Iterate over messages until the client leaves; raises as `receive_bytes` does."""
        return _until_left(self.receive_bytes)

    def iter_json(self) -> AsyncIterator[Any]:
        """Iterate over values until the client leaves; raises as `receive_json` does."""
        return _until_left(self.receive_json)

    def _unexpected(self, event: Event, wanted: str) -> Exception:
        if event["type"] == ReceiveEvent.DISCONNECT:
            return self._disconnect()
        if event["type"] == ReceiveEvent.CONNECT:
            return self._misuse("receive a message")
        kinds = {"text": "text", "bytes": "binary"}
        kind = next((kind for key, kind in kinds.items() if event.get(key) is not None), "empty")
        return InvalidMessage(f"Expected a {wanted} message, and got a {kind} one.", 1003)

    def _close_too_large(self, event: Event) -> None:
        size, limit = size_of(event), conf.MAX_MESSAGE_SIZE
        self.close_soon(1009, f"A message may have {limit} bytes; this one has {size}.")

    # Messages out. These return the coroutine of `send_message`: one of their own would cost
    # every message a frame.

    def send_text(self, data: str) -> Coroutine[Any, Any, None]:
        """Send a text message; raises as `send_message` does."""
        if isinstance(data, str):
            return self.send_message(data)
        hint = "send_bytes()" if isinstance(data, (bytes, bytearray, memoryview)) else "send_json()"
        raise TypeError(f"send_text() takes a str, not a {type(data).__name__}: use {hint}.")

    def send_bytes(self, data: bytes | str) -> Coroutine[Any, Any, None]:
        """Send a binary message, of a str its UTF-8; raises as `send_message` does."""
        return self.send_message(data.encode() if isinstance(data, str) else data)

    def send_json(self, data: Any, **dumps: Any) -> Coroutine[Any, Any, None]:
        """Send a value as JSON in a text message.

        Dates, decimals, UUIDs and lazy strings become strings, as in Django's `JsonResponse`;
        `dumps` are arguments for `json.dumps`. Raises `TypeError` for what JSON cannot hold.
        """
        return self.send_message(dump_json(data, dumps))

    def send_jsonb(self, data: Any, **dumps: Any) -> Coroutine[Any, Any, None]:
        """Send a value as JSON in a binary message; takes and raises what `send_json` does."""
        return self.send_bytes(dump_json(data, dumps))

    # The user

    @property
    def user(self) -> _AnyUser:
        """The user, as `AuthenticationMiddleware` found it during the handshake.

        Reading it binds the socket to this user: it is closed with 3000 when the session ends, or
        the user is deactivated or changes the password (see websocket.auth).
        """
        if self._login is None:
            self._login = logins.Login.of(self)
            if self._login is not None and self._supervisor is not None:
                self._supervisor.loop.call_soon_threadsafe(logins.watch, self._login)
        if self._login is not None:
            self._login.use()
        user: _AnyUser = self.request.user
        return user

    async def auser(self) -> _AnyUser:
        """Return `user`: the name by which Django's decorators ask for it."""
        return self.user

    # A view may create a subclass with `MyWebSocket(socket.scope, socket._receive, socket._send)`

    @property
    def _receive(self) -> Receive:
        return self._without_subclass().receive

    @property
    def _send(self) -> Send:
        return self._without_subclass().send

    def _without_subclass(self) -> WebSocket:
        """Return this connection as a plain `WebSocket`, for methods that override its own."""
        socket = WebSocket.__new__(WebSocket)
        socket.__dict__ = self.__dict__
        return socket

    # For websocket.lifecycle, which runs the view, and for the look at all sockets

    def abort(self) -> None:
        """Drop the connection without a close frame, and what is still unsent with it.

        Plain ASGI cannot: this works where, as in uvicorn, `send` is a method of an object that
        has the connection's `transport`, and does nothing elsewhere.
        """
        self._link.abort()

    def look(self) -> None:
        """Read ahead if the view has received nothing since the last look, and is not waiting."""
        if self.app_state is _CONNECTING:
            self._link.drop_if_left()
        elif self._link.overflows(self.messages_out):
            logger.warning("%r floods its connection and does not read: it is dropped.", self)
            self.abort()
        transport = self._link.transport if self.app_state is _CONNECTED else None
        closing = transport is not None and transport.is_closing()
        if closing:
            # A server that gave up on a client, such as for want of a pong, cannot tell while that
            # client reads nothing, nor while the inbox is full.
            self._lost()
        if self._inbox is not None and self._inbox.is_idle():
            self._inbox = None
        idle = (closing or self.messages_in == self._seen) and not self._is_receiving
        if idle and self.client_state is not _DISCONNECTED:
            if self._inbox is None:
                self._inbox = Inbox(self._server_receive, self._read_ahead)
            if not self.messages_in and self._inbox.seconds_full() > self._patience():
                logger.warning(
                    "%r has received nothing: its view seems to only push, and what its client "
                    "sends is dropped.",
                    self,
                )
                self._inbox.discard()
            self._inbox.read_ahead()
        self._seen = self.messages_in

    def _patience(self) -> float:
        """Return how many seconds a client may be kept waiting by a view that never received.

        While it waits, no pong is read: half of the time that the server gives it for one, less
        the second until the next look.
        """
        timeout = internals.ping_timeout_of(self._server_send)
        return max(0.0, (20.0 if timeout is None else timeout) / 2 - sweep.INTERVAL)

    def _view_starts(self, supervisor: Supervisor, since: int) -> None:
        """Let `start()` use the supervisor, and the end of the connection or login stop the view.

        `since` is what `logins.listen` returned when the handshake began.
        """
        self._supervisor = supervisor
        self._login = self._login or logins.Login.of(self)
        if self._login is not None:
            logins.watch(self._login, since)

    async def _hang_up(self, code: int, reason: str = "") -> None:
        """Close the connection, by force where its client does not read."""
        self.close_soon(code, reason.encode(errors="replace")[:123].decode(errors="ignore"))
        if self._closing is not None:
            _, pending = await asyncio.wait([self._closing], timeout=conf.DISCONNECT_GRACE)
            if pending:
                self.abort()

    async def _refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake as HTTP (ASGI's extension "WebSocket Denial Response").

        A view returns an `HttpResponse` instead. What middleware set for the accept goes out too.
        """
        if self.app_state is not _CONNECTING:
            return  # It was closed meanwhile.
        names = {name for name, value in headers}
        for header in self._accept_headers:
            if header[0] == b"set-cookie" or header[0] not in names:
                headers.append(header)
        counters[f"handshake {status}"] += 1
        self._advance(State.DISCONNECTED, 1006)
        with suppress(OSError, RuntimeError):  # The client has left.
            await self._server_send(
                {"type": "websocket.http.response.start", "status": status, "headers": headers}
            )
            await self._server_send({"type": "websocket.http.response.body", "body": body})
        self._link.end()

    def _release(self) -> None:
        """Give up what this connection holds, and log its end."""
        self._advance(State.DISCONNECTED)
        if self._inbox is not None:
            self._inbox.stop()
        if self._closing is not None:
            self._closing.cancel()
        # A server that stops (1012) cannot wait for a client that does not read.
        self._link.end(conf.DISCONNECT_GRACE if self.close_code == 1012 else LINGER)
        if self._opened:
            seconds = time.monotonic() - self._opened
            counts = f"{self.messages_in} in, {self.messages_out} out"
            self._log(f"{self.close_code or 1006} {seconds:.1f} s, {counts}")

    def _failed(self, error: Exception) -> None:
        """Act on a group's message that the server did not send: the client has left, or a bug."""
        if isinstance(error, (OSError, RuntimeError)):
            self._lost()
        elif self._supervisor is not None:
            self._supervisor.fail(error)

    def _too_slow(self) -> None:
        """Act on a client that does not read its groups' messages as fast as they come."""
        assert self._outbox is not None
        if conf.SLOW_CLIENT == "drop":
            if not self._outbox.is_dropping:
                logger.warning("%r is slow to read: messages to it are dropped.", self)
            return
        logger.warning("%r is slow to read: it is closed.", self)
        counters["closed"] += 1
        self.close_soon(1013, "Too slow to read.", grace=0)

    def _leave_groups(self) -> None:
        if self._outbox is not None and self._memberships is not None:
            self._memberships.leave_all()
            self._outbox.stop()
        if self._login is not None:
            self._login.forget()

    # The log: one line when a socket opens, one when it closes, without the query string

    def _log(self, what: str) -> None:
        if logger.isEnabledFor(logging.INFO):
            client = quote(str((self.scope.get("client") or ("-",))[0]), safe=":.")
            logger.info("WebSocket %s %s %s %s", quote(self.path), client, self._log_user(), what)

    def _log_user(self) -> str:
        """Return the user's name for a line of the log, or a dash."""
        user = getattr(getattr(self, "request", None), "user", None)
        if user is None or not user.is_authenticated:
            return "-"
        # Not str(), which may query.
        return one_line(user.get_username() if hasattr(user, "get_username") else user.pk)


async def _until_left(receive: Callable[[], Awaitable[Any]]) -> AsyncIterator[Any]:
    while True:
        try:
            message = await receive()
        except WebSocketDisconnect:
            return
        yield message
