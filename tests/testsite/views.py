"""Sockets that do what the tests are about, and pages that tell about the process."""

import asyncio
import functools
import os
import threading
import time

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model, login, logout
from django.contrib.auth.decorators import login_required
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied
from django.core.signals import got_request_exception
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from websocket import threads
from websocket.connection import InvalidMessage, State, WebSocket, WebSocketDisconnect

from testsite import middleware

if "STUCK_AFTER" in os.environ:
    threads.SLOW_AFTER = threads.STUCK_AFTER = float(os.environ["STUCK_AFTER"])


def note(text):
    """Write to the server's log, where tests wait for it."""
    print(text, flush=True)


def note_end(view):
    """Make a view tell that its `finally` ran."""

    @functools.wraps(view)
    async def wrapper(socket, *args, **kwargs):
        try:
            return await view(socket, *args, **kwargs)
        finally:
            note(f"{view.__name__} ended {socket.id}")

    return wrapper


# --- pages -------------------------------------------------------------------------------------


async def state(request):
    """Tell how many threads and tasks the process has, and more."""
    return JsonResponse(
        {
            "entered": middleware.entered,
            "left": middleware.left,
            "sqlite_files": count_open_files(".sqlite3"),
            "tasks": len(asyncio.all_tasks()),
            "threads": sorted(thread.name for thread in threading.enumerate()),
        }
    )


def count_open_files(suffix):
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        return None
    paths = []
    for name in os.listdir(folder):
        try:
            paths.append(os.readlink(f"{folder}/{name}"))
        except FileNotFoundError:
            continue
    return sum(path.endswith(suffix) for path in paths)


def log_in(request, name):
    """Log a user in, without a password."""
    user, _ = get_user_model().objects.get_or_create(username=name)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse()


def log_out(request):
    logout(request)
    return HttpResponse()


def deactivate(request, name):
    user = get_user_model().objects.get(username=name)
    user.is_active = False
    user.save()
    return HttpResponse()


released = threading.Event()


async def release(request):
    """Let the sync code go on that holds a thread."""
    released.set()
    return HttpResponse()


# --- handshakes --------------------------------------------------------------------------------


async def echo(socket):
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


async def named(socket, name):
    """Do what the name says."""
    if name.startswith("bad"):
        raise InvalidMessage(name)
    if name.startswith("forbidden"):
        await socket.accept()
        raise PermissionDenied(name)
    await socket.accept()


async def sluggish(socket):
    """Accept only after a while."""
    await asyncio.sleep(0.1)
    await echo(socket)


async def forbidden(socket):
    raise PermissionDenied


@login_required
async def members(socket):
    await socket.accept()
    await socket.send_text(socket.user.username)


@login_required
async def stay(socket):
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


def holding_up(view):
    """Take, in a decorator, as long as the test wants."""

    @functools.wraps(view)
    def wrapper(socket):
        released.clear()
        note("holds the handshake up")
        released.wait(60)
        return view(socket)

    return wrapper


@login_required
@holding_up
async def hold_up(socket):
    await stay(socket)


async def unavailable(socket):
    return HttpResponse(
        "Come again.", status=503, headers={"Retry-After": "7"}, content_type="text/plain"
    )


async def streamed(socket):
    return StreamingHttpResponse(iter([b"one ", b"two ", b"three"]), status=403)


async def streamed_async(socket):
    async def content():
        for word in (b"one ", b"two ", b"three"):
            await asyncio.sleep(0)
            yield word

    return StreamingHttpResponse(content(), status=403)


async def unrenderable(socket):
    return TemplateResponse(socket.request, "no/such/template.html", status=403)


async def unreadable(socket):
    async def content():
        yield b"one "
        raise ValueError("failed in the middle")

    return StreamingHttpResponse(content(), status=403)


def count_visits(view):
    """A home-made decorator: what it does with the session goes out with the accept."""

    @functools.wraps(view)
    def wrapper(socket, *args, **kwargs):
        socket.session["visits"] = socket.session.get("visits", 0) + 1
        return view(socket, *args, **kwargs)

    return wrapper


@count_visits
async def visits(socket):
    await socket.accept()
    await socket.send_json(socket.session["visits"])


@note_end
async def hesitant(socket):
    """Accept only after an hour."""
    note("hesitates")
    await asyncio.sleep(3600)


@note_end
async def tardy(socket):
    """Accept once the client has left."""
    note("tarries")
    await seen_to_leave(socket)
    await socket.accept()


# --- threads and the database ------------------------------------------------------------------


def query():
    Session.objects.count()
    return threading.current_thread().name


def hold_thread():
    note("holds its thread")
    released.wait(60)
    return threading.current_thread().name


def sleep_in_database():
    from django.db import connection

    note("sleeps in the database")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(60)")


async def work(socket):
    """Do what each message asks for."""
    await socket.accept()
    async for message in socket:
        try:
            match message:
                case "orm":
                    await Session.objects.acount()
                    answer = message
                case "sync":
                    answer = await sync_to_async(query)()
                case "hold":
                    answer = await sync_to_async(hold_thread)()
                case "sleep":
                    answer = await sync_to_async(sleep_in_database)()
                case _:
                    answer = message
        except Exception as error:
            answer = type(error).__name__
        await socket.send_text(str(answer))


async def read_rows(socket, database):
    """Read a table of many rows through an alias, in chunks, and wait for the client after each."""
    await socket.accept()
    rows = 0
    async for _ in Session.objects.using(database).aiterator(chunk_size=1000):
        rows += 1
        if rows % 1000 == 0:
            await socket.send_json(rows)
            await socket.receive_text()
    await socket.send_text("all")


# --- lives -------------------------------------------------------------------------------------


@note_end
async def push(socket: WebSocket):
    await socket.accept()
    while True:
        await socket.send_text("tick")
        await asyncio.sleep(0.25)


@note_end
async def sleep(socket: WebSocket):
    await socket.accept()
    await socket.send_text("asleep")
    await asyncio.sleep(3600)


@note_end
async def nap(socket: WebSocket):
    """Sleep over the first message, while others come."""
    await socket.accept()
    await socket.receive_text()
    await asyncio.sleep(3600)


@note_end
async def wait(socket: WebSocket):
    await socket.accept()
    await socket.send_text("waits")
    await asyncio.Queue().get()


@note_end
async def thread(socket: WebSocket):
    await socket.accept()
    while True:
        await sync_to_async(time.sleep)(0.02)


@note_end
async def flood(socket: WebSocket):
    await socket.accept()
    while True:
        await socket.send_bytes(bytes(2**16))


async def give(socket: WebSocket):
    """Send a large message, and be done."""
    await socket.accept()
    await socket.send_bytes(bytes(12 * 2**20))


@note_end
async def blocked(socket: WebSocket):
    """Read while the client is sent more than it takes."""
    assert socket.user.is_authenticated
    await socket.accept()

    async def flood():
        while True:
            sending = asyncio.ensure_future(socket.send_bytes(bytes(2**16)))
            if not (await asyncio.wait([sending], timeout=0.5))[0]:
                note("the client takes no more")
            await sending

    socket.start(flood())
    async for message in socket:
        note(f"received {message}")


async def seen_to_leave(socket):
    while socket.client_state is not State.DISCONNECTED:
        await asyncio.sleep(0.01)


async def busy(socket: WebSocket):
    await socket.accept()
    await socket.receive_text()
    await seen_to_leave(socket)
    await asyncio.sleep(0.1)
    note("busy no more")


async def late(socket: WebSocket):
    await socket.accept()
    await seen_to_leave(socket)
    try:
        while True:
            note(f"late: {await socket.receive_text()}")
    except WebSocketDisconnect as gone:
        note(f"late: {gone.code} {gone.reason}")


async def chat(socket: WebSocket):
    """Push while waiting for the client."""
    await socket.accept()

    async def push():
        number = 0
        try:
            while True:
                number += 1
                await socket.send_json(number)
                await asyncio.sleep(0.05)
        finally:
            note("push ended")

    socket.start(push())
    try:
        async for message in socket:
            if message == "enough":
                return
            await socket.send_message(message)
    finally:
        note("view ended")


@note_end
async def read(socket: WebSocket):
    await socket.accept()
    async for message in socket:
        note(f"read: {message[:20]!r}")


@note_end
async def two_ways(socket: WebSocket):
    """Receive and push in a task group of the view's own, which wraps what its tasks raise."""
    await socket.accept()

    async def receive():
        while True:
            await socket.receive_text()

    async def push():
        while True:
            await socket.send_text("tick")
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive())
        tasks.create_task(push())


class Upper(WebSocket):
    """A socket with a method of its own, as in code that was written for the recipe."""

    async def shout(self, text):
        await self.send_text(text.upper())


async def subclass(socket):
    upper = Upper(socket.scope, socket._receive, socket._send)
    await upper.accept()
    async for message in upper:
        await upper.shout(message)


# --- errors ------------------------------------------------------------------------------------


def note_error(request=None, **kwargs):
    note(f"got_request_exception {request.path}")


got_request_exception.connect(note_error, dispatch_uid="testsite")


async def fail_before(socket):
    raise ValueError("failed before the accept")


async def fail_after(socket):
    await socket.accept()
    raise ValueError("failed after the accept")


async def fail_in_task(socket):
    await socket.accept()

    async def fail():
        raise ValueError("failed in a task")

    socket.start(fail())
    await asyncio.sleep(3600)


async def fail_by_cancelled(socket):
    """Await what was cancelled, while the view itself was not."""
    await socket.accept()
    task = socket.start(asyncio.sleep(3600))
    task.cancel()
    await task


async def fail_in_finally(socket):
    await socket.accept()
    try:
        await asyncio.sleep(3600)
    finally:
        raise ValueError("failed in finally")


def failing(view):
    @functools.wraps(view)
    def wrapper(socket):
        raise ValueError("failed in a decorator")

    return wrapper


def failing_async(view):
    @functools.wraps(view)
    async def wrapper(socket):
        await view(socket)
        raise ValueError("failed in an async decorator")

    return wrapper


@failing
async def fail_in_decorator(socket):
    await socket.accept()


@failing_async
async def fail_in_async_decorator(socket):
    await socket.accept()
