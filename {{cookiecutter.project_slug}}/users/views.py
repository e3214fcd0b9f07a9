"""The index page, and the socket that it talks to."""

from django.conf import settings
from django.views.generic import TemplateView

from websocket.connection import WebSocket


class IndexView(TemplateView):
    """A page that sends a message every second and shows what comes back."""

    extra_context = {"project_name": settings.PROJECT_NAME}
    template_name = "index.html"


async def echo(socket: WebSocket) -> None:
    """Send every message back as it came: text as text, bytes as bytes."""
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)
