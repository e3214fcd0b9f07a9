"""Drive sockets with arbitrary servers, clients and views, and look at what is left behind.

Run by test_fuzz.py, with the rendered project's Python, in the rendered project's folder.
"""

import asyncio
import gc
import logging
import re
import selectors
import warnings

import django
import hypothesis
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from hypothesis import strategies as st

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    AUTH_USER_MODEL="users.User",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "users", "websocket"],
    LOGGING_CONFIG=None,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="k" * 50,
    WEBSOCKET_MAX_MESSAGE_SIZE=1000,
)
django.setup()

from websocket import groups, middleware, sweep  # noqa: E402
from websocket.connection import InvalidMessage, WebSocketDisconnect  # noqa: E402
from websocket.urls import websocket  # noqa: E402

# What the methods of a socket may raise, and what the view below raises itself.
DOCUMENTED = (InvalidMessage, RuntimeError, TimeoutError, TypeError, ValueError)
DOCUMENTED += (WebSocketDisconnect, asyncio.CancelledError)


# --- time --------------------------------------------------------------------------------------


class Loop(asyncio.SelectorEventLoop):
    """An event loop in which hours pass at once, but for what runs in threads."""

    def __init__(self):
        super().__init__(selectors.SelectSelector())
        self.now = 0.0
        self.in_threads = 0
        self.select, self._selector.select = self._selector.select, self.select_or_skip

    def time(self):
        return self.now

    def run_in_executor(self, *args):
        future = super().run_in_executor(*args)
        self.in_threads += 1
        future.add_done_callback(self.thread_done)
        return future

    def thread_done(self, future):
        self.in_threads -= 1

    def select_or_skip(self, timeout):
        if self.in_threads:
            return self.select(timeout and 10)
        events = self.select(0)
        if not events:
            assert timeout is not None, "Nothing will ever happen again."
            self.now += timeout
        return events


# --- the server and its client -----------------------------------------------------------------

texts = st.text(max_size=5) | st.sampled_from(['{"a": 1}', "[" * 900, "x" * 1001, "\ud800"])
messages = st.one_of(
    st.builds(lambda text: {"type": "websocket.receive", "text": text}, texts),
    st.builds(lambda data: {"type": "websocket.receive", "bytes": data}, st.binary(max_size=5)),
    st.builds(lambda text: {"type": "websocket.receive", "text": text, "bytes": None}, texts),
)
disconnects = st.sampled_from(
    [
        {"type": "websocket.disconnect", "code": 1001},
        {"type": "websocket.disconnect", "code": 1012},
        {"type": "websocket.disconnect", "code": 4001, "reason": "enough"},
        {"type": "websocket.disconnect", "code": None, "reason": None},
        {"type": "websocket.disconnect"},
    ]
)
oddities = st.sampled_from(
    [
        {"type": "websocket.connect"},
        {"type": "websocket.receive"},
        {"type": "websocket.receive", "text": None, "bytes": None},
        {"type": "http.request"},
    ]
)
pauses = st.sampled_from([0, 0.5, 3.0])
legal_orders = st.builds(
    lambda some, end: [(0, {"type": "websocket.connect"}), *some, *end],
    st.lists(st.tuples(pauses, messages), max_size=6),
    st.lists(st.tuples(pauses, disconnects), max_size=2),
)
illegal_orders = st.lists(st.tuples(pauses, st.one_of(messages, disconnects, oddities)), max_size=8)
# What becomes of each of the application's sends, in turn; then all are done at once.
sends = st.lists(st.sampled_from(["done", "slow", "stuck", "gone", "closed"]), max_size=8)


class Server:
    """Keeps to its part of ASGI, or does not, and watches how the application keeps to its own."""

    def __init__(self, events, sends, extensions):
        self.events = events
        self.queue = asyncio.Queue()
        self.sends = list(sends)
        self.left = asyncio.Event()
        self.sent = []
        self.scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": "/",
            "query_string": b"",
            "headers": [(b"host", b"testserver")],
            "client": ["127.0.0.1", 50000],
            "server": ("testserver", 80),
            "subprotocols": [],
            "extensions": extensions,
        }

    async def deliver(self):
        """Put what the client does into the queue, at its own pace; in the end, it leaves."""
        for pause, event in (*self.events, (10, {"type": "websocket.disconnect"})):
            await asyncio.sleep(pause)
            self.queue.put_nowait(event)
            if event["type"] == "websocket.disconnect":
                self.left.set()
        while True:
            await asyncio.sleep(10)
            self.queue.put_nowait(event)

    async def receive(self):
        return await self.queue.get()

    async def send(self, event):
        self.sent.append(event["type"])
        outcome = self.sends.pop(0) if self.sends else "done"
        if outcome == "slow":
            await asyncio.sleep(0.5)
        elif outcome == "stuck":
            await self.left.wait()
        elif outcome == "closed":
            raise RuntimeError("The server has closed the connection.")
        if outcome == "gone" or self.left.is_set():
            raise OSError("The client has left.")

    def assert_legal(self):
        order = " ".join(kind.removeprefix("websocket.") for kind in self.sent)
        legal = r"(accept( send)*( close)?|close|http.response.start( http.response.body)?)?"
        assert re.fullmatch(legal, order), f"The application sent {order!r}."


# --- the view ----------------------------------------------------------------------------------

codes = st.sampled_from([1000, 1001, 1005, 1008, 1011, 3000, 4999, 0, 65536])
simple_actions = st.one_of(
    st.tuples(st.just("accept"), st.sampled_from([None, [("x-a", "b")], [("x", "a\nb")]])),
    st.tuples(st.just("send_text"), st.text(max_size=3)),
    st.tuples(st.just("send_message"), st.binary(max_size=3)),
    st.tuples(st.just("send_json"), st.sampled_from([1, {}, object])),
    st.tuples(
        st.just("send"),
        st.sampled_from(["accept", "close", "connect", "send"]).map(
            lambda kind: {"type": f"websocket.{kind}"}
        ),
    ),
    st.tuples(
        st.sampled_from(["receive", "receive_text", "receive_bytes", "receive_json", "read_all"])
    ),
    st.tuples(st.just("receive_for"), st.sampled_from([0.1, 2])),
    st.tuples(st.sampled_from(["close", "reject"]), codes, st.sampled_from(["", "why", "x" * 124])),
    st.tuples(st.just("sleep"), st.sampled_from([0, 0.5, 3, 60])),
    st.tuples(st.sampled_from(["join", "leave"]), st.sampled_from(["group", "bad name"])),
    st.tuples(st.just("publish"), st.sampled_from(["text", b"bytes", {"a": 1}])),
    st.tuples(
        st.just("raise"),
        st.sampled_from([Http404, PermissionDenied, ValueError, WebSocketDisconnect, TimeoutError]),
    ),
    st.tuples(st.just("raise_two"), st.sampled_from([ValueError, WebSocketDisconnect])),
    st.tuples(st.sampled_from(["await_cancelled", "cancel_tasks", "return", "respond"])),
)
# Whether the view goes on where an action raises, as mostly it does, and the action.
mostly = st.sampled_from([True, True, True, False])
plans = st.recursive(
    st.lists(st.tuples(mostly, simple_actions), min_size=2, max_size=8),
    lambda plans: st.lists(
        st.tuples(
            mostly,
            simple_actions
            | st.tuples(st.sampled_from(["start", "start_and_finally", "shield"]), plans),
        ),
        max_size=8,
    ),
    max_leaves=4,
)
accepting_plans = plans.map(lambda plan: [(False, ("accept", None)), *plan])


class View:
    """Does as planned, whether it makes sense or not, and keeps what was raised."""

    def __init__(self, plan):
        self.plan = plan
        self.raised = []
        self.tasks = []

    async def __call__(self, socket):
        return await self.do_all(socket, self.plan)

    async def do_all(self, socket, plan):
        for goes_on, (name, *args) in plan:
            if name == "return":
                return None
            if name == "respond":
                return HttpResponse("No.", status=503)
            try:
                await self.do(socket, name, *args)
            except BaseException as error:
                self.raised.append(error)
                if not goes_on or (isinstance(error, asyncio.CancelledError)):
                    raise
        return None

    async def do(self, socket, name, *args):
        if name == "accept":
            await socket.accept(headers=args[0])
        elif name == "read_all":
            async for _ in socket:
                pass
        elif name == "receive_for":
            async with asyncio.timeout(args[0]):
                await socket.receive()
        elif name == "sleep":
            await asyncio.sleep(args[0])
        elif name == "publish":
            await groups.apublish("group", args[0])
        elif name == "raise":
            raise args[0]("planned") if args[0] is not WebSocketDisconnect else args[0](1000)
        elif name == "raise_two":
            error = args[0](1000, "planned")
            self.raised.append(error)
            raise ExceptionGroup("planned", [error])
        elif name == "await_cancelled":
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        elif name == "cancel_tasks":
            for task in self.tasks:
                task.cancel()
        elif name == "start":
            self.tasks.append(socket.start(self.do_all(socket, args[0])))
        elif name == "start_and_finally":
            self.tasks.append(socket.start(self.do_finally(socket, args[0])))
        elif name == "shield":
            await self.do_finally(socket, args[0])
        else:
            await getattr(socket, name)(*args)

    async def do_finally(self, socket, plan):
        try:
            await asyncio.sleep(60)
        finally:
            await self.do_all(socket, plan)


def dispatch(socket):
    return View.current(socket)


urlpatterns = [websocket("", dispatch)]


# --- the test ----------------------------------------------------------------------------------


class Log(logging.Handler):
    """Keeps the exceptions that are logged, and what asyncio has to complain about."""

    def __init__(self):
        super().__init__()
        self.errors = []
        self.complaints = []

    def emit(self, record):
        if record.name == "asyncio":
            self.complaints.append(record.getMessage())
        if record.exc_info:
            self.errors.append(record.exc_info[1])


log = Log()
logging.getLogger().addHandler(log)
logging.getLogger().setLevel(logging.INFO)
application = middleware.websockets(None)


async def serve(*args):
    """Run the application as a server does, to its end."""
    server = Server(*args)
    delivering = asyncio.create_task(server.deliver())
    task = asyncio.create_task(application(server.scope, server.receive, server.send))
    await asyncio.wait([task], timeout=3600)
    assert task.done(), "The application does not end."
    delivering.cancel()
    # The next look at the open sockets is the last one: there are none.
    await asyncio.sleep(5)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not sweep._open.get(asyncio.get_running_loop())
    await task
    return server


@hypothesis.given(
    events=legal_orders | illegal_orders,
    sends=sends,
    plan=plans | accepting_plans,
    extensions=st.sampled_from([{"websocket.http.response": {}}, None]),
)
def fuzz(events, sends, plan, extensions):
    log.errors.clear()
    log.complaints.clear()
    view = View.current = View(plan)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=Loop) as runner:
            server = runner.run(serve(events, sends, extensions))
        gc.collect()
        gc.freeze()  # What is there now need not be looked through after the next run.
    assert not caught, [str(warning.message) for warning in caught]
    assert not log.complaints, log.complaints
    server.assert_legal()
    for error in view.raised:
        planned = (Http404, PermissionDenied, ExceptionGroup)
        assert isinstance(error, (*DOCUMENTED, *planned)), repr(error)
    assert len(log.errors) == len(set(map(id, log.errors))), log.errors
    for error in log.errors:
        returned = "returned without accepting" in str(error)
        cause = error.__cause__ if "awaited something that was cancelled" in str(error) else error
        assert returned or any(cause is raised for raised in view.raised), repr(error)


if __name__ == "__main__":
    # Always the same examples: a test that fails fails for everybody.
    hypothesis.settings(
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        report_multiple_bugs=False,
        database=None,
        deadline=None,
        derandomize=True,
        max_examples=1000,
        suppress_health_check=list(hypothesis.HealthCheck),
    )(fuzz)()
