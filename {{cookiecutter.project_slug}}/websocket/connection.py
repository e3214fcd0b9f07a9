"""The `WebSocket` that a view uses: receive, send, and one exception when it is over."""

from __future__ import annotations

import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
)
from typing import TYPE_CHECKING, Any

from websocket import groups
from websocket.attributes import RequestAttributes, of_connection
from websocket.groups.presence import encode_info
from websocket.groups.tasks import GroupFunction
from websocket.members import memberships_of
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
    check_close,
    decode_json,
    dump_json,
    encode_header,
    not_text,
)
from websocket.state import Connection

if TYPE_CHECKING:
    import asyncio

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


class WebSocket(RequestAttributes):
    """A connection, passed to a view in place of a request.

    One task at a time may receive; any number may send. Once the connection is over, receiving
    and sending raise `WebSocketDisconnect`. Calls that break the protocol, such as sending before
    the accept or accepting twice, raise `RuntimeError`.

    A view may create a subclass with `MyWebSocket(socket.scope, socket._receive, socket._send)`,
    which then uses the same connection.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A `receive` of a known connection, or of a socket, leads to that connection.
        owner = getattr(receive, "__self__", None)
        if isinstance(owner, WebSocket):
            owner = owner._connection
        super().__init__(
            owner if isinstance(owner, Connection) else Connection(scope, receive, send)
        )
        self._receive = self._connection.receive
        self._send = self._connection.send

    def __repr__(self) -> str:
        return repr(self._connection)

    #: Whether the client has asked to connect, and whether it is known to have left.
    client_state: State = of_connection("client_state")
    #: Whether the application has accepted, and whether it can still send.
    app_state: State = of_connection("app_state")
    #: The close code, and the reason given with it, once the connection has ended.
    close_code: int | None = of_connection("close_code")
    close_reason: str = of_connection("close_reason")
    #: The numbers of messages received by the view, and sent to the client (its groups' included).
    messages_in: int = of_connection("messages_in")
    messages_out: int = of_connection("messages_out")

    # ASGI's two callables. The methods below are built on them and on `send_message`, `close` and
    # `accept`.

    def receive(self) -> Coroutine[Any, Any, Event]:
        """Return the next ASGI event: the connect, a message, or the disconnect.

        Canceling is safe: no event is lost. Raises `WebSocketDisconnect` after the disconnect or
        a `close()`, `InvalidMessage` for an event that ASGI does not allow here, and
        `RuntimeError` when called for a message before the accept, or while another task is
        receiving. A message over WEBSOCKET_MAX_MESSAGE_SIZE closes the connection with 1009.
        """
        return self._receive()

    def send(self, event: Event) -> Coroutine[Any, Any, None]:
        """Send an ASGI event: accept, send or close.

        Waits while the client is slow to read. Canceling is safe before the event is handed to
        the server, which takes it whole or not at all; a close is sent anyway. Raises
        `WebSocketDisconnect` when the connection is over, `RuntimeError` for an event that is not
        allowed now, `TypeError` for anything but an event, and `ValueError` for a message without
        text or bytes.
        """
        return self._send(event)

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
        if self.client_state is State.CONNECTING:
            await self.receive()
        await self.send({"type": SendEvent.ACCEPT, "subprotocol": subprotocol, "headers": encoded})

    def close(self, code: int = 1000, reason: str = "") -> Coroutine[Any, Any, None]:
        """Close the connection, or do nothing if it is over.

        Before the accept this refuses the handshake: the client sees an empty 403, never the
        code. `reason` may have 123 bytes of UTF-8 (RFC 6455, section 5.5). Raises `ValueError`
        for a longer one, and for a code that must not be sent (section 7.4). Canceling is safe:
        the close is sent anyway.
        """
        return self._connection.close(code, reason)

    async def reject(self, code: int, reason: str = "") -> None:
        """Accept the connection and close it at once.

        Only this can give a reason to a script in a browser: after a refused handshake, scripts
        see nothing but 1006. Arguments and exceptions are those of `close`.
        """
        check_close(code, reason)
        await self.accept()
        await self.close(code, reason)

    def abort(self) -> None:
        """Drop the connection and its unsent data, without a close frame.

        Plain ASGI cannot do this. The method works if `send` is a method of an object with the
        connection's `transport`, as in uvicorn; otherwise it does nothing.
        """
        self._connection.link.abort()

    # Messages in

    async def receive_text(self) -> str:
        """Return the next message, which has to be text.

        Raises `WebSocketDisconnect` and others as `receive` does, and `InvalidMessage` for bytes.
        """
        event = await self.receive()
        text: str | None = event.get("text")
        if text is None:
            raise self._unexpected(event, "text")
        return text

    async def receive_bytes(self) -> bytes:
        """Return the next message, which has to be binary.

        Raises `WebSocketDisconnect` and others as `receive` does, and `InvalidMessage` for text.
        """
        event = await self.receive()
        data: bytes | None = event.get("bytes")
        if data is None:
            raise self._unexpected(event, "binary")
        return data

    async def receive_json(self) -> Any:
        """Return the next message's value, decoded from JSON in a text frame.

        Raises `WebSocketDisconnect` and others as `receive` does, and `InvalidMessage` for bytes
        and for anything but JSON.
        """
        return decode_json(await self.receive_text())

    async def receive_jsonb(self) -> Any:
        """Return the next message's value, decoded from JSON in a binary frame.

        Raises `WebSocketDisconnect` and others as `receive` does, and `InvalidMessage` for text
        and for anything but JSON.
        """
        return decode_json(await self.receive_bytes())

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message, str for text, bytes for binary; stop once the client left."""
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
            return self._connection.disconnected()
        if event["type"] == ReceiveEvent.CONNECT:
            return self._connection.misuse("receive a message")
        kinds = {"text": "text", "bytes": "binary"}
        kind = next((kind for key, kind in kinds.items() if event.get(key) is not None), "empty")
        return InvalidMessage(f"Expected a {wanted} message, and got a {kind} one.", 1003)

    # Messages out. These return the coroutine of `send_message`: with coroutines of their own,
    # every message would cost another Python frame.

    def send_message(self, message: str | bytes) -> Coroutine[Any, Any, None]:
        """Send a str as a text message, bytes as a binary one.

        Waits while the client is slow to read; canceling works as for `send`. Raises
        `WebSocketDisconnect` when the connection is over, `RuntimeError` before the accept, and
        `TypeError` for anything else.
        """
        return self._connection.send_message(message)

    def send_text(self, data: str) -> Coroutine[Any, Any, None]:
        """Send a text message; raises as `send_message` does."""
        if isinstance(data, str):
            return self.send_message(data)
        raise not_text(data)

    def send_bytes(self, data: bytes | str) -> Coroutine[Any, Any, None]:
        """Send a binary message (a str as UTF-8); raises as `send_message` does."""
        return self.send_message(data.encode() if isinstance(data, str) else data)

    def send_json(self, data: Any, **dumps: Any) -> Coroutine[Any, Any, None]:
        """Send a value as JSON in a text message.

        Dates, decimals, UUIDs and lazy strings become strings, as in Django's `JsonResponse`;
        `dumps` are arguments for `json.dumps`. Raises `TypeError` for values that JSON lacks.
        """
        return self.send_message(dump_json(data, dumps))

    def send_jsonb(self, data: Any, **dumps: Any) -> Coroutine[Any, Any, None]:
        """Send a value as JSON in a binary message; otherwise the same as `send_json`."""
        return self.send_bytes(dump_json(data, dumps))

    # Groups and tasks

    async def join(
        self, group: str, *, presence: Any = None, task: GroupFunction | None = None
    ) -> bool:
        """Join a group: messages published once this returns are sent to this client.

        Returns True if the client has, or is being sent, all since the position with which it has
        connected (see WEBSOCKET_HISTORY); False if it is new or was away for too long.

        The socket leaves by itself when the connection is over or the view has ended. Canceling is
        safe: it leaves the membership as it was. For a client that is slow to read,
        WEBSOCKET_OUTBOX_SIZE bytes are kept; beyond that, WEBSOCKET_SLOW_CLIENT applies.

        `presence` makes the user, or an anonymous visitor's socket, one of the group's
        `websocket.groups.members`, with this info: at most 1 KiB of JSON. `task` is a coroutine
        function of the group's name, which runs once for all members until 15 s after the last one.

        Raises `ValueError` for an invalid group name or an info that is too large, `TypeError` for
        an info that JSON cannot hold, `RuntimeError` before the accept, `WebSocketDisconnect` when
        the connection is over, and `PublishError` when Redis is used but cannot be reached.
        """
        groups.check_name(group)
        if not (task is None or callable(task)):
            raise TypeError(f"task= takes a function, as in task=run_game, not {task!r}.")
        connection = self._connection
        if connection.app_state is not State.CONNECTED:
            raise connection.misuse("join a group")
        info = "" if presence is None else encode_info(presence)
        identity = None if presence is None else self._identity
        is_complete = await memberships_of(connection).join(group, identity, info, task)
        if connection.app_state is not State.CONNECTED:
            raise connection.disconnected()
        return is_complete

    async def leave(self, group: str) -> None:
        """Leave a group, or do nothing if this socket is not a member."""
        if self._connection.memberships is not None:
            self._connection.memberships.leave(group)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run a coroutine alongside the view, to push while the view waits for its client.

        Returns its task, which is cancelled and awaited when the view ends. An exception in it
        ends the view, as if the view had raised it. Raises `RuntimeError` once the view has
        ended, and `TypeError` for a function that was not called.
        """
        if not isinstance(coroutine, Coroutine):
            raise TypeError(
                "start() takes a coroutine, as in socket.start(tick(socket)), not a "
                f"{type(coroutine).__name__}."
            )
        supervisor = self._connection.supervisor
        if supervisor is None or supervisor.is_over:
            coroutine.close()
            raise RuntimeError("start() can be called only while the socket's view runs.")
        return supervisor.start(coroutine)


async def _until_left(receive: Callable[[], Awaitable[Any]]) -> AsyncIterator[Any]:
    while True:
        try:
            message = await receive()
        except WebSocketDisconnect:
            return
        yield message
