"""Rooms to listen in, ways to publish to them, and a page that tells about the process."""

import asyncio
import os
import re
import time
from pathlib import Path

from django.contrib.auth import get_user_model, login, logout
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, JsonResponse
from django.urls import path
from websocket.groups import PublishError, apublish, counters, get_hub, publish
from websocket.urls import websocket


def text(number, size):
    """Return the text of a message: its number, and what makes it as long as it is to be."""
    return f"{number:06}".ljust(size, ".")


async def room(socket, name):
    """Join a room and tell so, and by which process; then wait for the client to leave."""
    await socket.accept()
    await socket.join(name)
    await socket.send_text(f"{os.getpid():08}")
    async for _ in socket:
        pass


async def sleepy(socket, name):
    """Join a room, and never look at the client again."""
    await socket.accept()
    await socket.join(name)
    await socket.send_text(f"{os.getpid():08}")
    try:
        await asyncio.sleep(3600)
    finally:
        print("sleepy ended", flush=True)


async def members(socket):
    """Join a room, as a user."""
    assert socket.user.is_authenticated
    await room(socket, "members")


@login_required
async def alone(socket):
    """Join no room."""
    await socket.accept()
    async for _ in socket:
        pass


async def speaker(socket, name):
    """Publish as many messages as the client asks for, and tell when they are."""
    await socket.accept()
    async for start, count, size in socket.iter_json():
        for number in range(start, start + count):
            await apublish(name, text(number, size))
        await socket.send_text("published")


async def load(socket, name):
    """Publish without end, and tell of each message how that went, and how long it took."""
    await socket.accept()
    number = 0
    while True:
        start = time.monotonic()
        try:
            await apublish(name, text(number, 6))
            went = "well"
        except PublishError:
            went = "wrong"
        await socket.send_json([went, time.monotonic() - start])
        number += 1
        await asyncio.sleep(0.01)


async def echo(socket):
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


def publish_in_thread(request, name, count, size):
    """Publish many messages from sync code, without a pause."""
    for number in range(count):
        publish(name, text(number, size))
    return HttpResponse()


async def publish_in_loop(request, name, count, size):
    """Publish many messages in async code by what is for sync code, without a pause."""
    for number in range(count):
        publish(name, text(number, size))
    return HttpResponse()


async def state(request):
    """Tell about this process: its memory in bytes, its groups, its counters."""
    memory = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return JsonResponse(
        {
            "counters": counters,
            "members": {
                name: len(members) for name, members in get_hub().members.items() if name != "@auth"
            },
            "memory": int(memory[1]) * 1024,
        }
    )


def log_in(request, name):
    """Log a user in, without a password."""
    user, _ = get_user_model().objects.get_or_create(username=name)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse()


def log_out(request):
    logout(request)
    return HttpResponse()


urlpatterns = [
    websocket("alone/", alone),
    websocket("echo/", echo),
    websocket("load/<name>/", load),
    websocket("members/", members),
    websocket("room/<name>/", room),
    websocket("sleepy/<name>/", sleepy),
    websocket("speaker/<name>/", speaker),
    path("log-in/<name>/", log_in),
    path("log-out/", log_out),
    path("loop/<name>/<int:count>/<int:size>/", publish_in_loop),
    path("state/", state),
    path("thread/<name>/<int:count>/<int:size>/", publish_in_thread),
]
