"""A socket as a member of groups: its outbox, and how to handle a client that is too slow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from websocket import conf, groups
from websocket.counters import counters
from websocket.groups.membership import Memberships
from websocket.outbox import Outbox, ResumingOutbox
from websocket.pacing import call_in_turn
from websocket.protocol import State
from websocket.state import Connection

logger = logging.getLogger("django.websocket")

# Held while a connection gets its id, which several threads may ask for.
_lock = threading.Lock()


def memberships_of(connection: Connection) -> Memberships:
    """Return a client's memberships in groups, which end with its connection."""
    memberships: Memberships | None = connection.memberships
    if memberships is None:
        resume = connection.resume
        arguments = (
            identify(connection) if resume is not None else connection.id or "",
            connection.link.send,  # The server's own: a ResumingOutbox marks messages itself.
            partial(failed, connection),
            partial(too_slow, connection),
            partial(missed, connection),
        )
        outbox: Outbox
        if resume is None:
            outbox = Outbox(*arguments)
        else:
            outbox = ResumingOutbox(resume, partial(before_receive, connection), *arguments)
        connection.outbox = outbox
        memberships = connection.memberships = Memberships(groups.get_hub(), outbox)
        connection.at_end(outbox.stop)
        connection.at_end(memberships.leave_all)
    return memberships


class OwnGroup:
    """A socket as the only member of its own group, `socket.<id>`."""

    __slots__ = ("connection", "id")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.id = identify(connection)

    def push(self, message: groups.Message) -> None:
        if self.connection.app_state is State.CONNECTED:
            memberships_of(self.connection).member.push(message)

    def missed(self) -> None:
        missed(self.connection)


def identify(connection: Connection) -> str:
    """Return a random id of the connection; from any thread."""
    with _lock:
        if connection.id is None:
            connection.id = groups.new_id()
            if connection.outbox is not None:
                connection.outbox.id = connection.id
        return connection.id


def address(connection: Connection) -> str:
    """Return the connection's id, by which it can be reached from now on; from any thread.

    Most sockets never need this. Until something has read the id, nothing can publish to it.
    """
    id = identify(connection)
    with _lock:
        is_new, connection.has_own_group = not connection.has_own_group, True
    if is_new and connection.supervisor is not None:
        connection.supervisor.call(partial(open_own_group, connection))
    return id


def open_own_group(connection: Connection) -> None:
    """Let messages to `socket.<id>` reach the connection, if anything has read its id."""
    if connection.has_own_group and connection.app_state is not State.DISCONNECTED:
        hub, member = groups.get_hub(), OwnGroup(connection)
        group = f"socket.{member.id}"
        hub.add(group, member)
        connection.at_end(partial(hub.leave, group, member))


def before_receive(connection: Connection, function: Callable[[], None]) -> None:
    """Call a function before the view receives next."""
    connection.before_receive = function


def failed(connection: Connection, error: Exception) -> None:
    """Handle a failure to send a group's message: the client has left, or there is a bug."""
    if isinstance(error, (OSError, RuntimeError)):
        connection.lost()
    elif connection.supervisor is not None:
        connection.supervisor.fail(error)


def too_slow(connection: Connection) -> None:
    """Handle a client whose outbox is full.

    If it is closed, it gets 1013 if it reads again before WEBSOCKET_DISCONNECT_GRACE is over, and
    else a reset connection. The messages in the outbox are lost.
    """
    assert connection.outbox is not None
    # A client that resumes must not miss a message: it is closed, and comes back for the rest.
    if conf.SLOW_CLIENT == "drop" and connection.resume is None:
        if not connection.outbox.is_dropping:
            logger.warning("%r is slow to read: messages to it are dropped.", connection)
        return
    logger.warning("%r is slow to read: it is closed.", connection)
    counters["closed"] += 1
    connection.close_soon(1013, "Too slow to read.", grace=0)


def missed(connection: Connection) -> None:
    """Close a connection that may have missed messages: its page connects again, and loads again.

    Many are closed one after the other, so that they do not all come back at once.
    """
    call_in_turn(partial(close_missed, connection))


def close_missed(connection: Connection) -> bool:
    if connection.app_state is not State.CONNECTED:
        return False
    counters["missed"] += 1
    connection.close_soon(1012, "Messages may have been missed.")
    return True
