"""A faster WebSocket protocol class for uvicorn, optional: `UVICORN_WS=websocket.fast:Protocol`.

Up to the accept, uvicorn's own class does everything. From then on, picows, which is written in C,
takes the place of the library websockets. Each private name has a test in tests/test_fast.py.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import picows
from picows.picows import WSProtocol  # type: ignore[attr-defined]
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState, ProtocolError
from websockets.frames import Close, Frame, Opcode

CONTINUATION, TEXT, BINARY = map(picows.WSMsgType, (0, 1, 2))
CLOSE, PING, PONG = map(picows.WSMsgType, (8, 9, 10))

UNREAD: Final = 64 * 1024  # Bytes to keep for the application before reading no more.
OVERHEAD: Final = 512  # Bytes that a message takes besides its data.
PONGS: Final = 128 * 1024  # Bytes that the client has not read, above which pings are ignored.
CHUNK: Final = 16 * 1024  # Bytes to read at once. A larger frame makes picows' buffer grow.
WRITABLE: Final = asyncio.Event()
WRITABLE.set()


class Protocol(WebSocketsSansIOProtocol, picows.WSListener):
    """A connection. Its handshake, pings, close and end are uvicorn's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn.available_extensions = ()  # picows cannot inflate messages.
        self.writable = WRITABLE
        self.queue: Any = Events(self)
        self.receive: Any = self.queue.receive
        #: Writes frames, from the accept until one side closes, and `ready` unless it has to wait.
        self.wire: Any = None
        self.ready: Any = None
        self.early = b""  # What the client has sent before the accept.
        self.kind: picows.WSMsgType | None = None  # Of an incomplete message, as is its size.
        self.size = 0

    def data_received(self, data: bytes) -> None:
        """Let uvicorn read the handshake, and keep what follows until it is accepted."""
        if not self.handshake_initiated:
            super().data_received(data)
        elif not self.handshake_complete:
            self.early += data
            self.transport.pause_reading()

    def take_over(self) -> None:
        """Replace websockets with picows, right after the accept."""
        self.conn: Any = Sender(self)
        del self.request, self.response
        self.start_parser()
        self.transport.resume_reading()
        while self.early:
            parser: Any = self.transport.get_protocol()
            self.early = self.early[parser.feed(self.early) :]

    def start_parser(self) -> None:
        parser = Parser(self)
        self.wire = parser.transport
        self.ready = self.wire if self.writable.is_set() else None
        self.transport.set_protocol(parser)

    async def send(self, event: Any) -> None:
        if self.wire is None or event["type"] != "websocket.send":
            await super().send(event)
            if event["type"] == "websocket.accept" and self.handshake_complete:
                self.take_over()
        elif self.ready is None:
            await self.writable.wait()
            await self.send(event)
        elif (text := event.get("text")) is not None:
            self.ready.send(TEXT, text)
        else:
            self.ready.send(BINARY, event["bytes"])

    def pause_writing(self) -> None:
        self.ready = None
        self.writable = asyncio.Event()

    def resume_writing(self) -> None:
        self.ready = self.wire
        self.writable.set()

    def stop_writing(self) -> None:
        self.wire = self.ready = None

    def connection_lost(self, error: Exception | None) -> None:
        self.stop_writing()
        super().connection_lost(error)

    def on_ws_disconnected(self, wire: picows.WSTransport) -> None:
        self.connection_lost(None)

    def on_ws_frame(self, wire: picows.WSTransport, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        try:
            if self.wire is None:  # One side has closed.
                if kind is CLOSE:
                    self.handle_close(Frame(Opcode.CLOSE, b""))
            elif frame.rsv1 or frame.rsv2 or frame.rsv3:
                raise ProtocolError("reserved bits must be 0")
            elif kind is TEXT and frame.fin and self.kind is None:
                self.queue.put_message("text", frame.get_payload_as_utf8_text())
            elif kind is BINARY and frame.fin and self.kind is None:
                self.queue.put_message("bytes", frame.get_payload_as_bytes())
            elif kind is CLOSE or kind is PING or kind is PONG:
                self.on_control(kind, frame.get_payload_as_bytes())
            else:
                self.on_fragment(kind, frame)
        except UnicodeDecodeError:
            self.conn.fail(1007, "invalid UTF-8")
        except ProtocolError as error:
            self.conn.fail(1002, str(error))
        if frame.payload_size > CHUNK and not frame.tail_size and self.wire is not None:
            self.start_parser()  # Its buffer is small again.

    def on_fragment(self, kind: picows.WSMsgType, frame: picows.WSFrame) -> None:
        if (kind is CONTINUATION) is (self.kind is None):
            raise ProtocolError("a fragment is missing")
        self.frames.append(frame.get_payload_as_bytes())
        self.kind = self.kind or kind
        self.size += frame.payload_size
        if self.size > self.config.ws_max_size:
            self.conn.fail(1009, f"a message may have {self.config.ws_max_size} bytes")
        elif frame.fin:
            data, is_text = b"".join(self.frames), self.kind is TEXT
            self.frames, self.kind, self.size = [], None, 0
            self.queue.put_message(*(("text", data.decode()) if is_text else ("bytes", data)))

    def on_control(self, kind: picows.WSMsgType, data: bytes) -> None:
        if kind is PING:
            if self.transport.get_write_buffer_size() < PONGS:
                self.wire.send_pong(data)
        elif kind is PONG:
            self.handle_pong(Frame(Opcode.PONG, data))
        else:
            self.conn.close_rcvd = Close.parse(data)
            self.wire.send(CLOSE, data)
            self.stop_writing()
            self.handle_close(Frame(Opcode.CLOSE, data))


class Events:
    """What the application has not received: smaller and faster than uvicorn's asyncio.Queue."""

    __slots__ = ("arrival", "events", "protocol", "unread")

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.events: list[dict[str, Any]] = []
        self.unread = 0
        self.arrival: asyncio.Future[None] | None = None  # Done when an event has come.

    def put_nowait(self, event: dict[str, Any]) -> bool:
        self.events.append(event)
        if self.arrival is None or self.arrival.done():
            return False
        self.arrival.set_result(None)
        return True

    def put_message(self, key: str, data: str | bytes) -> None:
        """Add a message, and read no more if the application does not keep up."""
        if not self.put_nowait({"type": "websocket.receive", key: data}):
            self.unread += len(data) + OVERHEAD
            if self.unread > UNREAD:
                self.protocol.read_paused = True
                self.protocol.transport.pause_reading()

    async def receive(self) -> dict[str, Any]:
        while not self.events:
            if self.arrival is None or self.arrival.done():
                self.arrival = self.protocol.loop.create_future()
                await self.arrival
            else:  # Another task receives as well.
                await asyncio.wait([self.arrival])
        event = self.events.pop(0)
        if self.unread and not self.events:
            self.unread, self.protocol.read_paused = 0, False
            self.protocol.transport.resume_reading()
        return event


class Sender:
    """What uvicorn's class calls in place of websockets' `ServerProtocol`."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol

    def data_to_send(self) -> list[bytes]:
        return []  # picows has it.

    def send_text(self, data: bytes) -> None:
        raise InvalidState("One side has closed the connection.")

    send_binary = send_text

    def send_ping(self, data: bytes) -> None:
        self.protocol.wire.send_ping(data)

    def send_close(self, code: int, reason: str = "") -> None:
        self.close_sent = Close(code, reason)
        Frame(Opcode.CLOSE, self.close_sent.serialize()).check()
        if self.protocol.wire is not None:
            self.protocol.wire.send_close(code, reason)
            self.protocol.stop_writing()

    def fail(self, code: int, reason: str) -> None:
        """Close at once: the client breaks the protocol, or does not answer pings."""
        self.send_close(code, reason)
        self.protocol.handle_parser_exception()


class Parser(WSProtocol):
    """Reads frames: the event loop's protocol from the accept on."""

    def __init__(self, protocol: Protocol) -> None:
        accepted = picows.WSUpgradeResponseWithListener(ACCEPTED, protocol)
        server = (None, None, False, lambda request: accepted, LOG, True, None)
        pings = (
            False,
            0,
            0,
            picows.WSAutoPingStrategy.PING_WHEN_IDLE,
            False,
        )  # They are uvicorn's.
        super().__init__(*server, *pings, protocol.config.ws_max_size, None, 0)
        self.connection_made(Wire(protocol.transport))
        self.feed(HANDSHAKE)

    def feed(self, data: bytes) -> int:
        buffer = self.get_buffer(-1)
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        self.buffer_updated(size)
        return size

    def get_buffer(self, hint: int) -> memoryview:
        """Let the event loop read no more at once than the application can be given."""
        buffer: memoryview = WSProtocol.get_buffer(self, hint)
        return buffer if len(buffer) <= CHUNK else buffer[:CHUNK]

    def buffer_updated(self, size: int) -> None:
        """Parse, and note at once that picows has closed the connection over an invalid frame."""
        WSProtocol.buffer_updated(self, size)
        if self.transport.is_close_frame_sent and self.listener.wire is not None:
            sent = self.transport.close_handshake.sent
            self.listener.conn.fail(int(sent.code), sent.reason)


class Wire:
    """The event loop's transport for picows, and at the same time the socket below it."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else self.transport.get_extra_info(name)

    def fileno(self) -> Any:
        return self.transport.get_extra_info("socket").fileno()

    def setsockopt(self, *option: int) -> int:
        return 0  # A Unix socket lacks these options, and on others, TCP_NODELAY is set.

    getsockopt = setsockopt

    def writelines(self, parts: list[bytes]) -> None:
        """Copy: picows reuses the memory of a frame's head before uvloop has sent it."""
        self.transport.write(b"".join(parts))


class Accepted(picows.WSUpgradeResponse):
    """picows' answer to its handshake: empty, because uvicorn has sent one."""

    def to_bytes(self) -> bytearray:
        return bytearray()


ACCEPTED: Any = Accepted()
ACCEPTED.status, ACCEPTED.headers = 101, {}

# The least that picows takes for a handshake. uvicorn has read the client's.
HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)

# picows' log, without the errors of clients, with which anyone could fill it.
LOG: Final = logging.LoggerAdapter(logging.getLogger("websocket.fast"), {})
LOG.logger.addFilter(lambda record: bool(record.exc_info))
