"""Real servers of the tests' own site (testsite/), and ways to talk to them."""

import contextlib
import json
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


def handshake_of(path: str, host: str, *headers: str) -> bytes:
    """Return a request that asks for a socket (RFC 6455, section 4.1)."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


class RawClient:
    """A client that sends whatever a test wants, byte by byte."""

    def __init__(
        self, server: Server, path: str, *, cookie: str = "", handshake: bool = True
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        host = f"127.0.0.1:{server.port}"
        self.socket.sendall(handshake_of(path, host, f"Cookie: {cookie}"))
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


def peak_memory(server: Server, *, reset: bool = False) -> int:
    """Return the most bytes of memory that a server has had: as of now, with `reset`."""
    process = Path(f"/proc/{server.process.pid}")
    if reset:
        (process / "clear_refs").write_text("5")  # man 5 proc_pid_clear_refs
    status = (process / "status").read_text()
    return 1024 * next(int(row.split()[1]) for row in status.splitlines() if "VmHWM" in row)


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
