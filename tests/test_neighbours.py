"""Packages that are installed next to a rendered project, and have to work beside its app."""

import shutil
from pathlib import Path

from conftest import Project
from services import need

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


def test_selenium_drives_chromium_through_the_projects_live_server(
    neighbours: Project, tmp_path: Path
) -> None:
    chromium = shutil.which("chromium") or need("chromium-browser")
    copy = neighbours.copy(tmp_path / "project")
    test = f"CHROMIUM, CHROMEDRIVER = {chromium!r}, {need('chromedriver')!r}\n{SELENIUM_TEST}"
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
