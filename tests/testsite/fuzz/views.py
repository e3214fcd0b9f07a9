"""Views that do as planned, whether it makes sense or not."""

import asyncio
import contextlib

from websocket import groups
from websocket.connection import InvalidMessage
from websocket.counters import counters

from testsite.fuzz.errors import RESPONSES, make_error, raised
from testsite.fuzz.server import check_order, message_of

# Stands for a message that was received, and of which the view was not told.
UNKNOWN = object()


class View:
    """Does what a plan says, and watches what it receives."""

    def __init__(self, plan, case, server):
        self.plan = plan
        self.case = case
        self.server = server
        self.unread = counters["unread"]
        self.tasks = []
        #: How many of its coroutines have not come to their end.
        self.running = 0
        #: What was received, and whether a loop over the socket has come to its end.
        self.received = []
        self.read_to_end = False
        #: Whether a message was received after the socket's own side had closed.
        self.received_late = False
        #: Messages to groups that a subscription should have got.
        self.missed = []

    async def __call__(self, socket):
        return await self.do_all(socket, self.plan)

    async def do_all(self, socket, plan):
        self.running += 1
        try:
            for goes_on, name, *args in plan:
                if name == "return":
                    return None
                if name == "respond":
                    return RESPONSES[args[0]]()
                try:
                    await self.do(socket, name, *args)
                except BaseException as error:
                    raised.append(error)
                    if not goes_on or isinstance(error, asyncio.CancelledError):
                        raise
            return None
        finally:
            self.running -= 1

    async def do(self, socket, name, *args):
        own = getattr(self, name, None)
        await (own(socket, *args) if own is not None else getattr(socket, name)(*args))

    def check(self):
        """Fail where messages were lost, came twice, in another order, or after a close."""
        assert not self.running, "A view has not ended."
        assert not self.missed, f"A subscription missed the messages {self.missed}."
        if not self.server.is_legal:
            return
        assert not self.received_late, "A message was received after a close."
        if counters["unread"] > self.unread:
            return  # A view that only pushes misses messages.
        got, sent = self.received, self.server.received
        assert len(got) <= len(sent), (got, sent)
        pairs = zip(got, sent, strict=False)
        assert all(one in (UNKNOWN, other) for one, other in pairs), (got, sent)
        if self.read_to_end and not self.server.is_asked_to_close:
            assert len(got) == len(sent), (got, sent)

    # Actions: the connection

    async def accept(self, socket, headers):
        await socket.accept(headers=headers)

    async def close_soon(self, socket, grace):
        socket._connection.close_soon(4000, "planned", grace=grace)

    async def look_at_user(self, socket):
        self.case.look_at_user(socket)

    # Actions: messages

    async def receive(self, socket, name, seconds):
        try:
            async with asyncio.timeout(seconds):
                received = await getattr(socket, name)()
        except InvalidMessage:
            self.take(socket, UNKNOWN)
            raise
        if name == "receive" and received["type"] == "websocket.receive":
            self.take(socket, message_of(received))
        elif name != "receive":
            self.take(socket, UNKNOWN if name == "receive_json" else received)

    async def read_all(self, socket):
        try:
            async for message in socket:
                self.take(socket, message)
        except InvalidMessage:
            self.take(socket, UNKNOWN)
            raise
        self.read_to_end = True

    def take(self, socket, message):
        self.received.append(message)
        self.received_late |= socket.close_code is not None and not self.server.left.is_set()

    # Actions: groups

    async def join(self, socket, group, seconds):
        async with asyncio.timeout(seconds):
            await self.case.join(socket, group)

    async def leave(self, socket, group):
        await self.case.leave(socket, group)

    async def publish(self, socket, group):
        await self.case.publish(group)

    async def publish_to_others(self, socket, group, by_id):
        await self.case.publish(group, socket, by_id=by_id)

    async def subscribe(self, socket, group, seconds):
        async with asyncio.timeout(seconds):
            async for _ in groups.subscribe(group):
                pass

    async def subscribe_in_block(self, socket, group, seconds):
        """Listen to two groups for some time, and see that all messages come, in their order."""
        got, dropped = [], counters["dropped"]
        async with groups.subscribe(group) as subscription:
            listening = {group: self.case.published}
            await subscription.join("other")
            listening.setdefault("other", self.case.published)
            # An iteration that is cancelled loses nothing: the second one takes what is left.
            for limit in (seconds, 0):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(limit):
                        async for text in subscription:
                            got.append(text)
        check_order(got)
        wanted = [
            text
            for number, name, text in self.case.delivered
            if name in listening and number > listening[name]
        ]
        if counters["dropped"] == dropped:
            self.missed += set(wanted) - set(got)

    # Actions: what may go wrong

    async def sleep(self, socket, seconds):
        await asyncio.sleep(seconds)

    async def fail(self, socket, error):
        raise make_error(error)

    async def fail_in_group(self, socket, error):
        raise ExceptionGroup("planned", [make_error(error)])

    async def await_cancelled(self, socket):
        if asyncio.current_task().cancelling():
            return  # Before Python 3.13, a TaskGroup that failed leaves what looks like a cancel.
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def cancel_tasks(self, socket):
        for task in self.tasks:
            task.cancel()

    # Actions: a plan in the plan

    async def start(self, socket, plan):
        self.tasks.append(socket.start(self.do_all(socket, plan)))

    async def start_and_finally(self, socket, plan):
        self.tasks.append(socket.start(self.in_finally(socket, plan)))

    async def in_finally(self, socket, plan):
        try:
            await asyncio.sleep(60)
        finally:
            await self.do_all(socket, plan)

    async def in_task_group(self, socket, plan):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.do_all(socket, plan))
            tasks.create_task(asyncio.sleep(3))

    async def in_handled_task_group(self, socket, plan):
        try:
            await self.in_task_group(socket, plan)
        except* Exception:
            pass
