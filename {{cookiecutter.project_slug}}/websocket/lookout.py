"""Check an open connection once a second: whether its view reads, and whether its client does."""

from __future__ import annotations

import logging
import math
import random
import time

from websocket import conf
from websocket.inbox import Inbox
from websocket.protocol import State
from websocket.state import Connection

logger = logging.getLogger("django.websocket")


class Lookout:
    """Watches one connection."""

    __slots__ = ("close_at", "connection", "seen")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        #: The number of messages that the view had received at the last look.
        self.seen = 0
        #: The time at which the connection is too old, if WEBSOCKET_MAX_AGE is set.
        self.close_at = math.inf
        if conf.MAX_AGE:
            self.close_at = time.monotonic() + conf.MAX_AGE * random.uniform(0.9, 1)

    def look(self) -> None:
        """Drop a client that has left or that floods, and read ahead for a view that does not."""
        connection = self.connection
        if connection.app_state is State.CONNECTING:
            connection.link.drop_if_left()
        elif connection.link.overflows(connection.messages_out):
            logger.warning("%r floods its connection and does not read: it is dropped.", connection)
            connection.link.abort()
        is_closing = connection.app_state is State.CONNECTED and connection.link.is_closing()
        if is_closing:
            # A server that gave up on a client, for example after a missing pong, cannot report it
            # while that client does not read, nor while the inbox is full.
            connection.lost()
        elif connection.app_state is State.CONNECTED and time.monotonic() >= self.close_at:
            connection.close_soon(1012, "Maximum age reached; connect again.")
        if connection.inbox is not None and connection.inbox.is_empty():
            connection.inbox = None
        has_left = connection.client_state is State.DISCONNECTED
        has_received = connection.messages_in != self.seen and not is_closing
        if not (has_left or has_received or connection.is_receiving):
            self.read_ahead()
        self.seen = connection.messages_in

    def read_ahead(self) -> None:
        """Read for the view; drop the messages if it has never received any."""
        connection = self.connection
        if connection.inbox is None:
            connection.inbox = Inbox(connection.server_receive, connection.note_ahead)
        is_full_for = connection.inbox.seconds_full()
        if not connection.messages_in and is_full_for > connection.link.patience():
            logger.warning(
                "%r has received nothing: its view seems to only push, and the messages from its "
                "client are dropped.",
                connection,
            )
            connection.inbox.discard()
        connection.inbox.read_ahead()
