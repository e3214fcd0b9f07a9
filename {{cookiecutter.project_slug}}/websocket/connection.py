"""A WebSocket connection, as a view sees it: receive, send, and one exception when it is over."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest

from websocket import auth, conf, groups, internals
from websocket.inbox import Inbox
from websocket.outbox import Outbox
from websocket.protocol import (
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
    encode_json,
    size_of,
)
from websocket.supervisor import Supervisor

if TYPE_CHECKING:
    from django.contrib.auth.models import _AnyUser
    from django.contrib.sessions.backends.base import SessionBase

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

# Seconds that a client has to read what was sent before its connection was closed.
LINGER: Final = 30.0

# Looked up once: on every message, a member of an enum costs more to reach than a global.
_CONNECTING, _CONNECTED, _DISCONNECTED = State


def _of_request(name: str) -> Any:
    # Not __getattr__: with one, Python finds every attribute of the class at half the speed.
    return property(lambda socket: getattr(socket.request, name))


class WebSocket:
    """One connection.

    A view receives it in place of a request, and it has what decorators ask a request for, so
    that Django's work on socket views. All else, such as what middleware added, `request` has.

    One task at a time may receive; any number may send. Once the connection is over, receiving
    and sending raise `WebSocketDisconnect`. Used against the protocol (sent to before it is
    accepted, accepted twice), it raises `RuntimeError`.
    """

    #: The handshake: an `HttpRequest` that has been through `settings.MIDDLEWARE`.
    request: HttpRequest

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        #: Whether the client has asked to connect, and whether it has been seen to leave.
        self.client_state = State.CONNECTING
        #: Whether the application has accepted, and whether it can still send.
        self.app_state = State.CONNECTING
        #: How the connection ended, once it has: the close code, and the reason given with it.
        self.close_code: int | None = None
        self.close_reason = ""
        #: Messages that the view has received and sent so far.
        self.messages_in = 0
        self.messages_out = 0
        #: What middleware put on the handshake's response, for the accept or the refusal.
        self.accept_headers: Sequence[tuple[bytes, bytes]] = ()
        self._id: str | None = None
        self._headers: Headers | None = None
        # Nothing more may be received: the view has seen the end, or has closed.
        self._over = False
        #: Whether a task is receiving.
        self.is_receiving = False
        # How much the view had received when last looked after, and what came while it did not.
        self._seen = 0
        self._inbox: Inbox | None = None
        # From the view's start on.
        self._supervisor: Supervisor | None = None
        # Its groups; its membership in the one for users; a close that nobody waits for.
        self._outbox: Outbox | None = None
        self._listener: auth.Listener | None = None
        self._closing: asyncio.Task[None] | None = None
        self._opened = 0.0

    def __repr__(self) -> str:
        return f"<WebSocket {quote(self.path)} {self.app_state.name}>"

    # What the client asked for

    @property
    def headers(self) -> Headers:
        """The handshake's headers."""
        if self._headers is None:
            self._headers = Headers(self.scope)
        return self._headers

    @property
    def scheme(self) -> str:
        """`ws` or `wss`, as the server sees it (behind a proxy: see `request.is_secure()`)."""
        return str(self.scope.get("scheme", "ws"))

    @property
    def path(self) -> str:
        """The path, percent-decoded, with the `root_path` that the site is mounted at."""
        return str(self.scope["path"])

    @property
    def query_string(self) -> str:
        """What follows the question mark, as it was sent."""
        return str(self.scope.get("query_string", b"").decode())

    @property
    def query_params(self) -> QueryParams:
        """The query string's parameters."""
        return QueryParams(self.query_string)  # type: ignore[return-value]

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, the one it likes best first."""
        return list(self.scope.get("subprotocols") or ())

    @property
    def id(self) -> str:
        """A random name for this connection, unlike any other's."""
        if self._id is None:
            self._id = uuid.uuid4().hex
        return self._id

    @property
    def user(self) -> _AnyUser:
        """The user, as `AuthenticationMiddleware` found it during the handshake.

        Who looks at it has a socket for this user: it is closed with 3000 when the session ends,
        or the user is deactivated or changes the password (see websocket.auth).
        """
        user: _AnyUser = self.request.user
        if self._listener is None and user.is_authenticated:
            self._listener = auth.Listener(self)
            if self._supervisor is not None:
                self._supervisor.loop.call_soon_threadsafe(self._listen)
        return user

    async def auser(self) -> _AnyUser:
        """Return `user`: the name by which Django's decorators ask for it."""
        return self.user

    @property
    def session(self) -> SessionBase:
        """The session, read during the handshake; what a view changes in it, it saves itself."""
        session: SessionBase = self.request.session
        return session

    COOKIES = _of_request("COOKIES")
    GET = _of_request("GET")
    META = _of_request("META")
    build_absolute_uri = _of_request("build_absolute_uri")
    get_full_path = _of_request("get_full_path")
    get_host = _of_request("get_host")
    is_secure = _of_request("is_secure")
    method = _of_request("method")
    resolver_match = _of_request("resolver_match")

    # The connection's life

    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes | str, bytes | str]] | None = None,
    ) -> None:
        """Accept the connection, with one of the offered subprotocols and with extra headers.

        Raises `RuntimeError` when it was accepted before, `ValueError` for a header with a line
        break in it, `WebSocketDisconnect` when the client has left.
        """
        encoded = [header for header in self.accept_headers if header[0] not in _OF_CONTENT]
        encoded += map(_encode_header, headers or ())
        if self.client_state is _CONNECTING:
            await self.receive()
        await self.send({"type": SendEvent.ACCEPT, "subprotocol": subprotocol, "headers": encoded})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; once it is over, do nothing.

        Before the accept this refuses the handshake: the client sees an empty 403, never the
        code. `reason` may have 123 bytes of UTF-8 (RFC 6455, section 5.5). Raises `ValueError`
        for a longer one, and for a code that must not be sent (section 7.4).
        """
        if not (code in _SENDABLE_CODES or 3000 <= code <= 4999):
            raise ValueError(
                f"{code} is not a close code that can be sent: use 1000, 1001, 1003, 1007 to 1014, "
                "or one from 3000 to 4999."
            )
        if len(reason.encode()) > 123:
            raise ValueError(f"A close reason has 123 bytes at the most; this one: {reason!r}.")
        if self.app_state is _DISCONNECTED:
            if self._closing is not None:
                await asyncio.wait([self._closing])
            return
        await self._begin_close(code, reason)

    def _begin_close(self, code: int, reason: str) -> Coroutine[Any, Any, None]:
        """End the connection for this side, and return what is left to do: to say so."""

        async def send_close() -> None:
            with suppress(OSError, RuntimeError):  # The client was faster.
                await self._send({"type": SendEvent.CLOSE, "code": code, "reason": reason})

        if self.app_state is _CONNECTING:
            groups.counters["handshake 403"] += 1
        self._end(code, reason)
        self._over = True
        return send_close()

    async def reject(self, code: int, reason: str = "") -> None:
        """Accept the connection and close it at once.

        That is the only way to tell code in a browser why: of a refused handshake, browsers show
        a page nothing but 1006. Takes and raises what `close` does.
        """
        await self.accept()
        await self.close(code, reason)

    async def join(self, group: str) -> None:
        """Send this client what is published to a group, from when this returns until it leaves.

        It leaves by itself when the connection is over or the view has ended. Raises
        `ValueError` for a name that no group can have, `RuntimeError` before the accept,
        `WebSocketDisconnect` when the connection is over, and with Redis `PublishError` when it
        cannot be reached.
        """
        groups.check_name(group)
        if self.app_state is _CONNECTING:
            raise RuntimeError("Accept the connection before it joins a group.")
        if self.app_state is _CONNECTED:
            self._outbox = self._outbox or Outbox(self)
            await self._outbox.join(group)
        if self.app_state is _DISCONNECTED:
            raise self._disconnect()

    async def leave(self, group: str) -> None:
        """Send this client no more of what is published to a group; nothing if it is no member."""
        if self._outbox is not None:
            self._outbox.leave(group)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run a coroutine beside the view, to push while the view waits for its client.

        Returns its task, which is cancelled and awaited when the view ends. An exception in it
        ends the view as one of the view's own would. Raises `RuntimeError` once the view ended.
        """
        if self._supervisor is None or self._supervisor.is_over:
            coroutine.close()
            raise RuntimeError("start() works while the socket's view runs, and it does not.")
        return self._supervisor.start(coroutine)

    def close_soon(self, code: int, reason: str = "", grace: float | None = None) -> None:
        """Close the connection without waiting for it: for code that cannot, or must not.

        The view has `grace` seconds to end: as always, WEBSOCKET_DISCONNECT_GRACE, if it is None.
        """
        if self.app_state is not _DISCONNECTED:
            self._closing = asyncio.create_task(self._begin_close(code, reason))
        if self._supervisor is not None and grace is not None:
            self._supervisor.stop_in(grace)

    def abort(self) -> None:
        """Drop the connection without a close frame, and what is still unsent with it.

        Plain ASGI cannot: this works where, as in uvicorn, `send` is a method of an object that
        has the connection's `transport`, and does nothing elsewhere.
        """
        transport = self._transport()
        if transport is not None:
            internals.abort(transport)

    def _transport(self) -> asyncio.Transport | None:
        return internals.transport_of(self._send)

    # Events: every change of state that the application makes or sees is in these two

    async def receive(self) -> Event:
        """Return the next ASGI event: the connect, a message, or the disconnect.

        Raises `WebSocketDisconnect` after the disconnect or a `close()`, `InvalidMessage` for an
        event that ASGI does not allow here, and `RuntimeError` for a message asked for before
        the accept, or while another task is receiving. A message beyond
        WEBSOCKET_MAX_MESSAGE_SIZE closes the connection with 1009.
        """
        if self.app_state is not _CONNECTED:
            self._check_receive()
        if self.is_receiving:
            raise RuntimeError("Another task is receiving from this socket: only one may.")
        self.is_receiving = True
        try:
            event = await (self._receive() if self._inbox is None else self._inbox.receive())
        finally:
            self.is_receiving = False
        return self._received(event)

    def _received(self, event: Event) -> Event:
        """Note what an event means, and return it."""
        kind = event["type"]
        if kind == ReceiveEvent.RECEIVE and self.client_state is not _CONNECTING:
            if size_of(event) > conf.MAX_MESSAGE_SIZE:
                raise self.close_too_large(event)
            self.messages_in += 1
        elif kind == ReceiveEvent.CONNECT and self.client_state is not _CONNECTED:
            if self.client_state is _CONNECTING:
                self.client_state = State.CONNECTED
        elif kind == ReceiveEvent.DISCONNECT:
            self.client_left(event)
            self._over = True
        else:
            raise InvalidMessage(f"The server sent an event that is not allowed: {event!r}.", 1002)
        return event

    async def send(self, event: Event) -> None:
        """Send an ASGI event: accept, send or close.

        Waits while the client is slow to read. Raises `WebSocketDisconnect` when the connection
        is over, `RuntimeError` for an event that is not allowed now, and `ValueError` for a
        message without text or bytes.
        """
        state, kind = self.app_state, event["type"]
        if kind == SendEvent.CLOSE:
            await self.close(event.get("code", 1000), event.get("reason") or "")
        elif state is _CONNECTED and kind == SendEvent.SEND:
            text = event.get("text")
            message = event.get("bytes") if text is None else text
            if message is None:
                raise ValueError(f"A message has text or bytes: {event!r} has neither.")
            await self.send_message(message)
        elif state is _CONNECTING and kind == SendEvent.ACCEPT:
            self.app_state = State.CONNECTED
            try:
                await self._send(event)
            except (OSError, RuntimeError) as error:
                raise self.lost() from error
            self.accept_headers = ()
            self._opened = time.monotonic()
            groups.counters["handshake 101"] += 1
            self._log("open")
        else:
            raise self._unsendable(event)

    # Messages in

    async def receive_text(self) -> str:
        """Return the next message, which is to be text.

        Raises `WebSocketDisconnect` when the connection is over, `InvalidMessage` for bytes.
        """
        event = await self.receive()
        text: str | None = event.get("text")
        if text is None:
            raise self._unexpected(event, "text")
        return text

    async def receive_bytes(self) -> bytes:
        """Return the next message, which is to be binary.

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
        for what is not JSON.
        """
        return _decode_json(await self.receive_text())

    async def receive_jsonb(self) -> Any:
        """Return the value of the next message, JSON in a binary frame.

        Raises `WebSocketDisconnect` when the connection is over, `InvalidMessage` for text and
        for what is not JSON.
        """
        return _decode_json(await self.receive_bytes())

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message, str for text and bytes for binary; stop when the client left."""
        # Short text in an open connection comes this way, without the frame of receive() and
        # without its checks: that halves what this class adds to the server's own work.
        event: Event | None = None
        if self.app_state is _CONNECTED and self._inbox is None and not self.is_receiving:
            self.is_receiving = True
            try:
                event = await self._receive()
            finally:
                self.is_receiving = False
            text: str | None = event.get("text")
            if text is not None and len(text) * 4 <= conf.MAX_MESSAGE_SIZE:
                self.messages_in += 1
                return text
        try:
            event = self._received(event) if event else await self.receive()
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

    # Messages out

    async def send_message(self, message: str | bytes) -> None:
        """Send a str as a text message, bytes as a binary one.

        Waits while the client is slow to read. Raises `WebSocketDisconnect` when the connection
        is over, and `RuntimeError` before the accept.
        """
        kind = "text" if isinstance(message, str) else "bytes"
        event: Event = {"type": "websocket.send", kind: message}
        if self.app_state is not _CONNECTED:
            raise self._unsendable(event)
        try:
            await self._send(event)
        except (OSError, RuntimeError) as error:
            # uvicorn raises the one when the client has left, the other when it has closed the
            # connection itself, over a frame that breaks the protocol or a missing pong.
            raise self.lost() from error
        self.messages_out += 1

    # The others only return its coroutine: one of their own would cost every message a frame.

    def send_text(self, data: str) -> Coroutine[Any, Any, None]:
        """Send a text message; raises as `send_message` does."""
        return self.send_message(data)

    def send_bytes(self, data: bytes | str) -> Coroutine[Any, Any, None]:
        """Send a binary message, of a str its UTF-8; raises as `send_message` does."""
        return self.send_message(data.encode() if isinstance(data, str) else data)

    def send_json(self, data: Any, **dumps: Any) -> Coroutine[Any, Any, None]:
        """Send a value as JSON in a text message.

        Dates, decimals, UUIDs and lazy strings become strings, as in Django's `JsonResponse`;
        `dumps` are arguments for `json.dumps`. Raises `TypeError` for what JSON cannot hold.
        """
        return self.send_text(_dump_json(data, dumps))

    def send_jsonb(self, data: Any, **dumps: Any) -> Coroutine[Any, Any, None]:
        """Send a value as JSON in a binary message; takes and raises what `send_json` does."""
        return self.send_bytes(_dump_json(data, dumps))

    # For the middleware, and for the inbox

    @property
    def receive_from_server(self) -> Receive:
        """The server's `receive`."""
        return self._receive

    @property
    def send_to_server(self) -> Send:
        """The server's `send`."""
        return self._send

    @property
    def is_closed(self) -> bool:
        """Whether the connection is over, and there is nothing left to tell the client."""
        return self.app_state is _DISCONNECTED and self._closing is None

    def lost(self) -> WebSocketDisconnect:
        """Note that a send has failed; what is left to receive, the disconnect too, still may be.

        Returns the exception for the sender.
        """
        self._end(None, "")
        return self._disconnect()

    def look_after(self) -> None:
        """Read ahead if the view has received nothing since the last call, and is not waiting."""
        transport = self._transport() if self.app_state is _CONNECTED else None
        closing = transport is not None and transport.is_closing()
        if closing:
            # A server that gave up on a client, such as for want of a pong, cannot tell while that
            # client reads nothing, nor while the inbox is full.
            self.lost()
        idle = (closing or self.messages_in == self._seen) and not self.is_receiving
        if idle and self.client_state is not _DISCONNECTED:
            self._inbox = self._inbox or Inbox(self)
            self._inbox.start()
        self._seen = self.messages_in

    def client_left(self, event: Event) -> None:
        """Note that the client is gone, as the disconnect event tells."""
        self.client_state = State.DISCONNECTED
        self._end(event.get("code") or 1005, event.get("reason") or "")

    def close_too_large(self, event: Event) -> WebSocketDisconnect:
        """Close over a message that is larger than WEBSOCKET_MAX_MESSAGE_SIZE.

        Returns the exception for who receives.
        """
        size, limit = size_of(event), conf.MAX_MESSAGE_SIZE
        self.close_soon(1009, f"A message may have {limit} bytes; this one has {size}.")
        return self._disconnect()

    async def refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake as HTTP (ASGI's extension "WebSocket Denial Response").

        A view returns an `HttpResponse` instead. What middleware set for the accept goes out too.
        """
        names = {name for name, value in headers}
        for header in self.accept_headers:
            if header[0] == b"set-cookie" or header[0] not in names:
                headers.append(header)
        groups.counters[f"handshake {status}"] += 1
        self._end(1006, "")
        with suppress(OSError, RuntimeError):  # The client has left.
            await self._send(
                {"type": "websocket.http.response.start", "status": status, "headers": headers}
            )
            await self._send({"type": "websocket.http.response.body", "body": body})

    def view_starts(self, supervisor: Supervisor) -> None:
        """Let `start()` use the supervisor, and the end of the connection stop the view."""
        self._supervisor = supervisor
        if self._listener is not None:
            self._listen()  # A decorator has looked at the user during the handshake.

    async def release(self) -> None:
        """Give up what this connection holds: tasks, and memberships in groups."""
        self._end(None, "")
        if self._inbox is not None:
            await self._inbox.stop()
        if self._closing is not None:
            self._closing.cancel()
        transport = self._transport()
        if transport and internals.unsent(transport):
            # A server waits for ever for a client that does not read its last messages; one that
            # stops (1012) cannot.
            linger = conf.DISCONNECT_GRACE if self.close_code == 1012 else LINGER
            asyncio.get_running_loop().call_later(linger, transport.abort)

    def _listen(self) -> None:
        if self._listener is not None and self.app_state is not _DISCONNECTED:
            groups.get_hub().add(auth.GROUP, self._listener)

    def _leave_groups(self) -> None:
        if self._outbox is not None:
            self._outbox.stop()
        if self._listener is not None and self._supervisor is not None:
            groups.get_hub().leave(auth.GROUP, self._listener)

    # The log: one line when a socket opens, one when it closes, without the query string

    def log_closed(self) -> None:
        """Log the end of a connection that was accepted, and count its messages."""
        groups.counters["messages_in"] += self.messages_in
        groups.counters["messages_out"] += self.messages_out
        if self._opened:
            seconds = time.monotonic() - self._opened
            counts = f"{self.messages_in} in, {self.messages_out} out"
            self._log(f"{self.close_code or 1006} {seconds:.1f} s, {counts}")

    def _log(self, what: str) -> None:
        if logger.isEnabledFor(logging.INFO):
            client = one_line((self.scope.get("client") or ("-",))[0])
            logger.info("WebSocket %s %s %s %s", quote(self.path), client, self.log_user(), what)

    def log_user(self) -> str:
        """Return the user's name for a line of the log, or a dash."""
        user = getattr(getattr(self, "request", None), "user", None)
        if user is None or not user.is_authenticated:
            return "-"
        # Not str(), which may query.
        return one_line(user.get_username() if hasattr(user, "get_username") else user.pk)

    # States and errors

    def _check_receive(self) -> None:
        if self._over:
            raise self._disconnect()
        if self.app_state is _CONNECTING:
            if self.client_state is not _CONNECTING:
                raise RuntimeError("Cannot receive a message before the connection is accepted.")
        elif self._supervisor is not None:
            # A view that reads what came before the end is at work: its grace starts anew.
            self._supervisor.stop_in(conf.DISCONNECT_GRACE)

    def _end(self, code: int | None, reason: str) -> None:
        """Note how the connection ended, and give the view its grace to end too."""
        self.app_state = State.DISCONNECTED
        self._leave_groups()
        if self.close_code is None:
            self.close_code = code
            self.close_reason = reason
        if self._supervisor is not None and self._supervisor.timer is None:
            self._supervisor.stop_in(conf.DISCONNECT_GRACE)

    def _disconnect(self) -> WebSocketDisconnect:
        return WebSocketDisconnect(self.close_code or 1006, self.close_reason)

    def _unsendable(self, event: Event) -> Exception:
        state = self.app_state
        if state is _DISCONNECTED:
            return self._disconnect()
        allowed = SendEvent.ACCEPT if state is _CONNECTING else SendEvent.SEND
        return RuntimeError(
            f"Cannot send {event['type']!r} while the connection is {state.name}: "
            f"only {allowed!r} and {SendEvent.CLOSE!r} are allowed."
        )

    def _unexpected(self, event: Event, wanted: str) -> Exception:
        if event["type"] == ReceiveEvent.DISCONNECT:
            return self._disconnect()
        if event["type"] == ReceiveEvent.CONNECT:
            return RuntimeError("Cannot receive a message before the connection is accepted.")
        kinds = {"text": "text", "bytes": "binary"}
        kind = next((kind for key, kind in kinds.items() if event.get(key) is not None), "empty")
        return InvalidMessage(f"Expected a {wanted} message, and got a {kind} one.", 1003)


# RFC 6455, section 7.4, and the IANA registry of close codes, less those for local use.
_SENDABLE_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})


# What Django's middleware says of content. A 101 has none (RFC 9110, section 15.2), and uvicorn
# keeps a handshake's headers for as long as the socket is open: these take 2 KiB of it.
_OF_CONTENT: Final = frozenset(
    {
        b"content-language",
        b"content-security-policy",
        b"content-security-policy-report-only",
        b"cross-origin-opener-policy",
        b"referrer-policy",
        b"vary",
        b"x-content-type-options",
        b"x-frame-options",
    }
)


def _encode_header(header: tuple[bytes | str, bytes | str]) -> tuple[bytes, bytes]:
    name, value = (part.encode("latin-1") if isinstance(part, str) else part for part in header)
    if b"\n" in name + value or b"\r" in name + value:
        raise ValueError(f"A header must not contain a line break: {header!r}.")
    return name.lower(), value


def one_line(value: Any) -> str:
    """Return a value as text for the log, in which a client's line break starts no line."""
    return str(value).encode("unicode_escape").decode("ascii")


def _read_finite(number: str) -> float:
    # Python reads NaN, Infinity and 1e999, and would write what no browser can parse.
    if not math.isfinite(value := float(number)):
        raise ValueError("a number that is not finite")
    return value


_JSON: Final = json.JSONDecoder(parse_constant=_read_finite, parse_float=_read_finite)


def _decode_json(data: str | bytes) -> Any:
    try:
        return _JSON.decode(
            data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        )
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"Expected JSON, and got something else: {error}.", 1007) from error


def _dump_json(data: Any, dumps: dict[str, Any]) -> str:
    return json.dumps(data, **{"cls": DjangoJSONEncoder, **dumps}) if dumps else encode_json(data)


async def _until_left(receive: Callable[[], Awaitable[Any]]) -> AsyncIterator[Any]:
    while True:
        try:
            message = await receive()
        except WebSocketDisconnect:
            return
        yield message
