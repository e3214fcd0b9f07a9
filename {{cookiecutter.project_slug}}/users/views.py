"""The index page, and the sockets that it talks to: edit one, save, and the page shows it."""

import asyncio
import inspect
from functools import cache
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.dispatch import receiver
from django.shortcuts import resolve_url
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.views.generic import TemplateView

from users.models import Note
from websocket.connection import InvalidMessage, WebSocket
from websocket.groups import PublishError, amembers, presence_changed, publish

# The group of all who have the index page open.
WALL = "users.wall"


class IndexView(TemplateView):
    """A page that is shared and live, with links to the rest."""

    template_name = "index.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        links = []
        # jinja: if cookiecutter.chat_example
        links.append(("Chat", reverse("chat:rooms")))
        # jinja: endif
        if settings.DEBUG:
            links.append(("Console", reverse("echo")))
        links.append(("Admin", reverse("admin:index")))
        return super().get_context_data(
            project_name=settings.PROJECT_NAME,
            links=links,
            login_url=resolve_url(settings.LOGIN_URL),
            code=code_of(wall, announce, echo, clock) if settings.DEBUG else {},
            **kwargs,
        )


@cache
def code_of(*views: Any) -> dict[str, tuple[str, int]]:
    """Return the source of each view, and its first line: what runs, not what was saved since."""
    sources = {view.__name__: inspect.getsourcelines(view) for view in views}
    return {name: ("".join(lines).rstrip(), start) for name, (lines, start) in sources.items()}


async def wall(socket: WebSocket) -> None:
    """Share who is here, and short notes, with all who look."""
    await socket.accept()
    me = alias(socket.user.pk or socket.id)
    try:
        await socket.join(WALL, presence={"alias": me})
        here = [info["alias"] for info in (await amembers(WALL)).values()]
        first = {"me": me, "here": here, "notes": await notes()}
        await socket.send_json(first)
        async for text in socket.iter_text():
            # PostgreSQL does not store NUL characters.
            text = text.replace("\0", "").strip()
            if not 0 < len(text) <= 140:
                raise InvalidMessage("Send 1 to 140 characters.")
            await post(me, text)
            await asyncio.sleep(1)  # The next note waits in the browser.
    except PublishError:  # Redis is away, and the log says so.
        await socket.close(1013, "Try again later.")


@receiver(presence_changed)
def announce(group: str, info: Any, joined: bool, **kwargs: Any) -> None:
    """Tell all who look at the wall who has come or gone."""
    if group == WALL:
        publish(WALL, {"joined" if joined else "left": info["alias"]})


async def echo(socket: WebSocket) -> None:
    """Send every message back as it came: text as text, bytes as bytes."""
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


async def clock(socket: WebSocket) -> None:
    """Push the time and the user's name, while the client says nothing."""
    await socket.accept()
    user = socket.user.get_username()
    while True:
        await socket.send_json({"time": timezone.now(), "user": user})
        await asyncio.sleep(1)


def alias(key: Any) -> str:
    """Return a name for a visitor from which nobody can tell the user."""
    return salted_hmac("users.wall", str(key), algorithm="sha256").hexdigest()[:6]


@sync_to_async
def notes() -> list[dict[str, Any]]:
    return [note.as_event() for note in Note.objects.order_by("pk")]


@sync_to_async
def post(author: str, text: str) -> None:
    """Store a note and show it: once this has begun, it goes on even if its writer leaves.

    Only the last twenty are kept, because anybody can write any number of them.
    """
    note = Note.objects.create(author=author, text=text)
    Note.objects.filter(pk__lte=note.pk - 20).delete()
    publish(WALL, {"note": note.as_event()})
