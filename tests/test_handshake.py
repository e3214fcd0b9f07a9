"""Handshakes as Django requests: refusals, cookies and middleware, seen by real clients."""

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from conftest import PATIENCE, Project, Server, trusting
from sites import catch_up, cookie_of, get, logging, quiet, serving
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PRODUCTION = {"ALLOWED_HOSTS": "127.0.0.1", "DEBUG": "false", "SECRET_KEY": "k" * 50}


@pytest.fixture(scope="module")
def site(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project, tmp_path_factory.mktemp("site")) as server:
        yield server


@pytest.fixture(scope="module")
def production(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The site as it is deployed, behind a proxy that speaks TLS."""
    folder = tmp_path_factory.mktemp("production")
    header = {"SECURE_PROXY_SSL_HEADER": "X-Forwarded-Proto"}
    with serving(project, folder, **PRODUCTION, **header) as server:
        yield server


def refusal(server: Server, path: str, **headers: str) -> tuple[HTTPResponse, bytes]:
    """Ask for a socket and return the response that refuses it, and its body."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=upgrade | names)
        response = connection.getresponse()
        return response, response.read()


def test_a_path_without_a_route_is_refused_with_djangos_404(production: Server) -> None:
    with quiet(production):
        response, body = refusal(production, "/nowhere/", X_Forwarded_Proto="https")
    assert response.status == 404
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"<title>Not Found</title>" in body


def test_permission_denied_in_a_view_refuses_with_djangos_403(production: Server) -> None:
    with quiet(production), logging(production, "WebSocket /forbidden/ 127.0.0.1 - refused: 403"):
        response, body = refusal(production, "/forbidden/", X_Forwarded_Proto="https")
    assert response.status == 403
    # What the middleware put on it is there too, so it went all the way through.
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert b"<h1>403 Forbidden</h1>" in body


def test_login_required_sends_a_stranger_to_the_login_page(site: Server) -> None:
    with quiet(site):
        response, _ = refusal(site, "/members/?a=1")
    assert response.status == 302
    assert response.headers["Location"] == "/log-in/?next=/members/%3Fa%3D1"


@pytest.mark.parametrize("implementation", ["websockets-sansio", "websockets"])
def test_a_browser_is_told_by_a_close_why_it_is_refused(
    project: Project, tmp_path: Path, implementation: str
) -> None:
    with serving(project, tmp_path, "--ws", implementation) as server:
        for path, origin, status, code, reason in (
            ("/forbidden/", server.url, 403, 3003, "Forbidden"),
            ("/members/", server.url, 302, 3000, "Log in first."),
        ):
            line = f"WebSocket {path} 127.0.0.1 - refused: {status}"
            with (
                quiet(server),
                logging(server, line),
                connect(f"{server.ws}{path}", origin=origin, subprotocols=["v1"]) as client,
            ):
                with pytest.raises(ConnectionClosed) as closed:
                    client.recv(timeout=30)
                assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)
            # Another origin's page learns nothing, and no browser gets the response.
            with pytest.raises(InvalidStatus) as refused:
                connect(f"{server.ws}{path}", origin="https://elsewhere.example").__enter__()
            assert refused.value.response.status_code == 403
            response, _ = refusal(server, path)
            assert response.status == status


def test_login_required_lets_a_user_in(site: Server) -> None:
    cookie = cookie_of(site, "ada")
    with connect(f"{site.ws}/members/", additional_headers={"Cookie": cookie}) as client:
        assert client.recv(timeout=30) == "ada"


def test_a_host_that_is_not_allowed_is_refused_with_400(production: Server) -> None:
    with quiet(production):
        response, body = refusal(production, "/echo/", Host="example.com")
    assert response.status == 400
    assert b"<h1>Bad Request (400)</h1>" in body


def test_ssl_redirect_refuses_ws_with_301(production: Server) -> None:
    with quiet(production):
        response, _ = refusal(production, "/echo/?a=1")
    assert response.status == 301
    assert response.headers["Location"] == f"https://127.0.0.1:{production.port}/echo/?a=1"


def test_ssl_redirect_lets_wss_behind_a_proxy_through(production: Server) -> None:
    headers = {"X-Forwarded-Proto": "https"}
    with connect(f"{production.ws}/echo/", additional_headers=headers) as client:
        client.send("hello")
        assert client.recv(timeout=30) == "hello"


def test_ssl_redirect_lets_wss_through(project: Project, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    args = ("--ssl-keyfile", str(key), "--ssl-certfile", str(certificate))
    trust = trusting(certificate)
    with (
        serving(project, tmp_path, *args, **PRODUCTION) as server,
        connect(f"wss://127.0.0.1:{server.port}/echo/", ssl=trust, open_timeout=PATIENCE) as client,
    ):
        client.send("hello")
        assert client.recv(timeout=30) == "hello"


def test_a_view_refuses_with_the_response_that_it_returns(site: Server) -> None:
    with quiet(site):
        response, body = refusal(site, "/unavailable/")
    assert (response.status, body) == (503, b"Come again.")
    assert response.headers["Retry-After"] == "7"
    assert response.headers["Content-Type"] == "text/plain"


@pytest.mark.parametrize("path", ["streamed", "streamed_async"])
def test_a_streamed_refusal_reaches_the_client_whole(site: Server, path: str) -> None:
    with quiet(site):
        response, body = refusal(site, f"/{path}/")
    assert (response.status, body) == (403, b"one two three")


@pytest.mark.parametrize("path", ["unrenderable", "unreadable"])
def test_a_refusal_that_fails_is_djangos_500_and_reported_once(site: Server, path: str) -> None:
    before = len(site.lines)
    response, body = refusal(site, f"/{path}/")
    assert (response.status, b" at /" in body) == (500, True)  # The page of DEBUG.
    catch_up(site)
    log = "".join(site.lines[before:])
    assert log.count(f"Internal Server Error: /{path}/") == log.count("Traceback") == 1, log
    assert log.count(f"got_request_exception /{path}/") == 1, log


def test_a_session_made_at_the_handshake_sets_its_cookie_on_the_accept(site: Server) -> None:
    with connect(f"{site.ws}/visits/") as client:
        assert client.recv(timeout=30) == "1"
        cookies = client.response.headers.get_all("Set-Cookie")
    (cookie,) = (cookie for cookie in cookies if cookie.startswith("sessionid="))
    headers = {"Cookie": cookie.partition(";")[0]}
    with connect(f"{site.ws}/visits/", additional_headers=headers) as client:
        assert client.recv(timeout=30) == "2"


def test_a_server_without_denial_responses_closes_the_handshake(
    serve: Callable[..., Server], workshop: Project
) -> None:
    asgi = workshop.path / "project" / "asgi.py"
    asgi.write_text(
        asgi.read_text()
        + "whole = application\n\n\n"
        + "async def application(scope, receive, send):\n"
        + "    await whole({**scope, 'extensions': {}}, receive, send)\n"
    )
    server = serve(path=workshop.path)
    with quiet(server):
        response, body = refusal(server, "/nowhere/")
    assert (response.status, body) == (403, b"")


def test_middleware_of_every_kind_runs_once_and_has_ended_while_the_socket_is_open(
    site: Server,
) -> None:
    sockets = 500

    async def hold() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(120):
                # A few at first: their threads and what they import are there then.
                for count in (16, sockets):
                    before = await asyncio.to_thread(get, f"{site.url}/state/")
                    gate = asyncio.Semaphore(50)

                    async def open_one(gate: asyncio.Semaphore = gate) -> None:
                        async with gate:
                            client = await async_connect(
                                f"{site.ws}/echo/",
                                compression=None,
                                open_timeout=60,
                                ping_interval=None,
                            )
                            stack.push_async_callback(client.close)

                    await asyncio.gather(*(open_one() for _ in range(count)))
                # A task for each socket, which is the server's own; others have come to their end.
                async with asyncio.timeout(PATIENCE):
                    while True:
                        after = await asyncio.to_thread(get, f"{site.url}/state/")
                        if after["tasks"] - before["tasks"] == sockets:
                            break
                for kind in ("sync", "async", "both"):
                    for counts in ("entered", "left"):
                        ran = after[counts][kind] - before[counts].get(kind, 0)
                        assert ran == sockets, f"{kind} middleware {counts} {ran} times"
                # And a thread for none: if handshakes are slow, they have some more.
                new = set(after["threads"]) - set(before["threads"])
                others = [name for name in new if not name.startswith(("handshake-", "websocket-"))]
                assert len(after["threads"]) < sockets
                assert len(others) <= 1, others

    with quiet(site):
        asyncio.run(hold())
