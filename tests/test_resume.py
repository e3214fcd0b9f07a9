"""A page in Chromium gets what it missed: a server is replaced, and Redis is cut, under load."""

import subprocess
from collections.abc import Callable, Iterator

import pytest
from conftest import HEADLESS_SHELL, Project, Server, needs_chromium
from playwright.sync_api import Page, sync_playwright
from services import Redis, running_redis

pytestmark = needs_chromium

VIEWS = '''

async def news(socket):
    """Join the news, and say whether something is missing."""
    await socket.accept()
    if not await socket.join("news.all"):
        await socket.send_text("load")
    async for message in socket:
        await socket.send_message(message.encode() if message == "bytes" else message)
'''

URLS = """
from django.http import HttpResponse
from users.views import news

urlpatterns += [
    path("blank/", lambda request: HttpResponse("<link rel=icon href='data:,'>")),
    websocket("news/", news),
]
"""

# What another process publishes: as many numbers as its argument says, two hundred a second.
PUBLISH = """
import sys, time
from websocket.groups import PublishError, publish
for number in range({start}, {end}):
    while True:
        try:
            publish("news.all", str(number))
            break
        except PublishError:
            time.sleep(0.05)
    time.sleep(0.005)
"""


@pytest.fixture
def redis() -> Iterator[Redis]:
    with running_redis() as redis:
        yield redis


@pytest.fixture
def site(workshop: Project) -> Project:
    for name, text in (("users/views.py", VIEWS), ("project/urls.py", URLS)):
        with open(workshop.path / name, "a", encoding="utf-8") as file:
            file.write(text)
    with open(workshop.path / "project/settings.py", "a", encoding="utf-8") as file:
        file.write('WEBSOCKET_HISTORY = {"news.": 1000}\n')
    return workshop


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=HEADLESS_SHELL, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def open_news(page: Page, *servers: Server) -> None:
    """Connect to the first server, and after that to the last one."""
    page.goto(f"{servers[0].url}/blank/")
    page.evaluate(
        """async (servers) => {
            const { ReconnectingWebSocket } = await import("/static/websocket/client.js");
            window.got = [];
            window.positions = [];
            const options = { resume: true, firstDelay: 100, maxDelay: 200 };
            window.urls = [];
            const next = () => {
                urls.push(`${servers[urls.length ? servers.length - 1 : 0]}/news/`);
                return urls.at(-1);
            };
            window.socket = new ReconnectingWebSocket(next, [], options);
            socket.onmessage = (event) => {
                got.push(event.data);
                positions.push(event.lastEventId);
            };
        }""",
        [server.ws for server in servers],
    )
    page.wait_for_function("got.length === 1")
    assert page.evaluate("positions.splice(0), got.splice(0)") == ["load"]


def publishing(site: Project, redis: Redis, start: int, end: int) -> subprocess.Popen[bytes]:
    code = PUBLISH.format(start=start, end=end)
    command = [str(site.python), "manage.py", "shell", "-c", code]
    return subprocess.Popen(command, cwd=site.path, env={**site.env, "REDIS_URL": redis.url})


def test_a_page_misses_nothing_while_its_server_is_replaced_and_redis_hangs_up(
    serve: Callable[..., Server], site: Project, page: Page, redis: Redis
) -> None:
    server = serve(env={"REDIS_URL": redis.url}, path=site.path)
    open_news(page, server)
    publisher = publishing(site, redis, 0, 500)
    try:
        page.wait_for_function("got.length > 50", timeout=60_000)
        server.stop()
        server.restart()
        page.wait_for_function("got.length > 250", timeout=60_000)
        for _ in range(3):
            kill = ["redis-cli", "-p", str(redis.port), "CLIENT", "KILL", "TYPE", "pubsub"]
            subprocess.run(kill, check=True, capture_output=True)
        page.wait_for_function("got.length >= 500", timeout=60_000)
        assert publisher.wait(timeout=60) == 0
    finally:
        publisher.kill()
        publisher.wait()
    assert page.evaluate("got") == [str(number) for number in range(500)]
    assert page.evaluate("new Set(positions).size") == 500


def test_what_a_view_sends_itself_reaches_a_page_that_resumes(
    serve: Callable[..., Server], site: Project, page: Page
) -> None:
    open_news(page, serve(path=site.path))
    page.evaluate("socket.send('text'); socket.send('two\\nlines'); socket.send('bytes')")
    page.wait_for_function("got.length === 3")
    assert page.evaluate("got.slice(0, 2)") == ["text", "two\nlines"]
    assert page.evaluate("got[2] instanceof Blob") is True
    assert page.evaluate("got[2].text()") == "bytes"
    page.evaluate("socket.binaryType = 'arraybuffer'; socket.send('bytes')")
    page.wait_for_function("got.length === 4")
    assert page.evaluate("[socket.binaryType, got[3].byteLength]") == ["arraybuffer", 5]


def test_a_page_that_was_away_while_redis_was_emptied_loads_again(
    serve: Callable[..., Server], site: Project, page: Page, redis: Redis
) -> None:
    open_news(page, serve(env={"REDIS_URL": redis.url}, path=site.path))
    assert publishing(site, redis, 0, 3).wait(timeout=60) == 0
    page.wait_for_function("got.length === 3")
    redis.kill()
    redis.start()
    page.wait_for_function("got.includes('load')", timeout=60_000)
    assert publishing(site, redis, 3, 5).wait(timeout=60) == 0
    page.wait_for_function("got.at(-1) === '4'")
    assert page.evaluate("got") == ["0", "1", "2", "load", "3", "4"]


def test_a_page_misses_nothing_that_goes_to_the_other_process_while_its_own_drains(
    serve: Callable[..., Server], site: Project, page: Page, redis: Redis
) -> None:
    one = serve(env={"REDIS_URL": redis.url, "WEBSOCKET_DRAIN_SECONDS": "2"}, path=site.path)
    origin = {"CSRF_TRUSTED_ORIGINS": one.url}
    other = serve(env={"REDIS_URL": redis.url, **origin}, path=site.path)
    open_news(page, one, other)
    publisher = publishing(site, redis, 0, 500)
    try:
        page.wait_for_function("got.length > 50", timeout=60_000)
        one.stop()
        page.wait_for_function("got.length >= 500", timeout=60_000)
        assert publisher.wait(timeout=60) == 0
    finally:
        publisher.kill()
        publisher.wait()
    assert page.evaluate("got") == [str(number) for number in range(500)]
    assert "WebSocket /news/ 127.0.0.1 - 1012 " in one.log()
    assert page.evaluate("urls.length") == 2
