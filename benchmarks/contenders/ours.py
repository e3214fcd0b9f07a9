"""The rendered project's URLs, its echo view among them, and more views, for groups.

Served as `project.asgi:application`, as the project's README says. VARIANT, a setting, chooses what
the views use: history, presence, own (`socket.<id>`), login, group, or all.
"""

from django.conf import settings
from project.urls import urlpatterns as project_urlpatterns
from websocket.connection import WebSocket
from websocket.groups import apublish
from websocket.urls import websocket

PRESENCE = {"presence": {"name": "visitor"}} if settings.VARIANT in ("presence", "all") else {}

#: What is published to.
target = "room"


async def join(socket: WebSocket, room: str = "room") -> None:
    """Join a room, and say so unless the client has all that was published; echo the rest."""
    await socket.accept()
    if not await socket.join(room, **PRESENCE):
        await socket.send_text("joined")
    async for message in socket:
        await socket.send_message(message)


async def own(socket: WebSocket) -> None:
    """Be reached by the socket's id alone."""
    global target
    await socket.accept()
    target = f"socket.{socket.id}"
    await socket.send_text("joined")
    async for _ in socket:
        pass


async def idle(socket: WebSocket, room: str) -> None:
    """Be logged in, in a group, or both, and do nothing."""
    await socket.accept()
    if settings.VARIANT in ("login", "all") and not socket.user.is_authenticated:
        raise RuntimeError("Nobody is logged in.")
    if settings.VARIANT in ("group", "all"):
        await socket.join(room, **PRESENCE)
    await socket.send_text("joined")
    async for _ in socket:
        pass


async def publish(socket: WebSocket) -> None:
    await socket.accept()
    async for message in socket:
        await apublish(target, message)


urlpatterns = [
    *project_urlpatterns,
    websocket("idle/<str:room>/", idle),
    websocket("join/", own if settings.VARIANT == "own" else join),
    websocket("join/<str:room>/", join),
    websocket("publish/", publish),
]
