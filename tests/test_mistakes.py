"""Mistakes that newcomers make: each gets one sentence in the log, which names the fix."""

import os
import re
import socket
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

IMPROPERLY = "django.core.exceptions.ImproperlyConfigured: "
SETTING = "WEBSOCKET_REDIS_URL (REDIS_URL in the environment) is"

# The environment of a server that does not start, and the last line that it prints.
SETTINGS = {
    "a setting out of range": (
        {"DJANGO_SETTINGS_MODULE": "testsite.settings", "WEBSOCKET_THREADS": "0"},
        f"{IMPROPERLY}WEBSOCKET_THREADS is 0: it has to be a whole number, 1 or more.",
    ),
    "Redis without its package": (
        {"DJANGO_SETTINGS_MODULE": "mistakesite.without_redis", "REDIS_URL": "redis://127.0.0.1"},
        f"{IMPROPERLY}{SETTING} set, but the package redis is not installed: pip install -e "
        "'.[redis]'",
    ),
    "Redis without its scheme": (
        {"REDIS_URL": "127.0.0.1:6379"},
        f"{IMPROPERLY}{SETTING} not a URL such as redis://localhost:6379/0, in which a password is "
        "percent-encoded.",
    ),
    "the app not in INSTALLED_APPS": (
        {"DJANGO_SETTINGS_MODULE": "mistakesite.without_app"},
        f'{IMPROPERLY}INSTALLED_APPS lacks "websocket": a logout would not close sockets.',
    ),
}

# What uvicorn is told to serve.
COMMANDS = {
    "project.asgi": 'Import string "project.asgi" must be in format "<module>:<attribute>".',
    "project.asgi:app": 'Attribute "app" not found in module "project.asgi".',
    "project.wsgi:application": 'Could not import module "project.wsgi".',
}

# The last line of a URLconf, and how the last line of the server begins.
URLCONFS = {
    "from users.views import eko": "ImportError: cannot import name 'eko' from 'users.views'",
    "urlpatterns = [websockets('ws/', echo)]": "NameError: name 'websockets' is not defined",
    "urlpatterns = [websocket('ws/' echo)]": "SyntaxError: invalid syntax",
    "urlpatterns = [websocket('ws/')]": "TypeError: websocket() missing 1 required positional",
    "urlpatterns = [websocket('ws/', echo())]": "TypeError: echo() missing 1 required positional",
    "urlpatterns = [websocket('ws/', 'users.views.echo')]": (
        "TypeError: A socket view is a callable that takes a socket, not 'users.views.echo'."
    ),
    "urlpatterns = [websocket('ws/', View)]": (
        "TypeError: A socket view is a callable that takes a socket, not <class "
        "'websocket.views.WebSocketView'>. Use its as_view()."
    ),
    "urlpatterns = [websocket('<slg:name>/', echo)]": (
        f"{IMPROPERLY}URL route '<slg:name>/' uses invalid converter 'slg'."
    ),
    "sockets = [websocket('ws/', echo)]": (
        f"{IMPROPERLY}The included URLconf 'mistake' does not appear to have any patterns in it."
    ),
}

# The last line of a URLconf, and what `manage.py check` says.
CHECKS = {
    "urlpatterns = [websocket('/ws/', echo)]": (
        "(urls.W002) Your URL pattern '/ws/' has a route beginning with a '/'."
    ),
    "urlpatterns = [websocket('ws/', echo), websocket('ws/', clock)]": (
        "(websocket.W008) The socket users.views.clock is never reached: /ws/ is that of "
        "users.views.echo.\n\tHINT: Give one of them another route."
    ),
}

IMPORTS = """from users.views import clock, echo
from websocket.urls import websocket
from websocket.views import WebSocketView as View
"""


@pytest.mark.parametrize(("env", "line"), SETTINGS.values(), ids=SETTINGS)
def test_a_wrong_setting_stops_the_start(project: Project, env: dict[str, str], line: str) -> None:
    assert last_line_of_start(project, **env) == line


@pytest.mark.parametrize("application", COMMANDS)
def test_what_is_not_an_application_stops_the_start(project: Project, application: str) -> None:
    line = last_line_of_start(project, application)
    assert line.endswith(f"Error loading ASGI app. {COMMANDS[application]}")


@pytest.mark.parametrize("code", URLCONFS)
def test_a_mistake_in_the_urlconf_stops_the_start(
    project: Project, tmp_path: Path, code: str
) -> None:
    env = of_urlconf(tmp_path, code)
    assert last_line_of_start(project, **env).startswith(URLCONFS[code])


@pytest.mark.parametrize("code", CHECKS)
def test_the_check_warns_of_a_mistake_in_the_urlconf(
    project: Project, tmp_path: Path, code: str
) -> None:
    env = {**project.env, **of_urlconf(tmp_path, code)}
    assert CHECKS[code] in project.run("manage.py", "check", "--tag", "urls", env=env).stderr


def test_without_a_key_the_last_line_tells_of_debug_and_of_the_file_env(workshop: Project) -> None:
    (workshop.path / ".env").unlink()
    assert last_line_of_start(workshop) == (
        f"{IMPROPERLY}SECRET_KEY is not set, and DEBUG is off: to develop, write DEBUG=true to the "
        "file .env; to deploy, set SECRET_KEY in the environment (.env.example has the rest)."
    )


def of_urlconf(folder: Path, code: str) -> dict[str, str]:
    """Return an environment whose settings have this URLconf."""
    (folder / "mistake.py").write_text(IMPORTS + code)
    return {
        "DJANGO_SETTINGS_MODULE": "mistakesite.settings",
        "MISTAKE": "mistake",
        "PYTHONPATH": f"{TESTS}{os.pathsep}{folder}",
    }


def last_line_of_start(
    project: Project, application: str = "project.asgi:application", **env: str
) -> str:
    env = {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1", **env}
    command = ("-m", "uvicorn", application, "--port", "0")
    result = project.run(*command, check=False, env={**project.env, **env}, timeout=60)
    assert result.returncode != 0
    return result.stderr.strip().splitlines()[-1]


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

RETURNED = (
    "RuntimeError: The view returned without accepting or refusing its socket: call `await "
    "socket.accept()`, or return an HttpResponse that refuses."
)
ACCEPTED = (
    "RuntimeError: Cannot send 'websocket.accept' while the connection is CONNECTED: to end it, "
    "use close()."
)
ARGUMENTS = "A socket view takes the socket, and the arguments that its route captures."
ASYNC_UNSAFE = "Use async methods, such as `await queryset.acount()` and `await session.asave()`."
AWAITED = (
    "Only what an async function returns can be awaited: write `await apublish()` in place of "
    "`await publish()`, and `async def` for the methods of a WebSocketView."
)
GROUP = "ValueError: A group name has 1 to 100 ASCII letters, digits, and characters of '_.:-'; got"
JSON = (
    "JSON has dicts, lists, strings and numbers: of a model instance, send the fields that the "
    "page needs."
)
NEVER = "RuntimeWarning: coroutine '{}' was never awaited"

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
    "returns_without_an_accept/": RETURNED,
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
    # await
    "forgets_to_await_a_send/": NEVER.format("Connection.send_message"),
    "forgets_to_await_a_join/": NEVER.format("WebSocket.join"),
    "forgets_to_await_apublish/": NEVER.format("apublish"),
    "forgets_to_await_what_it_sends/": "TypeError: send_text() takes a str, not a coroutine: write "
    "`await` before the call.",
    "forgets_to_await_what_it_sends_as_json/": "Write `await` before the call.",
    "awaits_publish/": AWAITED,
    "awaits_a_loop/": "Write `async for text in socket.iter_text()`, without `await`.",
    "loops_without_async/": "Write `async for message in socket`.",
    "loops_over_one_message/": "One message is `await socket.receive_text()`, all of them are "
    "`async for text in socket.iter_text()`.",
    "HasASyncReceive/": AWAITED,
    "calls_async_code_as_if_it_were_sync/": "RuntimeError: You cannot use AsyncToSync in the same "
    "thread as an async event loop - just await the async function directly.",
    "sleeps/": "WARNING django.websocket: Something blocked all sockets for more than a second, "
    "such as time.sleep() in an async view: write `await asyncio.sleep()`, or call slow functions "
    "with sync_to_async().",
    # The database
    "queries/": ASYNC_UNSAFE,
    "loops_over_a_queryset/": ASYNC_UNSAFE,
    "awaits_a_queryset/": "Write `[row async for row in queryset]`, or use an async method such as "
    "`acount()`.",
    "saves_the_session/": ASYNC_UNSAFE,
    # What is sent and received
    "sends_a_model_instance/": JSON,
    "sends_a_queryset/": JSON,
    "publishes_a_model_instance/": JSON,
    "is_present_as_a_model_instance/": "TypeError: presence= takes a value for JSON, such as "
    '{"name": "Anna"}: Object of type User is not JSON serializable',
    "sends_a_lazy_string/": "TypeError: send_text() takes a str, not a lazy one: use str().",
    "sends_a_number_as_text/": "TypeError: send_text() takes a str, not a int: use send_json().",
    "sends_as_with_channels/": "Use send_text(), send_bytes() or send_json().",
    "expects_json/": "INFO django.request: Invalid message: /expects_json/: Expected JSON, and got "
    "something else: Expecting value: line 1 column 1 (char 0).",
    "expects_bytes/": "INFO django.request: Invalid message: /expects_bytes/: Expected a binary "
    "message, and got a text one.",
    "reads_a_form/": "A socket is not a request: use `socket.request`, or mount a page's view with "
    "path().",
    "prints_the_socket/": "<WebSocket /prints_the_socket/ CONNECTED>",
    # Groups
    "names_a_group_with_a_space/": f"{GROUP} 'the room'.",
    "names_a_group_by_a_number/": f"{GROUP} 7.",
    "swaps_the_group_and_the_message/": f"{GROUP} {{'text': 'hello'}}.",
    "asks_for_a_position_without_a_history/": "ValueError: The group 'group' has no history: add "
    "it to WEBSOCKET_HISTORY.",
    # The view and its end
    "takes_no_socket/": ARGUMENTS,
    "takes_an_argument_that_its_route_lacks/": ARGUMENTS,
    "accepts_twice/": ACCEPTED,
    "rejects_after_the_accept/": ACCEPTED,
    "returns_a_dict_as_a_message/": "WARNING django.request: The view at "
    "/returns_a_dict_as_a_message/ returned a dict after accept(), which no client sees: send it.",
    "returns_a_json_response_as_a_message/": PAGE.format("returns_a_json_response_as_a_message"),
    "returns_a_str/": RETURNED,
    "starts_a_task_and_returns/": "WARNING django.request: The view at /starts_a_task_and_returns/ "
    "has ended, which cancels the tasks that it has started: let it wait for its client, with "
    "`async for _ in socket: pass`.",
    "creates_a_task/": "websocket.protocol.WebSocketDisconnect: The connection is over (1000). A "
    "task of socket.start() ends quietly then.",
    # The URL
    "nowhere/": "WARNING django.websocket: No URL pattern fits /nowhere/: `manage.py sockets` "
    "lists the URLs of sockets.",
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


def test_a_foreign_host_and_a_foreign_origin_are_told_from_the_setting_that_allows_them(
    project: Project, tmp_path: Path
) -> None:
    with serving(project, tmp_path) as server:
        sentence = (
            "Forbidden (Origin 'https://elsewhere.example' is neither this host nor in "
            "CSRF_TRUSTED_ORIGINS): /echo/"
        )
        with logging(server, sentence), suppress(InvalidHandshake):
            connect(f"{server.ws}/echo/", origin="https://elsewhere.example")
        sentence = (
            "Invalid HTTP_HOST header: 'elsewhere.example'. You may need to add "
            "'elsewhere.example' to ALLOWED_HOSTS."
        )
        with logging(server, sentence), suppress(InvalidHandshake):
            tcp = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            connect("ws://elsewhere.example/echo/", sock=tcp, proxy=None)


def test_a_database_without_tables_is_told_to_be_migrated(project: Project, tmp_path: Path) -> None:
    env = {"DJANGO_SETTINGS_MODULE": "mistakesite.settings"}
    env["DATABASE_URL"] = f"sqlite:///{tmp_path / 'empty.sqlite3'}"
    with (
        serving(project, tmp_path, **env) as server,
        says_once(server, "Run `python manage.py migrate`.", tracebacks=2),
    ):
        open_socket(server, "counts_users/")


def test_static_files_that_were_not_collected_are_told_to_be(
    project: Project, tmp_path: Path
) -> None:
    env = {
        "ALLOWED_HOSTS": "127.0.0.1",
        "DEBUG": "false",
        "DJANGO_SETTINGS_MODULE": "mistakesite.settings",
        "MISTAKE": "project.urls",
        "SECRET_KEY": "k" * 50,
        "SECURE_SSL_REDIRECT": "false",
    }
    with (
        serving(project, tmp_path, **env) as server,
        says_once(server, "Run `python manage.py collectstatic`.", tracebacks=2),
        suppress(urllib.error.HTTPError),
    ):
        urllib.request.urlopen(server.url, timeout=30)


def test_a_view_that_catches_every_exception_in_a_loop_stops_nobody_else(
    project: Project, tmp_path: Path
) -> None:
    with serving(project, tmp_path, DJANGO_SETTINGS_MODULE="mistakesite.settings") as server:
        closed = logging(server, "WebSocket /catches_every_exception/ 127.0.0.1 - 1000 ")
        with closed, connect(f"{server.ws}/catches_every_exception/"):
            pass


def open_socket(server: Server, path: str) -> None:
    """Open a socket, send a message, and wait until the server closes the connection."""
    with suppress(InvalidHandshake, ConnectionClosed), connect(f"{server.ws}/{path}") as client:
        client.send("hello")
        while True:
            client.recv(timeout=30)


@contextmanager
def says_once(server: Server, sentence: str, tracebacks: int = 1) -> Iterator[None]:
    """Fail unless the block makes the server log a line, once, and few tracebacks."""
    before = len(server.lines)
    with logging(server, sentence):
        yield
    catch_up(server)
    log = "".join(server.lines[before:])
    assert log.count("Traceback") <= tracebacks, log
    start = r"(?:[0-9-]+ [0-9:,]+ |\S+:\d+: )?"  # The time, or the line that a warning is about.
    assert re.findall(rf"^{start}(.*)$", log, re.MULTILINE).count(sentence) == 1, log
