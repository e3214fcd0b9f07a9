"""Clients that break the rules: they harm nobody but themselves, and leave no traceback."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import IS_FAST, Project, Server
from sites import RawClient, frame, get, logging, peak_memory, serving

TEXT, BINARY, CONTINUATION, CLOSE, PING = 1, 2, 0, 8, 9

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")

HIDDEN = " stands between uvicorn and the sockets"


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project, tmp_path_factory.mktemp("site")) as server:
        yield server
        assert "Traceback" not in server.log(), server.log()
        assert HIDDEN not in server.log()


def request(server: Server, path: str, *headers: str, then: bytes = b"") -> bytes:
    """Return the head of the answer to a request that asks for a socket, with these headers."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        *headers,
        "",
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall("".join(f"{line}\r\n" for line in lines).encode("latin-1") + then)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while b"\r\n\r\n" not in answer and (chunk := client.recv(2**16)):
                answer += chunk
    return answer


# --- the log -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("ok", UPGRADE),
        ("bad", UPGRADE),
        ("forbidden", UPGRADE),
        ("foreign", (*UPGRADE, "Origin: https://evil.example")),
        ("plain", ()),
        ("upgrade-without-connection", ("Upgrade: websocket",)),
        ("connection-without-upgrade", ("Connection: upgrade",)),
    ],
)
def test_a_path_with_a_line_break_forges_no_line_of_the_log(
    server: Server, name: str, headers: tuple[str, ...]
) -> None:
    before = len(server.lines)
    assert request(server, f"/named/{name}%0d%0aFORGED%E2%80%A8FORGED%C2%85FORGED/", *headers)
    assert request(server, f"/end-of-{name}", *UPGRADE).startswith(b"HTTP/1.1 404 ")
    server.wait_for(f"/end-of-{name}", since=before)
    lines = "".join(server.lines[before:]).splitlines()
    assert any(name in line for line in lines)
    assert not [line for line in lines if line.startswith("FORGED")]


# --- handshakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [[f"Cookie: a={'x' * 9000}"], [f"X-{n}: x" for n in range(200)]],
    ids=["long", "many"],
)
def test_a_handshake_may_have_headers_as_long_and_as_many_as_a_page(
    server: Server, headers: list[str]
) -> None:
    assert request(server, "/echo/", *UPGRADE, *headers).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("header", "body", "status"),
    [
        ("Content-Length: 5", b"hello", 400),
        ("Transfer-Encoding: chunked", b"0\r\n\r\n", 400),
        (f"Cookie: a={'x' * 2**20}", b"", 431),
    ],
    ids=["body", "chunks", "too long"],
)
def test_a_handshake_that_the_server_cannot_read_is_answered_all_the_same(
    server: Server, header: str, body: bytes, status: int
) -> None:
    with logging(server, f"A handshake from 127.0.0.1 was refused: {status}"):
        answer = request(server, "/echo/", *UPGRADE, header, then=body)
    assert answer.startswith(b"HTTP/1.1 %d " % status)


EARLY = {
    "garbage": b"\xff" * 64,
    "reserved bits": b"\xf1\x80" + bytes(4),
    "no mask": frame(TEXT, b"hello", masked=False),
    "a continuation of nothing": frame(CONTINUATION, b"hello"),
    "no UTF-8": frame(TEXT, b"\xff"),
    "a close with a bad code": frame(CLOSE, b"\x00\x01"),
    "a close": frame(CLOSE, b"\x03\xe8"),
    "pings": frame(PING, b"hello") * 100,
    "text": frame(TEXT, b"hello") * 100,
}


@pytest.mark.parametrize("data", EARLY.values(), ids=EARLY)
def test_what_comes_before_the_answer_is_read_after_it(server: Server, data: bytes) -> None:
    for path, status in (("/echo/", 101), ("/sluggish/", 101), ("/unavailable/", 503), ("/", 404)):
        client = RawClient(server, path, handshake=False)
        get(f"{server.url}/state/")  # By now the handshake has been read.
        client.send(data + frame(CLOSE, b"\x03\xe8"))
        answer = client.read_to_end()
        # One that is refused with data on its way may see nothing but a reset.
        assert answer.startswith(b"HTTP/1.1 %d " % status) or (status > 101 and not answer)
        client.close()


# --- floods ------------------------------------------------------------------------------------

START = frame(TEXT, b"a", fin=False)
# Some MiB of pings fill the system's buffers first.
PINGS = [frame(PING, bytes(125)) * 1000] * 1000
EMPTY = [START, frame(CONTINUATION, b"", fin=False) * 70_000]
SHORT = [START, frame(CONTINUATION, b"b", fin=False) * 70_000]
FLOODS = {
    "pings": ("sleep", PINGS),
    "pings after the close": ("named/ok", PINGS),
    "empty fragments": ("echo", EMPTY),
    "empty fragments after the close": ("named/ok", EMPTY),
    "short fragments": ("echo", SHORT),
}


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="only Linux tells what a process uses")
@pytest.mark.parametrize(("view", "chunks"), FLOODS.values(), ids=FLOODS)
def test_a_client_that_floods_and_does_not_read_is_dropped(
    server: Server, view: str, chunks: list[bytes]
) -> None:
    before = peak_memory(server, reset=True)
    client = RawClient(server, f"/{view}/")
    errors = (BrokenPipeError, ConnectionResetError)
    # websocket.fast reads pings, and what comes after its close, without keeping anything.
    is_harmless = IS_FAST and view in ("sleep", "named/ok")
    with contextlib.suppress(*errors) if is_harmless else pytest.raises(errors):
        for chunk in chunks:
            client.send(chunk)
        while not is_harmless and client.socket.recv(2**16):  # The close, for those who wait.
            pass
    assert peak_memory(server) - before < 64 * 2**20
    client.close()


# --- an ASGI middleware that hides the connection ----------------------------------------------


class WrappedServer(Server):
    def command(self) -> list[str]:
        return ["testsite.wrapped:application" if a == APP else a for a in super().command()]


APP = "project.asgi:application"


def test_an_asgi_middleware_that_hides_the_connection_is_named_once(
    project: Project, tmp_path: Path
) -> None:
    with serving(project, tmp_path, kind=WrappedServer) as server:
        for _ in range(3):
            client = RawClient(server, "/echo/")
            client.send(frame(TEXT, b"hello"))
            assert client.socket.recv(7, socket.MSG_WAITALL) == b"\x81\x05hello"
            client.close()
        assert server.log().count(HIDDEN) == 1
        assert f"Timing.__call__.<locals>.timed_send{HIDDEN}" in server.log()
