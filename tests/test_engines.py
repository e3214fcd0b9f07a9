"""The pages in the engines of Firefox and Safari: connect, send, lose the server, return."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, Project, Server, free_port, wait_until
from websockets.sync.client import connect

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MINI_BROWSER = next(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"), None)

MEANWHILE = "from users.models import Note; Note.objects.create(author='abcdef', text='Meanwhile')"

USER = "from users.models import User; User.objects.create_user('ada', password='ada')"

SAID_MEANWHILE = """
from chat.models import Message, Room
from users.models import User
Message.objects.create(room=Room.objects.get(), user=User.objects.get(), text="Meanwhile")
"""


class Firefox:
    """Firefox, which speaks WebDriver BiDi itself."""

    needs = (shutil.which("firefox-esr") or shutil.which("firefox"),)

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        port = str(free_port())
        (firefox,) = self.needs
        arguments = ("--headless", "--no-remote", "--profile", folder)
        start(stack, firefox, *arguments, "--remote-debugging-port", port, HOME=str(folder))
        self.ids = itertools.count()
        self.socket = stack.enter_context(
            until_up(lambda: connect(f"ws://127.0.0.1:{port}/session"))
        )
        self.call("session.new", capabilities={})
        self.context = self.call("browsingContext.getTree")["contexts"][0]["context"]

    def call(self, method: str, **params: Any) -> Any:
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv(timeout=PATIENCE))).get("id") != number:
            pass  # An event.
        assert answer["type"] == "success", answer
        return answer["result"]

    def open(self, url: str) -> None:
        self.call("browsingContext.navigate", context=self.context, url=url, wait="complete")

    def evaluate(self, expression: str) -> Any:
        target = {"context": self.context}
        params = {"expression": expression, "target": target, "awaitPromise": True}
        answer = self.call("script.evaluate", **params)
        assert answer["type"] == "success", answer
        return answer["result"].get("value")


class WebKit:
    """WebKit's own small browser, by WebDriver, on a display of its own."""

    needs = (shutil.which("WebKitWebDriver"), shutil.which("Xvfb"), MINI_BROWSER)

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        driver, xvfb, browser = self.needs
        read, write = os.pipe()
        start(stack, xvfb, "-displayfd", str(write), "-screen", "0", "1280x1024x24", keep=[write])
        os.close(write)
        with open(read) as display:
            number = display.readline().strip()
        port = str(free_port())
        start(stack, driver, f"--port={port}", DISPLAY=f":{number}", HOME=str(folder))
        options = {"binary": str(browser), "args": ["--automation"]}
        wanted = {"alwaysMatch": {"webkitgtk:browserOptions": options}}
        self.url = f"http://127.0.0.1:{port}/session"
        session = until_up(lambda: self.call("POST", "", capabilities=wanted))
        self.url += f"/{session['sessionId']}"
        stack.callback(self.call, "DELETE", "")

    def call(self, method: str, path: str, **params: Any) -> Any:
        data = json.dumps(params).encode() if method == "POST" else None
        request = urllib.request.Request(self.url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)["value"]

    def open(self, url: str) -> None:
        self.call("POST", "/url", url=url)

    def evaluate(self, expression: str) -> Any:
        return self.call("POST", "/execute/sync", script=f"return {expression}", args=[])


def start(
    stack: contextlib.ExitStack, *command: str | Path, keep: list[int] | None = None, **env: str
) -> None:
    """Start a program that ends with the test."""
    process = stack.enter_context(
        subprocess.Popen(
            command,
            env={**os.environ, **env},
            pass_fds=keep or [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    stack.callback(process.kill)


def until_up(act: Callable[[], Any]) -> Any:
    """Do what needs a program that may still be starting."""
    results = []

    def works() -> bool:
        with contextlib.suppress(OSError):
            results.append(act())
        return bool(results)

    wait_until(works, lambda: "The browser does not answer.")
    return results[0]


@pytest.fixture(params=[Firefox, WebKit], ids=lambda engine: engine.__name__)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Firefox | WebKit]:
    # A test that is left out fails in CI: conftest.py sees to that.
    if not all(request.param.needs):
        pytest.skip(f"There is no {request.param.__name__} here.")
    with contextlib.ExitStack() as stack:
        folder = tmp_path / "home"
        folder.mkdir()
        yield request.param(folder, stack)


def wait_for(engine: Firefox | WebKit, expression: str, value: Any) -> None:
    seen: list[Any] = []

    def has_come() -> bool:
        seen.append(engine.evaluate(expression))
        return bool(seen[-1] == value)

    wait_until(has_come, lambda: f"{expression} was {seen[-1]!r}, and not {value!r}")


def text(selector: str) -> str:
    return f"document.querySelector('{selector}').textContent"


def send(engine: Firefox | WebKit, field: str, form: str, message: str) -> None:
    engine.evaluate(f"(document.querySelector('{field}').value = {message!r})")
    engine.evaluate(f"(document.querySelector('{form}').requestSubmit(), null)")


@pytest.fixture
def env(project: Project, tmp_path: Path) -> dict[str, str]:
    """The environment of a server with a database of its own."""
    database = shutil.copy(project.path / "db.sqlite3", tmp_path / "db.sqlite3")
    return {"DATABASE_URL": f"sqlite:///{database}"}


def in_database(project: Project, env: dict[str, str], code: str) -> None:
    project.run("manage.py", "shell", "-c", code, env={**project.env, **env})


def fits(engine: Firefox | WebKit) -> bool:
    """Tell whether nothing sticks out of the page."""
    return bool(engine.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_the_page_connects_echoes_and_comes_back_with_nothing_missed(
    engine: Firefox | WebKit,
    serve: Callable[..., Server],
    project: Project,
    env: dict[str, str],
) -> None:
    server = serve(env=env)
    engine.open(server.url)
    wait_for(engine, text("#state"), "Connected")
    wait_for(engine, text("#count"), "1")
    send(engine, "#text", "#form", "Does it come back?")
    wait_for(engine, "document.querySelectorAll('#log .log-text').length", 1)
    wait_for(engine, text("#log .log-text"), "Does it come back?")
    send(engine, "#note", "#wall-form", "Before")
    notes = "[...document.querySelectorAll('#notes .message-text')].map(n => n.textContent).join()"
    wait_for(engine, notes, "Before")

    server.stop()
    wait_for(engine, text("#state"), "Reconnecting")
    in_database(project, env, MEANWHILE)
    server.restart()
    engine.evaluate("dispatchEvent(new Event('online'))")
    wait_for(engine, text("#state"), "Connected")
    wait_for(engine, notes, "Before,Meanwhile")
    # It is laid out as in Chromium: nothing sticks out, and the colours are known.
    assert fits(engine)
    colour = "getComputedStyle(document.querySelector('.dot'), '::before').backgroundColor"
    assert engine.evaluate(colour) not in ("", "rgba(0, 0, 0, 0)", "transparent")


def test_the_console_connects_shows_the_echo_and_connects_again(
    engine: Firefox | WebKit, serve: Callable[..., Server], env: dict[str, str]
) -> None:
    server = serve(env=env)
    engine.open(f"{server.url}/ws/")
    # WebKit runs a module after it has called the page complete.
    wait_for(engine, text("#url"), f"{server.ws}/ws/")
    for message in ("Before", "After"):
        engine.evaluate("(document.querySelector('#connect').click(), null)")
        wait_for(engine, text("#status"), "Connected")
        send(engine, "#text", "#message", message)
        received = "document.querySelector('.received:last-child > .text')"
        wait_for(engine, f"{received} && {received}.textContent", message)
        server.stop()
        wait_for(engine, text("#status"), "Closed")
        # With 1012, but WebKit's own network library may report it as lost without a close.
        wait_for(engine, text(".lost:last-child > .kind"), "close")
        server.restart()
    assert fits(engine)


def test_the_chat_logs_in_talks_and_comes_back_with_nothing_missed(
    engine: Firefox | WebKit,
    serve: Callable[..., Server],
    project: Project,
    env: dict[str, str],
) -> None:
    in_database(project, env, USER)
    server = serve(env=env)
    engine.open(f"{server.url}/chat/login/?next=/chat/rooms/lobby/")
    engine.evaluate("(document.querySelector('[name=username]').value = 'ada')")
    send(engine, "[name=password]", "main form", "ada")
    wait_for(engine, "location.pathname", "/chat/rooms/lobby/")
    wait_for(engine, "document.querySelector('#state')?.textContent", "Connected")
    said = "[...document.querySelectorAll('.message-text')].map(said => said.textContent).join()"
    send(engine, "#text", "#form", "Before")
    wait_for(engine, said, "Before")

    server.stop()
    wait_for(engine, text("#state"), "Reconnecting")
    assert engine.evaluate(text("#reason"))
    in_database(project, env, SAID_MEANWHILE)
    server.restart()
    engine.evaluate("dispatchEvent(new Event('online'))")
    wait_for(engine, text("#state"), "Connected")
    send(engine, "#text", "#form", "After")
    wait_for(engine, said, "Before,Meanwhile,After")
    assert fits(engine)
