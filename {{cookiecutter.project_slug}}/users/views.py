"""The index page, and the sockets that it talks to."""

import asyncio
from typing import Any

from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from django.views.generic import TemplateView

from websocket.connection import WebSocket


class IndexView(TemplateView):
    """A page that shows an echo and a clock at work, with links to the rest."""

    template_name = "index.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        links = []
        # jinja: if cookiecutter.chat_example
        links.append(("Chat", reverse("chat:rooms"), "rooms, logins and stored messages"))
        # jinja: endif
        if settings.DEBUG:
            links.append(("Console", reverse("echo"), "try a socket by hand, frame by frame"))
        links.append(("Admin", reverse("admin:index"), "users, and what else you register"))
        return super().get_context_data(project_name=settings.PROJECT_NAME, links=links, **kwargs)


async def echo(socket: WebSocket) -> None:
    """Send every message back as it came: text as text, bytes as bytes."""
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


async def clock(socket: WebSocket) -> None:
    """Push the time and the user's name every second, while the client says nothing."""
    await socket.accept()
    user = socket.user.get_username()
    while True:
        await socket.send_json({"time": timezone.now(), "user": user})
        await asyncio.sleep(1)
