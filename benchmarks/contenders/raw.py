"""Plain ASGI: nothing stands between the code and the server. The limit for all others."""

from typing import Any

members: set[Any] = set()


async def echo(receive: Any, send: Any) -> None:
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def join(receive: Any, send: Any) -> None:
    members.add(send)
    await send({"type": "websocket.send", "text": "joined"})
    while (await receive())["type"] == "websocket.receive":
        pass
    members.discard(send)


async def publish(receive: Any, send: Any) -> None:
    while (event := await receive())["type"] == "websocket.receive":
        message = {"type": "websocket.send", "text": event["text"]}
        for member in list(members):
            await member(message)


views = {"/ws/": echo, "/join/": join, "/publish/": publish}


async def application(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    await receive()  # The connect.
    await send({"type": "websocket.accept"})
    await views[scope["path"]](receive, send)
