"""The pages in docs/ on tokens, HTML and GraphQL: their code runs, with the clients they name."""

import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from conftest import CHROMIUM, HEADLESS_SHELL, PATIENCE, Project, Server, locked, run
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from services import need
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from docs import FILE, blocks

GUIDES = ("tokens.md", "html.md", "graphql.md")

# What the pages name, by the file that a reader puts into users/static/users/.
NPM = {
    "htmx.org@^4.0.1": ("dist/htmx.min.js", "dist/ext/hx-ws.min.js"),
    "@hotwired/turbo@^8.0.23": ("dist/turbo.es2017-esm.js",),
    "graphql-ws@^6.4.2": ("umd/graphql-ws.min.js",),
}

# A page without anything; and what the settings have from Django 6.0 on, for an older one.
STRICT = """
import secrets

from django.http import HttpResponse


def blank(get_response):
    def middleware(request):
        if request.path == "/blank/":
            return HttpResponse("<link rel=icon href='data:,'>")
        return get_response(request)

    return middleware


def strict(get_response):
    def middleware(request):
        request.nonce = secrets.token_urlsafe()
        response = get_response(request)
        response["Content-Security-Policy"] = (
            "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
            f"img-src 'self' data:; object-src 'none'; style-src 'self' 'nonce-{request.nonce}'"
        )
        return response

    return middleware


def nonce(request):
    return {"csp_nonce": request.nonce}
"""

STRICT_SETTINGS = """
MIDDLEWARE.insert(0, "project.strict.blank")
if django.VERSION < (6, 0):
    MIDDLEWARE.insert(0, "project.strict.strict")
    TEMPLATES[0]["OPTIONS"]["context_processors"].append("project.strict.nonce")
"""

MAKE_TOKEN = """
from users.models import User
from users.tokens import make_token
print(make_token(User.objects.get_or_create(username="anna")[0]))
"""

OWN_TESTS = """
from unittest import mock

from django.test import TestCase, TransactionTestCase
from users.models import User
from users.tokens import make_token
from websocket.testing import HandshakeRefused, connect


class TokenTests(TransactionTestCase):
    async def test_the_socket_ends_with_its_token_or_with_its_user(self):
        anna = await User.objects.acreate(username="anna")
        headers = {"Authorization": f"Bearer {make_token(anna)}"}
        with mock.patch("users.views.LIFETIME", 0):
            async with connect("/ws/token-feed/", headers=headers) as socket:
                assert await socket.wait_closed() == 3000
        async with connect("/ws/token-feed/", headers=headers) as socket:
            assert await socket.receive() == "Hello, anna."
            anna.is_active = False
            await anna.asave()
            assert await socket.wait_closed() == 1012
        with self.assertRaises(HandshakeRefused) as refused:
            async with connect("/ws/token-feed/", headers=headers):
                pass
        assert refused.exception.status_code == 401


class GraphQLTests(TestCase):
    async def test_each_subscription_has_its_id_until_it_is_complete(self):
        subscribe = {"type": "subscribe", "id": "1", "payload": {"query": "subscription { said }"}}
        say = {"query": 'mutation { say(text: "hello") }'}
        async with connect("/graphql/", subprotocols=["graphql-transport-ws"]) as socket:
            for _ in range(2):
                await socket.send_json({"type": "connection_init"})
                assert await socket.receive_json() == {"type": "connection_ack"}
                await socket.send_json(subscribe)
                await socket.send_json({"type": "ping"})
                assert await socket.receive_json() == {"type": "pong"}
                url = "/graphql/"
                page = await self.async_client.post(url, say, content_type="application/json")
                assert page.json() == {"data": {"say": "hello"}}
                answer = {"id": "1", "type": "next", "payload": {"data": {"said": "hello"}}}
                assert await socket.receive_json() == answer
                await socket.send_json({"type": "complete", "id": "1"})
                await socket.send_json({"type": "ping"})
                assert await socket.receive_json() == {"type": "pong"}
            await socket.send_json(subscribe)
            await socket.send_json(subscribe)
            assert await socket.wait_closed() == 4409

    async def test_anything_else_closes_the_connection(self):
        for message in ({"type": "subscribe", "id": "1"}, [], "hello"):
            async with connect("/graphql/", subprotocols=["graphql-transport-ws"]) as socket:
                await socket.send_json(message)
                assert await socket.wait_closed() == 4400
"""

NASTY = "<img src=x onerror=alert(1)> & <b>bold</b>"


@pytest.fixture(scope="module")
def guided(neighbours: Project, npm: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project of a reader who has pasted each block of each page."""
    copy = neighbours.copy(tmp_path_factory.mktemp("guides") / "project")
    for guide in GUIDES:
        text = (copy.path / "docs" / guide).read_text(encoding="utf-8")
        for code in blocks(text, "python", "js", "html"):
            named = FILE.match(code)
            assert named, f"This block names no file:\n{code}"
            with (copy.path / named["path"]).open("a", encoding="utf-8") as file:
                file.write(f"\n\n{code}" if file.tell() else code)
    for path in npm.iterdir():
        shutil.copy(path, copy.path / "users" / "static" / "users")
    return copy


@pytest.fixture(scope="module")
def npm(shared: Path) -> Path:
    """A folder with the files of the npm packages, which are fetched once."""
    folder = shared / "npm"
    with locked(shared / "npm.lock"):
        if not folder.exists():
            fetched = shared / "npm.fetched"
            fetched.mkdir()
            run(need("npm"), "pack", "--silent", "--pack-destination", fetched, *NPM, cwd=fetched)
            unpacked = fetched / "files"
            unpacked.mkdir()
            wanted = {f"package/{name}" for names in NPM.values() for name in names}
            for path in fetched.glob("*.tgz"):
                with tarfile.open(path) as archive:
                    for name in wanted & set(archive.getnames()):
                        data = archive.extractfile(name).read()
                        (unpacked / Path(name).name).write_bytes(data)
            assert len(list(unpacked.iterdir())) == len(wanted)
            unpacked.rename(folder)
    return folder


def serve(project: Project) -> Iterator[Server]:
    server = Server(project, (), {})
    try:
        yield server
        server.stop()
    finally:
        server.kill()
    assert "Traceback" not in server.log(), server.log()


@pytest.fixture(scope="module")
def server(guided: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    copy = guided.copy(tmp_path_factory.mktemp("served") / "project")
    (copy.path / "project" / "strict.py").write_text(STRICT)
    with (copy.path / "project" / "settings.py").open("a") as file:
        file.write(STRICT_SETTINGS)
    yield from serve(copy)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("There is no Chromium here.")
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=HEADLESS_SHELL, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[Callable[[str], Page]]:
    """A function that opens a page in a profile of its own, on which nothing may go wrong."""
    complaints: list[str] = []
    contexts = []

    def note(line: ConsoleMessage) -> None:
        if line.type == "error" and not line.location["url"].endswith("/favicon.ico"):
            complaints.append(f"{line.text} ({line.location})")

    def open_page(path: str) -> Page:
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{server.url}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def test_django_and_ruff_find_nothing_to_say_about_the_guides(guided: Project) -> None:
    assert "no issues" in guided.run("manage.py", "check", "--fail-level", "DEBUG").stdout
    ruff = ("-m", "ruff", "check", "--no-cache", "--ignore", "E402,F811,I001", ".")
    guided.run(*ruff)


@pytest.mark.slow
def test_mypy_finds_nothing_to_say_about_the_guides(guided: Project, tmp_path: Path) -> None:
    copy = guided.copy(tmp_path / "project")
    copy.run("-m", "mypy", ".")
    use_jwt(copy)
    copy.run("-m", "mypy", ".")


# --- tokens ------------------------------------------------------------------------------------


def use_jwt(project: Project) -> None:
    """Replace a project's tokens as the page says."""
    text = (project.path / "docs" / "tokens.md").read_text(encoding="utf-8")
    (module,) = blocks(text, "py")
    (project.path / "users" / "tokens.py").write_text(module)
    (setting,) = re.findall(r"`(JWT_KEY = .+?)`", text)
    for name, line in {"project/settings.py": setting, ".env": f"JWT_KEY={'k' * 32}"}.items():
        path = project.path / name
        path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


@pytest.fixture(params=["signing", "jwt"])
def token_server(
    request: pytest.FixtureRequest, guided: Project, tmp_path: Path
) -> Iterator[Server]:
    """A server of each of the page's two modules for tokens."""
    copy = guided.copy(tmp_path / "project")
    if request.param == "jwt":
        use_jwt(copy)
    yield from serve(copy)


def test_a_token_in_a_header_a_subprotocol_or_a_message_logs_a_client_in(
    token_server: Server,
) -> None:
    token = token_server.project.run("manage.py", "shell", "-c", MAKE_TOKEN).stdout.split()[-1]
    assert re.fullmatch(r"[\w.-]+", token)
    assert get(token_server, "/whoami/", token) == (200, "anna")
    assert get(token_server, "/whoami/", f"{token}x") == (401, "This token is not valid.")

    def greeting(client: ClientConnection) -> object:
        return client.recv(timeout=PATIENCE)

    url = f"{token_server.ws}/ws/token-feed/"
    with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as client:
        assert greeting(client) == "Hello, anna."
    with connect(url, subprotocols=["feed", f"token.{token}"]) as client:
        assert client.subprotocol == "feed"
        assert greeting(client) == "Hello, anna."
    with pytest.raises(InvalidStatus, match="401"):
        connect(url, subprotocols=["feed", f"token.{token}x"])
    with connect(f"{token_server.ws}/ws/late-feed/") as client:
        client.send(token)
        assert greeting(client) == "Hello, anna."
    with connect(f"{token_server.ws}/ws/late-feed/") as client:
        client.send(f"{token}x")
        with pytest.raises(ConnectionClosed, match="3000"):
            client.recv(timeout=PATIENCE)
    token_server.wait_for("WebSocket /ws/late-feed/ 127.0.0.1 anna 1000")


def get(server: Server, path: str, token: str) -> tuple[int, str]:
    """Return the status and the text of a page that is asked for with a token."""
    answer = requests.get(f"{server.url}{path}", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code, answer.text


def test_a_browser_sends_its_token_in_the_subprotocol(
    server: Server, open_page: Callable[[str], Page]
) -> None:
    token = server.project.run("manage.py", "shell", "-c", MAKE_TOKEN).stdout.split()[-1]
    page = open_page("/blank/")
    talk = """async (token) => {
        const { openFeed } = await import("/static/users/token_feed.js");
        const socket = openFeed(token);
        const event = await new Promise((done) => { socket.onmessage = socket.onclose = done; });
        return event.data ?? [event.code, event.reason];
    }"""
    assert page.evaluate(talk, token) == "Hello, anna."
    assert page.evaluate(talk, f"{token}x") == [3000, "Unauthorized"]


# --- HTML --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/pins/", "/board/"], ids=["htmx", "turbo"])
def test_what_one_visitor_writes_appears_on_each_page_as_text(
    server: Server, open_page: Callable[[str], Page], path: str
) -> None:
    opened = server.log().count(f'"WebSocket {path}" [accepted]')
    one, other = open_page(path), open_page(path)
    server.wait_for(f'"WebSocket {path}" [accepted]', times=opened + 2)
    for text, shown in (("hello", ["hello"]), (NASTY, ["hello", NASTY])):
        one.get_by_label("Note").fill(text)
        one.get_by_role("button", name="Send").click()
        for page in (one, other):
            expect(page.get_by_role("listitem")).to_have_text(shown)


# --- GraphQL -----------------------------------------------------------------------------------


def test_the_client_of_graphql_ws_subscribes_queries_and_learns_of_errors(
    server: Server, open_page: Callable[[str], Page]
) -> None:
    page = open_page("/blank/")
    page.add_script_tag(url="/static/users/graphql-ws.min.js")
    page.evaluate(
        """async () => {
            const { client, onSaid } = await import("/static/users/said.js");
            window.said = [];
            window.stop = onSaid((result) => said.push(result.data.said));
            window.ask = (query, variables) => new Promise((next, error) => {
                client.subscribe({ query, variables }, { next, error, complete() {} });
            });
        }"""
    )
    assert page.evaluate("ask('{ hello }')") == {"data": {"hello": "Hello!"}}
    say = "ask('mutation ($text: String!) { say(text: $text) }', { text: 'one' })"
    # The subscription was sent before this, and listens once the group has its member.
    page.evaluate(say)
    page.wait_for_function("said.length > 0")
    assert page.evaluate("said[0]") == "one"
    page.evaluate("stop()")
    message = page.evaluate("ask('{ nothing }').catch((errors) => errors[0].message)")
    assert message == "Cannot query field 'nothing' on type 'Query'."


def test_the_guides_views_do_what_the_guides_say(guided: Project, tmp_path: Path) -> None:
    copy = guided.copy(tmp_path / "project")
    (copy.path / "users" / "tests" / "test_guides.py").write_text(OWN_TESTS)
    assert "3 passed" in copy.run("-m", "pytest", "users/tests/test_guides.py").stdout
