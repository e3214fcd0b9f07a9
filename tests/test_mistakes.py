"""Mistakes that newcomers make: each gets one sentence in the log, which names the fix."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Project, Server
from sites import TESTS, catch_up, logging, serving
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

# --- what stops the start ----------------------------------------------------------------------

STARTS = {
    "a setting out of range": (
        {"DJANGO_SETTINGS_MODULE": "testsite.settings", "WEBSOCKET_THREADS": "0"},
        "WEBSOCKET_THREADS is 0: it has to be a whole number, 1 or more.",
    ),
    "Redis without its package": (
        {"DJANGO_SETTINGS_MODULE": "mistakesite.without_redis", "REDIS_URL": "redis://127.0.0.1"},
        "WEBSOCKET_REDIS_URL (REDIS_URL in the environment) is set, but the package redis is not "
        "installed: pip install -e '.[redis]'",
    ),
    "Redis without its scheme": (
        {"REDIS_URL": "127.0.0.1:6379"},
        "WEBSOCKET_REDIS_URL (REDIS_URL in the environment) is not a URL such as "
        "redis://localhost:6379/0, in which a password is percent-encoded.",
    ),
}


@pytest.mark.parametrize("mistake", STARTS)
def test_the_server_does_not_start_and_the_last_line_says_why(
    project: Project, mistake: str
) -> None:
    env, sentence = STARTS[mistake]
    assert last_line_of_start(project, **env) == sentence


def test_without_a_key_the_last_line_tells_of_debug_and_of_the_file_env(workshop: Project) -> None:
    (workshop.path / ".env").unlink()
    assert last_line_of_start(workshop) == (
        "SECRET_KEY is not set, and DEBUG is off: to develop, write DEBUG=true to the file .env; "
        "to deploy, set SECRET_KEY in the environment (.env.example has the rest)."
    )


def last_line_of_start(project: Project, **env: str) -> str:
    env = {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1", **env}
    command = ("-m", "uvicorn", "project.asgi:application", "--port", "0")
    result = project.run(*command, check=False, env={**project.env, **env}, timeout=60)
    assert result.returncode != 0
    error, _, sentence = result.stderr.strip().splitlines()[-1].partition(": ")
    assert error == "django.core.exceptions.ImproperlyConfigured"
    return sentence


# --- what the server logs once it runs ---------------------------------------------------------

NOT_WITH_PATH = "Mount a socket view with websocket(), not with path()."
PAGE = (
    "WARNING django.websocket: The handshake at /{}/ was answered with a page (status 200): mount "
    "a page's view with path(), not with websocket(), and refuse a handshake with an error "
    "status."
)

ACCEPT = "while the connection is CONNECTING: call `await socket.accept()` first."
CODE = (
    "is not a close code that can be sent: use 1000 to 1003, 1007 to 1014, or one from 3000 to "
    "4999."
)

# What the log says of each mistake of mistakesite/views.py, when a client opens a socket there,
# and when a browser opens it as a page.
OPENED = {
    "mounted_with_path/": "WARNING django.websocket: No socket at /mounted_with_path/: mount "
    "mistakesite.views.mounted_with_path with websocket(), not with path(), if it is a socket "
    "view.",
    "page/": PAGE.format("page"),
    "async_page/": PAGE.format("async_page"),
    "page_with_a_form/": "A socket is not a request: use `socket.request`, or mount a page's view "
    "with path().",
    "not_async/": "TypeError: The socket view mistakesite.views.not_async returned None: is it "
    "async? (It must not yield: send with `await socket.send_text()`.)",
    "sends_a_str/": "TypeError: send() takes an ASGI event with a type, not 'hello': to send a "
    "message, use send_text(), send_bytes() or send_json().",
    "sends_a_dict_as_text/": "TypeError: send_text() takes a str, not a dict: use send_json().",
    "sends_bytes_as_text/": "TypeError: send_text() takes a str, not a bytes: use send_bytes().",
    "sends_a_dict_as_bytes/": "TypeError: A message is a str or bytes, not a dict: to send JSON, "
    "use send_json().",
    "forgets_to_accept/": f"RuntimeError: Cannot send 'websocket.send' {ACCEPT}",
    "forgets_to_accept_and_receives/": f"RuntimeError: Cannot receive a message {ACCEPT}",
    "forgets_to_await_the_accept/": f"RuntimeError: Cannot send 'websocket.send' {ACCEPT}",
    "joins_before_the_accept/": f"RuntimeError: Cannot join a group {ACCEPT}",
    "returns_without_an_accept/": "RuntimeError: The view returned without accepting or refusing "
    "its socket: call `await socket.accept()`, or return an HttpResponse that refuses.",
    "returns_a_response_after_the_accept/": "WARNING django.request: The view at "
    "/returns_a_response_after_the_accept/ returned a response after accept(), which no client "
    "sees: return it before, or use close() with a code.",
    "starts_a_function/": "TypeError: start() takes a coroutine, as in "
    "socket.start(tick(socket)), not a function.",
    "accepts_another_subprotocol/": "WARNING django.websocket: <WebSocket "
    "/accepts_another_subprotocol/ CONNECTING> accepts the subprotocol 'chat', which its client "
    "does not offer: a browser then closes the connection.",
    "closes_with_a_reason_alone/": f"ValueError: 'Good bye.' {CODE}",
    "closes_with_a_status/": f"ValueError: 403 {CODE}",
    "InvalidMessageWithoutAFrame/": f"ValueError: 1005 {CODE}",
    "not_async": "WARNING django.websocket: The handshake at /not_async was redirected, "
    "which no browser follows: connect to /not_async/.",
}
VISITED = {
    "mounted_with_path/": NOT_WITH_PATH,
    "ClassMountedWithPath/": "TypeError: Mount a WebSocketView with websocket(), not with path().",
}


def test_the_log_says_in_one_sentence_what_to_do(
    project: Project, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    with serving(project, tmp_path, DJANGO_SETTINGS_MODULE="mistakesite.settings") as server:
        for path, sentence in OPENED.items():
            with subtests.test(path), says_once(server, sentence):
                open_socket(server, path)
        for path, sentence in VISITED.items():
            with (
                subtests.test(path, page=True),
                says_once(server, sentence),
                suppress(urllib.error.HTTPError),
            ):
                urllib.request.urlopen(f"{server.url}/{path}", timeout=30)


def open_socket(server: Server, path: str) -> None:
    """Open a socket, send a message, and wait until the server closes the connection."""
    with suppress(InvalidHandshake, ConnectionClosed), connect(f"{server.ws}/{path}") as client:
        client.send("hello")
        while True:
            client.recv(timeout=30)


@contextmanager
def says_once(server: Server, sentence: str) -> Iterator[None]:
    """Fail unless the block makes the server log a line, once, with one traceback at the most."""
    before = len(server.lines)
    with logging(server, sentence):
        yield
    catch_up(server)
    log = "".join(server.lines[before:])
    assert log.count("Traceback") <= 1, log
    assert re.findall(r"^(?:[0-9-]+ [0-9:,]+ )?(.*)$", log, re.M).count(sentence) == 1, log
