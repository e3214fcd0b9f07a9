"""Clients that break the rules: they harm nobody but themselves, and leave no traceback."""

import contextlib
import socket
from collections.abc import Iterator

import pytest
from conftest import Project, Server
from sites import serving

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project, tmp_path_factory.mktemp("site")) as server:
        yield server
        assert "Traceback" not in server.log(), server.log()


def request(server: Server, path: str, *headers: str) -> bytes:
    """Return the whole answer to a request that asks for a socket, with more headers or fewer."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        *headers,
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"))
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
