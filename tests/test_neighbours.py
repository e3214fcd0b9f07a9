"""Packages that are installed next to a rendered project, and have to work beside its app."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CHROMIUM, PATIENCE, Project, Server, needs_chromium
from services import need
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

SELENIUM_TEST = """
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait
from websocket.testing import ASGILiveServerTestCase

TALK = '''
const answer = arguments[arguments.length - 1];
const socket = new WebSocket("/ws/");
socket.onopen = () => socket.send("hello");
socket.onmessage = (event) => { console.log(event.data); answer(event.data); };
socket.onclose = (event) => answer(event.code);
'''


class SeleniumTests(ASGILiveServerTestCase):
    def setUp(self):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.enable_bidi = True
        for argument in ("--disable-gpu", "--headless", "--no-sandbox"):
            options.add_argument(argument)
        service = webdriver.ChromeService(CHROMEDRIVER)
        self.driver = webdriver.Chrome(options, service)
        self.addCleanup(self.driver.quit)

    def test_a_page_talks_to_the_echo_view(self):
        lines = []
        # Selenium hears of them in a socket of websocket-client's.
        self.driver.script.add_console_message_handler(lines.append)
        self.driver.get(f"{self.live_server_url}/health/live")
        assert self.driver.execute_async_script(TALK) == "hello"
        WebDriverWait(self.driver, 30).until(lambda driver: lines)
        assert [line.text for line in lines] == ["hello"]
"""

NAMES = """
import django
django.setup()
import sys
assert not [name for name in sys.modules if name.startswith("websocket._")]

import docker, kubernetes.stream, websocket
from websocket import WebSocketApp, handshake  # The client has a function of that name.
from websocket._exceptions import WebSocketException
from websocket.connection import WebSocket

assert handshake.Handshake and websocket.handshake is handshake
assert websocket.WebSocket is sys.modules["websocket._core"].WebSocket is not WebSocket
assert websocket.WebSocketException is WebSocketException
assert not hasattr(websocket, "nothing")
"""

SENTRY_SETTINGS = """
import json

import sentry_sdk
from sentry_sdk.transport import Transport


class FileTransport(Transport):
    def capture_envelope(self, envelope):
        if (event := envelope.get_event()) is not None:
            with open(BASE_DIR / "events", "a") as file:
                file.write(json.dumps(event, default=str) + "\\n")


sentry_sdk.init("https://key@sentry.invalid/1", transport=FileTransport, send_default_pii=True)
"""

FAILING_VIEWS = """

async def fail(socket):
    await socket.accept()
    raise ZeroDivisionError(await socket.receive_text())


async def fail_in_task(socket):
    await socket.accept()
    async for message in socket:
        socket.start(fail_later(message))


async def fail_later(message):
    raise ZeroDivisionError(message)


async def fail_after_login(socket):
    await socket.accept()
    name = await socket.receive_text()
    await login(socket, await User.objects.aget(username=name))
    raise ZeroDivisionError("of a guest")


async def fail_before_accept(socket):
    raise ZeroDivisionError("refused")


def fail_in_thread(socket):
    raise ZeroDivisionError("refused")


async def fail_to_render(socket):
    return TemplateResponse(socket.request, "nowhere.html", status=403)


async def leave_undecided(socket):
    pass


# The client's faults are not reported.


async def deny(socket):
    raise PermissionDenied


async def read_json(socket):
    await socket.accept()
    await socket.receive_json()
"""

FAILING_URLS = """
from users import views

for name in ("fail", "fail_after_login", "fail_before_accept", "fail_in_task", "fail_in_thread",
             "fail_to_render", "leave_undecided", "deny", "read_json"):
    urlpatterns.append(websocket(f"{name}/", getattr(views, name)))
"""

LOG_IN = """
from django.test import Client
from users.models import User
for name in ("anna", "ben"):
    client = Client()
    client.force_login(User.objects.create_user(name))
    print(client.cookies["sessionid"].value)
"""


@needs_chromium
@pytest.mark.engine
@pytest.mark.slow
def test_selenium_drives_chromium_through_the_projects_live_server(
    neighbours: Project, tmp_path: Path
) -> None:
    copy = neighbours.copy(tmp_path / "project")
    test = f"CHROMIUM, CHROMEDRIVER = {CHROMIUM!r}, {need('chromedriver')!r}\n{SELENIUM_TEST}"
    (copy.path / "users" / "tests" / "test_selenium.py").write_text(test)
    # Nothing is fetched: the driver is there, and nobody is told that it is used.
    env = {**copy.env, "SE_AVOID_STATS": "true", "SE_OFFLINE": "true"}
    result = copy.run("-m", "pytest", "users/tests/test_selenium.py", env=env)
    assert "1 passed" in result.stdout


def test_what_imports_websocket_client_gets_it_and_what_imports_the_app_gets_that(
    neighbours: Project,
) -> None:
    env = {**neighbours.env, "DJANGO_SETTINGS_MODULE": "project.settings"}
    neighbours.run("-c", NAMES, env=env)


def test_django_finds_nothing_to_say_about_websocket_client(neighbours: Project) -> None:
    check = neighbours.run("manage.py", "check", "--fail-level", "DEBUG")
    assert "no issues (0 silenced)" in check.stdout


@pytest.fixture
def failing(neighbours: Project, tmp_path: Path) -> Iterator[Server]:
    """A server that reports to Sentry, and whose views fail."""
    copy = neighbours.copy(tmp_path / "project")
    imports = (
        "from django.core.exceptions import PermissionDenied\n"
        "from django.template.response import TemplateResponse\n"
        "from users.models import User\n"
        "from websocket.auth import login\n"
    )
    for path, text in (
        ("project/settings.py", SENTRY_SETTINGS),
        ("project/urls.py", FAILING_URLS),
        ("users/views.py", f"\n{imports}{FAILING_VIEWS}"),
    ):
        with (copy.path / path).open("a") as file:
            file.write(text)
    server = Server(copy, (), {})
    try:
        yield server
        server.stop()
    finally:
        server.kill()


def test_sentry_hears_of_each_exception_once_with_the_url_and_the_user(failing: Server) -> None:
    shell = failing.project.run("manage.py", "shell", "-c", LOG_IN)
    anna, ben = ({"Cookie": f"sessionid={key}"} for key in shell.stdout.split()[-2:])

    def open_socket(name: str, headers: dict[str, str] | None = None) -> ClientConnection:
        return connect(f"{failing.ws}/{name}/", additional_headers=headers)

    with contextlib.ExitStack() as stack:
        of_anna = stack.enter_context(open_socket("fail", anna))
        of_ben = stack.enter_context(open_socket("fail_in_task", ben))
        refused = ("fail_before_accept", "fail_in_thread", "fail_to_render", "leave_undecided")
        for name in (*refused, "deny"):
            with pytest.raises(InvalidStatus):
                open_socket(name, ben)
        with open_socket("read_json", ben) as client:
            client.send("{")
            with pytest.raises(ConnectionClosedError):
                client.recv(timeout=PATIENCE)
        guest = stack.enter_context(open_socket("fail_after_login"))
        for client, message in ((of_anna, "of anna"), (of_ben, "of ben"), (guest, "ben")):
            client.send(message)
            with pytest.raises(ConnectionClosedError, match="1011"):
                client.recv(timeout=PATIENCE)

    events = (failing.project.path / "events").read_text().splitlines()
    seen = [
        (
            event["request"]["url"].removeprefix(failing.ws),
            event["user"]["username"],
            event["exception"]["values"][-1]["value"].partition(":")[0],
        )
        for event in map(json.loads, events)
    ]
    assert seen == [
        ("/fail_before_accept/", "ben", "refused"),
        ("/fail_in_thread/", "ben", "refused"),
        ("/fail_to_render/", "ben", "nowhere.html"),
        ("/leave_undecided/", "ben", "The view returned without accepting or refusing its socket"),
        ("/fail/", "anna", "of anna"),
        ("/fail_in_task/", "ben", "of ben"),
        ("/fail_after_login/", "ben", "of a guest"),
    ]
