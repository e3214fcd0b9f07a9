"""Mistakes that newcomers make: each gets one sentence in the log, which names the fix."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest
from conftest import Project, Server
from sites import TESTS, logging, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

# --- what stops the start ----------------------------------------------------------------------

STARTS = {
    "a setting out of range": (
        {"DJANGO_SETTINGS_MODULE": "testsite.settings", "WEBSOCKET_THREADS": "0"},
        "WEBSOCKET_THREADS is 0: it has to be a whole number, 1 or more.",
    ),
    "Redis without its package": (
        {"DJANGO_SETTINGS_MODULE": "mistakesite.without_redis", "REDIS_URL": "redis://127.0.0.1"},
        "WEBSOCKET_REDIS_URL is set, but the package redis is not installed: pip install redis.",
    ),
    "Redis without its scheme": (
        {"REDIS_URL": "127.0.0.1:6379"},
        "WEBSOCKET_REDIS_URL is not a URL such as redis://localhost:6379/0, in which a password "
        "is percent-encoded.",
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
LOGGED = {
    "ws": {
        "mounted_with_path": "WARNING django.websocket: No socket at /mounted_with_path/: mount "
        "mistakesite.views.mounted_with_path with websocket(), not with path(), if it is a socket "
        "view.",
        "page": "A socket is not a request: use `socket.request`, or mount a page's view with "
        "path().",
        "not_async": "TypeError: The socket view mistakesite.views.not_async returned None: is it "
        "async? (And without yield: it sends with `await socket.send_text()`.)",
    },
    "http": {
        "mounted_with_path": NOT_WITH_PATH,
        "ClassMountedWithPath": "TypeError: Mount a WebSocketView with websocket(), not with "
        "path().",
    },
}


@pytest.fixture(scope="module")
def site(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"DJANGO_SETTINGS_MODULE": "mistakesite.settings"}
    with serving(project, tmp_path_factory.mktemp("site"), **settings) as server:
        yield server


@pytest.mark.parametrize(
    ("scheme", "mistake"), [(scheme, mistake) for scheme in LOGGED for mistake in LOGGED[scheme]]
)
def test_the_log_has_one_sentence(site: Server, scheme: str, mistake: str) -> None:
    before = len(site.lines)
    sentence = LOGGED[scheme][mistake]
    with logging(site, sentence):
        if scheme == "ws":
            with (
                suppress(InvalidStatus, ConnectionClosed),
                connect(f"{site.ws}/{mistake}/") as client,
            ):
                client.recv(timeout=30)
        else:
            with suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"{site.url}/{mistake}/", timeout=30)
    log = "".join(site.lines[before:])
    assert log.count("Traceback") <= 1, log
    assert re.findall(r"^(?:[0-9-]+ [0-9:,]+ )?(.*)$", log, re.M).count(sentence) == 1, log
