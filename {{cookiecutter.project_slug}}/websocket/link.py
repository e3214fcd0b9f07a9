"""The connection below ASGI: what one client can make the server keep, and for how long."""

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

# Bytes of pongs that are kept for a client that does not read them. A pong may have two bytes, for
# which uvloop keeps 850.
PONGS: Final = 16 * 1024

# Fragments of a message that is not complete yet: the server's limit for its size does not count
# empty ones.
FRAGMENTS: Final = 64 * 1024

# Seconds that a client has to read what was sent before its connection was closed.
LINGER: Final = 30.0


class Link:
    """A client's connection as far as the server shows it; where it does not, this does nothing.

    `send` is the server's.
    """

    __slots__ = ("deadline", "messages_out", "send", "unsent")

    def __init__(self, send: Send) -> None:
        self.send = send
        #: How many messages had been sent at the last look, and the least that was unsent since.
        self.messages_out = 0
        self.unsent = 0
        self.deadline = 0.0

    @property
    def transport(self) -> asyncio.Transport | None:
        """asyncio's transport of the connection."""
        return internals.transport_of(self.send)

    def abort(self) -> None:
        """Drop the connection, and what is unsent with it."""
        if (transport := self.transport) is not None:
            internals.abort(transport)

    # Until the handshake is answered

    def pause(self) -> None:
        """Read nothing from the client before its handshake is answered.

        What a client sends before breaks the protocol (RFC 6455, section 4.1): uvicorn would fail
        over its mistakes, and answer its pings without bound.
        """
        if (transport := self.transport) is not None:
            transport.pause_reading()
        elif internals.uvicorn_server() is not None:
            function = self.send if hasattr(self.send, "__qualname__") else type(self.send)
            warn_of_hidden_transport(f"{function.__module__}.{function.__qualname__}")

    def resume(self) -> None:
        """Read again: the handshake was accepted."""
        if (transport := self.transport) is not None:
            transport.resume_reading()

    def drop_if_left(self) -> None:
        """Drop the connection of a client that left before the answer: nobody reads its end."""
        if (transport := self.transport) is not None and internals.peer_has_left(transport):
            internals.abort(transport)

    # While it is open

    def overflows(self, messages_out: int) -> bool:
        """Compare with the last look: does the client make the server keep ever more?

        A slow client does not, because `send` waits while the transport has more than its
        high-water mark, 64 KiB. So if no message was sent, what was added are pongs, which uvicorn
        writes without waiting.
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

    # After the view

    def end(self, seconds: float = LINGER) -> None:
        """Give the client so long to read what is unsent: the server itself would wait for good."""
        transport = self.transport
        if transport is not None and (internals.unsent(transport) or not transport.is_closing()):
            self.deadline = time.monotonic() + seconds
            sweep.add(self)

    def look(self) -> None:
        """Drop the connection if the time is over, or if the client floods it meanwhile."""
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
        "connection, cannot be dropped. Wrap it inside of websockets(), or let it pass on the "
        "`send` of WebSockets as it is.",
        name,
    )
