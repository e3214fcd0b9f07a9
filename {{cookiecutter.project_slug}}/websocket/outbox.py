"""Sends group messages to one client, without making their publishers wait for that client."""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any, Final, Protocol

from websocket import conf
from websocket.counters import counters
from websocket.protocol import Event, Send, SendEvent, size_of
from websocket.resume import Position, Resume, mark

# Returned by next() for a finished coroutine: faster than catching StopIteration.
_FINISHED: Final = object()


class Message(Protocol):
    """A message, encoded once for all its receivers."""

    event: Event
    size: int


class Outbox:
    """A socket as a member of groups, and the messages that its client is too slow to take.

    A message to a client that keeps up costs no task and no queue. While the server's `send` waits
    because the transport's buffer is full, a task awaits it, and further messages are kept, up to
    WEBSOCKET_OUTBOX_SIZE. If the server's `send` raises an exception, `failed` is called with it,
    and nothing more is sent. `too_slow` is called when the outbox is full: it either stops the
    outbox, or lets it drop the oldest messages. `lost` is called when it may have missed some.
    """

    #: What the client has, if it asks to resume.
    resume: Resume | None = None

    def __init__(
        self,
        id: str,
        send: Send,
        failed: Callable[[Exception], None],
        too_slow: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self.id = id
        self.server_send = send
        self.failed = failed
        self.too_slow = too_slow
        self.lost = lost
        #: The number of messages that were sent.
        self.sent = 0
        #: Whether messages have been dropped since the client last kept up.
        self.is_dropping = False
        self.is_stopped = False
        self.sender: asyncio.Task[None] | None = None
        self.waiting: deque[Message] = deque()
        self.size = 0

    def push(self, message: Message) -> None:
        """Send a message now, or once the client has read those before it."""
        if self.is_stopped:
            return
        if self.sender is not None:
            self._keep(message)
            return
        try:
            rest: Any = begin(self.server_send(message.event))
        except Exception as error:
            self._fail(error)
            return
        if rest is None:
            self.sent += 1
        else:
            # In an empty context, so that the task keeps no data of the publisher alive.
            task = asyncio.get_running_loop().create_task(self._send(rest), context=Context())
            # A task that is cancelled before it starts never awaits the rest.
            task.add_done_callback(lambda task: rest.close())
            self.sender = task

    def reach(self, position: Position, is_complete: bool) -> None:
        """Do nothing: the client does not resume."""

    def missed(self) -> None:
        """Send nothing more, because messages may have been missed: the client is to come back."""
        self.stop()
        self.lost()

    def stop(self) -> None:
        """Stop sending, and discard the messages that are kept."""
        self.is_stopped = True
        self.waiting.clear()
        self.size = 0
        if self.sender is not None:
            self.sender.cancel()

    def _fail(self, error: Exception) -> None:
        self.stop()
        self.failed(error)

    def _keep(self, message: Message) -> None:
        self.waiting.append(message)
        self.size += message.size
        # One message is kept, however large it is: all members share its data.
        if self.size > conf.OUTBOX_SIZE and len(self.waiting) > 1:
            self.too_slow()
            while self.size > conf.OUTBOX_SIZE and len(self.waiting) > 1:
                self.is_dropping = True
                self.size -= self.waiting.popleft().size
                counters["dropped"] += 1

    async def _send(self, first: Awaitable[None]) -> None:
        try:
            await first
            self.sent += 1
            while self.waiting:
                message = self.waiting.popleft()
                self.size -= message.size
                await self.server_send(message.event)
                self.sent += 1
        except Exception as error:
            self._fail(error)
        finally:
            self.is_dropping = False
            self.sender = None


class ResumingOutbox(Outbox):
    """The outbox of a client that resumes: messages have their positions in front of them.

    A client whose join was not complete gets no positions until the view receives again, and so has
    sent the state: if the connection is lost before that, it is to get the state once more.
    """

    def __init__(
        self, resume: Resume, before_receive: Callable[[Callable[[], None]], None], *args: Any
    ) -> None:
        super().__init__(*args)
        self.resume = resume
        self.before_receive = before_receive

    def push(self, message: Any) -> None:
        assert self.resume is not None
        if self.resume.takes(message):
            is_confirmed = message.position is None or (
                message.position.key not in self.resume.unconfirmed
            )
            super().push(message.marked if is_confirmed else Note(mark(message.event, None)))
        elif self.resume.held_size > conf.OUTBOX_SIZE:
            self.too_slow()

    def reach(self, position: Position, is_complete: bool) -> None:
        """Tell the client the position that it has reached, now or once the view has gone on."""
        assert self.resume is not None
        if is_complete:
            self.tell(position)
        else:
            self.resume.unconfirmed.add(position.key)
            self.before_receive(self.confirm)

    def confirm(self) -> None:
        assert self.resume is not None
        unconfirmed, self.resume.unconfirmed = self.resume.unconfirmed, set()
        for key in unconfirmed:
            self.tell(self.resume.positions[key])

    def tell(self, position: Position) -> None:
        """Tell the client a position and its id."""
        for text in (str(position), self.id):
            super().push(Note({"type": SendEvent.SEND, "text": text}))


class Note:
    """A message for one client alone."""

    __slots__ = ("event", "size")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.size = size_of(event)


def begin(coroutine: Awaitable[None]) -> Awaitable[None] | None:
    """Run a coroutine until it waits for the first time; return the rest of it, or None.

    Nearly all sends finish without waiting. A delivery then takes 0.4 us besides the server's own
    work; a task for each would take 2 us more.
    """
    step = coroutine.__await__()
    future = next(step, _FINISHED)
    return None if future is _FINISHED else _resume(step, future)


@types.coroutine
def _resume(step: Generator[Any, Any, None], future: Any) -> Generator[Any, Any, None]:
    """Continue a coroutine that was run up to the first future that it waits for."""
    try:
        while True:
            try:
                result = yield future
            except BaseException as error:
                future = step.throw(error)
            else:
                future = step.send(result)
    except StopIteration:
        return
