"""Starlette, as its documentation shows it."""

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

members: set[WebSocket] = set()


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def join(websocket: WebSocket) -> None:
    await websocket.accept()
    members.add(websocket)
    await websocket.send_text("joined")
    async for _ in websocket.iter_text():
        pass
    members.discard(websocket)


async def publish(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        for member in list(members):
            await member.send_text(text)


application = Starlette(
    routes=[
        WebSocketRoute("/ws/", echo),
        WebSocketRoute("/join/", join),
        WebSocketRoute("/publish/", publish),
    ]
)
