"""The connection below ASGI: how much one client can make the server keep, and for how long."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import Final

from websocket import internals, sweep
from websocket.counters import counters
from websocket.protocol import Send

logger = logging.getLogger("django.websocket")

# Bytes of pongs that are kept for a client that does not read them. For a pong of two bytes, uvloop
# keeps 850.
PONGS: Final = 16 * 1024

# Fragments of an incomplete message that are kept: the server's limit on a message's size does not
# count empty ones.
FRAGMENTS: Final = 64 * 1024

# Seconds that a client has to read data that was sent before its connection was closed.
LINGER: Final = 30.0


class Link:
    """A client's connection, as far as the server exposes it; otherwise, the methods do nothing.

    `send` is the server's.
    """

    __slots__ = ("deadline", "messages_out", "send", "unsent")

    def __init__(self, send: Send) -> None:
        self.send = send
        #: The number of messages sent at the last look, and the fewest bytes unsent since then.
        self.messages_out = 0
        self.unsent = 0
        self.deadline = 0.0

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection's asyncio transport."""
        return internals.transport_of(self.send)

    def abort(self) -> None:
        """Drop the connection and its unsent data."""
        if (transport := self.transport) is not None:
            internals.abort(transport)

    # Until the handshake is answered

    def pause(self) -> None:
        """Read nothing from the client before its handshake is answered.

        A client that sends data before that breaks the protocol (RFC 6455, section 4.1): uvicorn
        would fail on invalid data, and answer pings without limit.
        """
        if (transport := self.transport) is not None:
            transport.pause_reading()
        elif internals.open_connections() is not None:
            function = self.send if hasattr(self.send, "__qualname__") else type(self.send)
            warn_of_hidden_transport(f"{function.__module__}.{function.__qualname__}")

    def resume(self) -> None:
        """Read from the client again, because the handshake was accepted."""
        if (transport := self.transport) is not None:
            transport.resume_reading()

    def drop_if_left(self) -> None:
        """Drop the connection if the client left before the answer: the server is not reading."""
        if (transport := self.transport) is not None and internals.peer_has_left(transport):
            internals.abort(transport)

    # While it is open

    def is_closing(self) -> bool:
        """Return whether the server has given up the connection, or is about to."""
        transport = self.transport
        return transport is not None and transport.is_closing()

    def patience(self) -> float:
        """Return the number of seconds for which nothing may be read, including the client's pongs.

        This is half of the server's timeout for a pong, less the second until the next look.
        """
        timeout = internals.ping_timeout_of(self.send)
        return max(0.0, (20.0 if timeout is None else timeout) / 2 - sweep.INTERVAL)

    def overflows(self, messages_out: int) -> bool:
        """Return whether the client makes the server keep ever more, compared with the last look.

        A slow client does not, because `send` waits while the transport has more than its
        high-water mark, 64 KiB. So if no message was sent, the added bytes are pongs, which
        uvicorn writes without waiting.
        """
        if (transport := self.transport) is None or transport.is_closing():
            return False
        unsent = internals.unsent(transport)
        if messages_out != self.messages_out or unsent < self.unsent:
            self.messages_out, self.unsent = messages_out, unsent
        if unsent - self.unsent <= PONGS and internals.fragments(self.send) <= FRAGMENTS:
            return False
        counters["flooded"] += 1
        return True

    def count_unsent(self) -> int:
        """Return the number of bytes that the client has not taken yet."""
        return 0 if (transport := self.transport) is None else internals.unsent(transport)

    # After the view

    def end(self, seconds: float = LINGER) -> None:
        """Give the client `seconds` to read unsent data: the server itself would wait forever."""
        transport = self.transport
        if transport is not None and (internals.unsent(transport) or not transport.is_closing()):
            self.deadline = time.monotonic() + seconds
            self.unsent = internals.unsent(transport)  # These are no pongs.
            sweep.add(self)

    def look(self) -> None:
        """Drop the connection if its time is up, or if the client floods it meanwhile."""
        transport = self.transport
        assert transport is not None
        unsent = internals.unsent(transport)
        is_late = time.monotonic() >= self.deadline
        if self.overflows(self.messages_out) or (unsent and is_late):
            internals.abort(transport)
        elif not is_late and (unsent or not transport.is_closing()):
            return
        sweep.discard(self)


@functools.cache
def warn_of_hidden_transport(name: str) -> None:
    """Warn, once for each name, of a `send` that is not the server's own."""
    logger.warning(
        "%s stands between uvicorn and the sockets: a client that does not read, or floods its "
        "connection, cannot be dropped. Put it inside websockets(), or let it pass on the `send` "
        "of WebSockets unchanged. If it is uvicorn itself, see websocket/internals.py.",
        name,
    )
