"""Some sockets, what happens beside them, and what must be true once all is over."""

import asyncio
import contextlib
import gc
import logging
import sys
import time
import weakref

from django.contrib.auth import get_user_model
from django.core.signals import got_request_exception
from websocket import auth, conf, groups, inbox, internals, logins, metrics, sweep
from websocket.connection import State
from websocket.middleware import websockets
from websocket.urls import websocket

from testsite.fuzz.errors import (
    DOCUMENTED,
    PLANNED,
    RESPONSES,
    Planned,
    make_error,
    raised,
)
from testsite.fuzz.server import Server
from testsite.fuzz.views import View

# Small enough for a few messages to fill it.
inbox.SIZE = 1500
# As the real one does of a real transport.
internals.peer_has_left = lambda transport: transport.server.client_has_left()


class Log(logging.Handler):
    """Keeps the exceptions that are logged, and other complaints."""

    def __init__(self):
        super().__init__()
        self.clear()

    def clear(self):
        self.errors = []
        #: Those of them that Django's signal has to report too.
        self.server_errors = []
        self.complaints = []

    def emit(self, record):
        if record.exc_info:
            self.errors.append(record.exc_info[1])
            if record.name == "django.request" and record.levelno >= logging.ERROR:
                self.server_errors.append(record.exc_info[1])
        if record.name == "asyncio" or (
            record.levelno >= logging.ERROR and not (record.exc_info or hasattr(record, "request"))
        ):
            self.complaints.append(record.getMessage())


log = Log()
logging.getLogger().addHandler(log)
logging.getLogger().setLevel(logging.INFO)


class Case:
    """Some sockets, and what happens beside them."""

    current = None

    def __init__(self, sockets, happenings, hops, slow_client):
        Case.current = self
        conf.SLOW_CLIENT = slow_client
        log.clear()
        raised.clear()
        self.plans = sockets
        self.hops = hops
        self.happenings = happenings
        self.user = get_user_model()(pk=1, username="anna")
        self.servers = [Server(f"/{n}", **plan["server"]) for n, plan in enumerate(sockets)]
        self.views = [
            View(plan["plan"], self, server)
            for plan, server in zip(sockets, self.servers, strict=True)
        ]
        self.sockets = []
        #: Sockets that looked at the user, and servers that may not get an accept from an index on.
        self.looked = []
        self.too_late_to_accept = []
        #: What Django's signal has reported.
        self.reported = []
        #: The sockets whose `join()` has returned and that have not been asked to leave.
        self.members = {}
        #: How many messages to groups there were; number, group and text of those delivered.
        self.published = 0
        self.delivered = []
        #: The servers of sockets that were to be left out, with the message.
        self.excluded = []
        self.counters = {}
        self.gone_backwards = []

    # What it does

    async def run(self):
        """Run the application as a server does, to its end."""
        clients = [asyncio.create_task(server.deliver()) for server in self.servers]
        self.tasks = [
            asyncio.create_task(application(server.scope, server.receive, server.send))
            for server in self.servers
        ]
        for task, server in zip(self.tasks, self.servers, strict=True):
            task.add_done_callback(server.application_ended)
        happening = asyncio.create_task(self.happen())
        await asyncio.wait([*self.tasks, happening], timeout=3600)
        for task in clients:
            task.cancel()
        assert all(task.done() for task in self.tasks), "The application does not end."
        outcomes = await asyncio.gather(*self.tasks, return_exceptions=True)
        await happening
        # The next look at the open sockets is the last one: there are none.
        await asyncio.sleep(5)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not sweep.everything()
        # The event loop itself listens to the group of logouts.
        members = {**groups.get_hub().members, logins.GROUP: None}
        assert members == {logins.GROUP: None}, f"These are still members: {members}."
        assert not logins.get_watcher().logins
        for number, outcome in enumerate(outcomes):
            was_cancelled = ("cancel", number) in [tuple(what) for _, *what in self.happenings]
            if not (was_cancelled and isinstance(outcome, asyncio.CancelledError)):
                assert outcome is None, repr(outcome)

    async def happen(self):
        for pause, name, *args in self.happenings:
            await asyncio.sleep(pause)
            with contextlib.suppress(ValueError):  # For the group's name.
                if name == "publish":
                    groups.publish(args[0], self.make_text())
                elif name == "apublish":
                    await self.publish(args[0])
                elif name == "log out":
                    await self.log_out()
                elif args[0] < len(self.tasks):
                    self.tasks[args[0]].cancel()

    async def log_out(self):
        """Log the user out, and see that the sockets close that have looked at the user."""
        sockets = {ref() for ref in self.looked} - {None}
        auth.disconnect(self.user)
        await groups.get_hub().caught_up()
        for socket in sockets:
            assert socket.app_state is not State.CONNECTED, f"{socket!r} was not logged out."
            if socket.app_state is State.CONNECTING:
                server = self.server_of(socket)
                self.too_late_to_accept.append((server, len(server.sent)))

    def look_at_user(self, socket):
        assert socket.user.is_authenticated
        self.looked.append(weakref.ref(socket))

    async def join(self, socket, group):
        await socket.join(group)
        self.members.setdefault(group, []).append(weakref.ref(socket))

    async def leave(self, socket, group):
        members = self.members.get(group, [])
        self.members[group] = [member for member in members if member() is not socket]
        await socket.leave(group)

    async def publish(self, group, exclude=None, *, by_id=False):
        """Publish a message, and see that all members got it that could."""
        text = self.make_text()
        number = self.published
        sockets = {ref() for ref in self.members.get(group, [])} - {None, exclude}
        # Behind a message that waits, this one waits too.
        ready = [socket for socket in sockets if self.can_take(socket)]
        if exclude is not None:
            self.excluded.append((self.server_of(exclude), text))
        try:
            await groups.apublish(group, text, exclude=exclude.id if by_id else exclude)
        except Planned as error:
            raise AssertionError("A member's error reached the publisher.") from error
        self.delivered.append((number, group, text))
        for socket in ready:
            is_sent = text in self.server_of(socket).sent_texts()
            assert is_sent or not self.can_take(socket), f"{socket!r} did not get {text!r}."

    def make_text(self):
        """Return a message to a group, with its number and the task that publishes it."""
        self.published += 1
        return f"published {self.published} {asyncio.current_task().get_name()}"

    def server_of(self, socket):
        return self.servers[int(socket.path[1:])]

    def can_take(self, socket):
        server = self.server_of(socket)
        is_ready = not (server.waiting or server.is_broken)
        return is_ready and socket.app_state is State.CONNECTED

    def look(self):
        """Note a counter that has gone backwards, which monitors take for a restart."""
        counters = metrics.count()
        less = [name for name, value in self.counters.items() if counters[name] < value]
        self.gone_backwards += set(less) - {"open"}
        self.counters = counters

    # What must be true

    def check(self):
        """Fail where something was done, raised or logged that should not be."""
        for plan, server in zip(self.plans, self.servers, strict=True):
            # Without the transport, a server cannot tell who leaves that it does not read from.
            if plan["server"]["transport"] and "finally" not in repr(plan["plan"]):
                late = server.ended_at - server.left_at - sum(map(sum, self.hops))
                assert late < 20, f"A view went on for {late} s after its client had left."
        for server, view in zip(self.servers, self.views, strict=True):
            server.check()
            view.check()
        for server, start in self.too_late_to_accept:
            kinds = [event["type"] for event in server.sent[start:]]
            assert "websocket.accept" not in kinds, "A socket was accepted after the logout."
        for server, text in self.excluded:
            assert text not in server.sent_texts(), f"{text!r} came to a socket that was left out."
        assert not self.gone_backwards, f"Counters have gone backwards: {self.gone_backwards}."
        assert not log.complaints, log.complaints
        for error in raised:
            assert isinstance(error, (*DOCUMENTED, *PLANNED)), repr(error)
        for error in log.errors:
            assert is_own(error) or is_in(error, raised), repr(error)
            assert log.errors.count(error) == 1, f"Logged twice: {error!r}."
        ids = [sorted(map(id, found)) for found in (log.server_errors, self.reported)]
        assert ids[0] == ids[1], (log.server_errors, self.reported)

    def left_in_memory(self):
        """Return the sockets that are still there, once this case has forgotten them."""
        self.views, self.tasks, self.reported = [], [], []
        raised.clear()
        log.clear()
        for _ in range(100):  # A thread may still hold its last job.
            gc.collect()
            if not (left := [ref() for ref in self.sockets if ref() is not None]):
                break
            time.sleep(0.01)
        gc.freeze()  # What is there now need not be looked through after the next case.
        return left


def is_own(error):
    """Tell whether an exception is the application's, about a view that did no better."""
    if "awaited something that was cancelled" in str(error):
        return is_in(error.__cause__, raised)
    return "without accepting or refusing" in str(error) or "is it async?" in str(error)


def is_in(error, errors):
    return any(error is other for other in errors)


def note_report(sender, **kwargs):
    Case.current.reported.append(sys.exception())


got_request_exception.connect(note_report)


# --- the project -------------------------------------------------------------------------------


def middleware(get_response):
    """Return a middleware that does as planned for each socket."""

    def handle(request):
        case = Case.current
        request.user = case.user
        name, detail = case.plans[int(request.path_info[1:])]["middleware"]
        if name == "fail before":
            raise make_error(detail)
        response = get_response(request)
        if name == "fail after":
            raise make_error(detail)
        if name == "respond":
            response = RESPONSES[detail]()
            return response.render() if hasattr(response, "render") else response
        if name == "set header":
            response["X-Middleware"] = "yes"
            response.set_cookie("middleware", "yes")
        return response

    return handle


def decorated_view(socket, number):
    """Do what is planned for a decorator, in the handshake's thread, and call the view."""
    case = Case.current
    case.sockets.append(weakref.ref(socket))
    name, detail = case.plans[number]["decorator"]
    if name == "respond":
        return RESPONSES[detail]()
    if name == "fail":
        raise make_error(detail)
    if name == "none":
        return None
    if name == "look at user":
        case.look_at_user(socket)
    return case.views[number](socket)


urlpatterns = [websocket("<int:number>", decorated_view)]
application = websockets(None)
