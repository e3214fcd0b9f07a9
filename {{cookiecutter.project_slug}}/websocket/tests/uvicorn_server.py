"""A real uvicorn in the tests' own event loop, and a client that talks to it in bytes."""

import asyncio
import os
import socket
from base64 import b64encode
from contextlib import asynccontextmanager

import uvicorn


@asynccontextmanager
async def uvicorn_serves(application, **options):
    """Serve an ASGI application, and yield the server and its port."""
    options = {"interface": "asgi3", "lifespan": "off", "log_config": None, **options}
    config = uvicorn.Config(application, **options)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        async with asyncio.timeout(20):
            yield server, listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def connect(port, *headers):
    """Ask for a WebSocket, and return the connection's streams."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = (
        b"GET /ws/ HTTP/1.1",
        b"Host: localhost",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + b64encode(os.urandom(16)),
        *headers,
    )
    writer.write(b"".join(line + b"\r\n" for line in (*lines, b"")))
    return reader, writer


async def open_socket(port, *headers):
    """Open a WebSocket, and return the connection's streams."""
    reader, writer = await connect(port, *headers)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def until_left(receive):
    """Receive until the client has left."""
    while (await receive())["type"] != "websocket.disconnect":
        pass


def frame(opcode, data=b"", fin=True):
    """Return a short frame as a client sends it (RFC 6455, section 5.2), masked with zeros."""
    return bytes([fin << 7 | opcode, 0x80 | len(data)]) + bytes(4) + data
