"""The event loop, and the servers in it, each with its client."""

import asyncio
import re
import selectors
import time
from concurrent.futures import ThreadPoolExecutor

from testsite.fuzz.errors import make_error
from testsite.fuzz.plans import CONNECT, ODDITIES


class Loop(asyncio.SelectorEventLoop):
    """An event loop in which hours pass at once, and threads take as long as planned."""

    def __init__(self, hops, look):
        super().__init__(selectors.SelectSelector())
        self.now = 0.0
        self.hops = list(hops)
        self.look = look
        self.threads = ThreadPoolExecutor(1)
        self.select, self._selector.select = self._selector.select, self.select_or_skip
        time.monotonic = self.time

    def time(self):
        return self.now

    def run_in_executor(self, executor, function, *args):
        """Run a function in a thread, after a pause and before one, while the loop waits."""
        before, after = self.hops.pop(0) if self.hops else (0, 0)
        future = self.create_future()

        def run():
            if not future.done():
                job = (executor or self.threads).submit(function, *args)
                error = job.exception(timeout=10)
                self.call_later(after, finish, error, None if error else job.result())

        def finish(error, result):
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        self.call_later(before, run)
        return future

    def select_or_skip(self, timeout):
        self.look()
        events = self.select(0)
        if not events:
            assert timeout is not None, "Nothing will ever happen again."
            self.now += timeout
        return events


def message_of(event):
    text = event.get("text")
    return event.get("bytes") if text is None else text


def check_order(texts):
    """Fail where a message came twice, or before another one of the same publisher's."""
    last = {}
    for text in texts:
        _, number, publisher = text.split()
        assert int(number) > last.get(publisher, 0), f"{text!r} came after {last}."
        last[publisher] = int(number)


class Transport:
    """What the application may use of a server's connection."""

    def __init__(self, server):
        self.server = server

    def abort(self):
        self.server.leave({"type": "websocket.disconnect", "code": 1006})

    def get_extra_info(self, name):
        return None

    def get_write_buffer_size(self):
        return self.server.waiting

    def is_closing(self):
        return self.server.left.is_set()

    def pause_reading(self):
        self.server.readable.clear()

    def resume_reading(self):
        self.server.readable.set()


class Server:
    """Keeps to its part of ASGI, or does not, and watches how the application keeps to its own."""

    def __init__(self, path, events, extensions, sends, transport):
        # In the end, the client leaves.
        self.events = [*events, (10, {"type": "websocket.disconnect"})]
        self.is_legal = [event for _, event in events[:1]] == [CONNECT] and not any(
            event in ODDITIES for _, event in events[1:]
        )
        self.sends = list(sends)
        self.queue = asyncio.Queue()
        self.one_at_a_time = asyncio.Lock()
        self.readable = asyncio.Event()
        self.readable.set()
        #: When the client leaves, whether it is read from or not.
        kinds = [event["type"] for _, event in self.events]
        leaving = kinds.index("websocket.disconnect")
        self.leaves_at = sum(pause for pause, _ in self.events[: leaving + 1])
        #: Set once there is no connection any more.
        self.left = asyncio.Event()
        #: The messages that the client has sent, and the events that the application has.
        self.received = []
        self.sent = []
        self.is_asked_to_close = False
        self.is_broken = False
        self.waiting = 0
        if transport:
            self.transport = Transport(self)
        self.scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"testserver")],
            "client": ["127.0.0.1", 50000],
            "server": ("testserver", 80),
            "subprotocols": [],
            "extensions": extensions,
        }

    async def deliver(self):
        """Put what the client does into the queue, at its own pace."""
        for pause, event in self.events:
            await asyncio.sleep(pause)
            if event != CONNECT:
                await self.readable.wait()
            if event["type"] == "websocket.disconnect":
                self.leave(event)
                continue
            self.queue.put_nowait(event)
            if event["type"] == "websocket.receive" and not self.left.is_set():
                self.received.append(message_of(event))
        while True:
            await asyncio.sleep(10)
            self.leave(event)

    def leave(self, event):
        self.queue.put_nowait(event)
        self.close()

    def client_has_left(self):
        return asyncio.get_running_loop().time() >= self.leaves_at

    def application_ended(self, task):
        """Close the connection, as servers do then."""
        self.ended_at = asyncio.get_running_loop().time()
        self.close()

    def close(self):
        if not self.left.is_set():
            self.left_at = asyncio.get_running_loop().time()
            self.left.set()

    async def receive(self):
        return await self.queue.get()

    async def send(self, event):
        outcome = self.sends.pop(0) if self.sends else "done"
        self.is_asked_to_close |= event["type"] == "websocket.close"
        self.waiting += 1
        try:
            async with self.one_at_a_time:
                if outcome == "slow":
                    await asyncio.sleep(0.5)
                elif outcome == "stuck" and self.is_accepted():  # Before that, nothing is unsent.
                    await self.left.wait()
        finally:
            self.waiting -= 1
        self.sent.append(event)
        if outcome == "closed":
            raise RuntimeError("The server has closed the connection.")
        if outcome == "broken" and event["type"] == "websocket.send":
            self.is_broken = True
            raise make_error("500")
        if outcome == "gone" or self.left.is_set():
            raise OSError("The client has left.")

    def is_accepted(self):
        return any(event["type"] == "websocket.accept" for event in self.sent)

    def sent_texts(self):
        return [event.get("text") or "" for event in self.sent if event["type"].endswith(".send")]

    def check(self):
        """Fail where the application sent what ASGI does not allow, or groups out of order."""
        order = " ".join(event["type"].removeprefix("websocket.") for event in self.sent)
        legal = r"(accept( send)*( close)?|close|http.response.start( http.response.body)?)?"
        assert re.fullmatch(legal, order), f"The application sent {order!r}."
        check_order(text for text in self.sent_texts() if text.startswith("published "))
