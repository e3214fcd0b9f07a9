"""The rendered project's URLs, its echo view among them, and two views more, for groups.

Served as `project.asgi:application`, as the project's README says.
"""

from project.urls import urlpatterns as project_urlpatterns
from websocket.connection import WebSocket
from websocket.groups import apublish
from websocket.urls import websocket


async def join(socket: WebSocket) -> None:
    await socket.accept()
    await socket.join("room")
    await socket.send_text("joined")
    async for _ in socket:
        pass


async def publish(socket: WebSocket) -> None:
    await socket.accept()
    async for message in socket:
        await apublish("room", message)


urlpatterns = [
    *project_urlpatterns,
    websocket("join/", join),
    websocket("publish/", publish),
]
