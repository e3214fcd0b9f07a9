"""Real servers of the tests' own site (testsite/), and ways to talk to them."""

import base64
import contextlib
import json
import os
import shutil
import socket
import struct
import urllib.request
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from conftest import Project, Server

TESTS = Path(__file__).resolve().parent


@contextlib.contextmanager
def serving(
    project: Project, folder: Path, *args: str, kind: type[Server] = Server, **env: str
) -> Iterator[Server]:
    """Serve the site with a database of its own; at the end it has to stop in time.

    Its log may hold errors: `quiet()` tells where none are wanted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = shutil.copy(project.path / "db.sqlite3", folder / "site.sqlite3")
    site = {
        "DATABASE_URL": f"sqlite:///{database}",
        "DJANGO_SETTINGS_MODULE": "testsite.settings",
        "PYTHONPATH": str(TESTS),
        "PYTHONDONTWRITEBYTECODE": "1",
        **env,
    }
    server = kind(project, args, site)
    try:
        yield server
        if server.process.poll() is None:
            server.stop(timeout=10)
    finally:
        server.kill()


@contextlib.contextmanager
def quiet(server: Server, *, tracebacks: int = 0) -> Iterator[None]:
    """Fail where the block makes the server log an error, or another number of tracebacks."""
    before = len(server.lines)
    yield
    if server.process.poll() is None:
        catch_up(server)
    log = "".join(server.lines[before:])
    assert "ERROR" not in log and log.count("Traceback") == tracebacks, log


def catch_up(server: Server) -> None:
    """Wait until all that the server has logged so far is here."""
    marker = uuid.uuid4().hex
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", f"/{marker}")
        connection.getresponse().read()
    server.wait_for(marker, timeout=30)


@contextlib.contextmanager
def logging(server: Server, text: str, times: int = 1) -> Iterator[None]:
    """Wait at the end of the block until the server has logged a text so often since its start."""
    before = server.log().count(text)
    yield
    server.wait_for(text, times=before + times, timeout=30)


def get(url: str) -> Any:
    """Return what a page of the site answers: of JSON, the value."""
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.loads(response.read() or "null")


def cookie_of(server: Server, name: str) -> str:
    """Log a user in and return the cookie."""
    with urllib.request.urlopen(f"{server.url}/log-in/{name}/", timeout=30) as response:
        cookies = response.headers.get_all("Set-Cookie")
    return next(cookie.partition(";")[0] for cookie in cookies if cookie.startswith("sessionid="))


class RawClient:
    """A client that sends whatever a test wants, byte by byte."""

    def __init__(
        self, server: Server, path: str, *, cookie: str = "", handshake: bool = True
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{server.port}\r\n"
            f"Cookie: {cookie}\r\n"
            "Connection: Upgrade\r\n"
            "Upgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            "\r\n".encode()
        )
        if handshake:
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += self.socket.recv(1)
            assert answer.startswith(b"HTTP/1.1 101 "), answer

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_to_end(self) -> bytes:
        """Return all that the server still sends."""
        chunks = []
        with contextlib.suppress(ConnectionResetError):
            while chunk := self.socket.recv(2**16):
                chunks.append(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Leave as a host does that forgot the connection: with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def frame(opcode: int, data: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    """Return a frame as a client sends it (RFC 6455, section 5.2), masked with zeros."""
    head = bytes([fin << 7 | opcode])
    mask = masked << 7
    if len(data) < 126:
        head += bytes([mask | len(data)])
    elif len(data) < 2**16:
        head += bytes([mask | 126]) + struct.pack("!H", len(data))
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", len(data))
    return head + (bytes(4) if masked else b"") + data
