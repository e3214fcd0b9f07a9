"""The README and the pages that continue it: code runs, tables are complete, options exist."""

import ast
import configparser
import contextlib
import http.client
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import (
    HEADLESS_SHELL,
    PATIENCE,
    Project,
    Server,
    free_port,
    needs_chromium,
    run,
    trusting,
)
from playwright.sync_api import Page, expect, sync_playwright
from services import need, running
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from docs import FILE, block, blocks, guide

# What the documents' own tests leave out of what their views promise.
MORE_TESTS = """
import asyncio

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.core import signing
from django.test import TestCase, TransactionTestCase
from users.models import User, suspend
from websocket.auth import disconnect
from websocket.groups import aposition, apublish, get_hub, publish
from websocket.testing import HandshakeRefused, connect
from websocket.tests.wire import until


class ReadmeTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.anna = User.objects.create_user("anna")
        cls.root = User.objects.create_superuser("root")

    async def test_add_adds_numbers_and_refuses_all_else(self):
        async with connect("/ws/add/") as socket:
            await socket.send_json([1, 2, 3])
            assert await socket.receive_json() == {"sum": 6}
            await socket.send_json(["a"])
            assert await socket.wait_closed() == 1003

    async def test_the_head_count_is_for_staff(self):
        async with connect("/ws/head-count/") as socket:
            assert await socket.wait_closed() == 3000
        with self.assertRaises(HandshakeRefused) as refused:
            async with connect("/ws/head-count/", user=self.anna):
                pass
        assert refused.exception.status_code == 403
        async with connect("/ws/head-count/", user=self.root) as socket:
            await socket.send_text("?")
            assert await socket.receive_json() == {"users": 2}

    async def test_the_time_is_for_all_sites_and_the_rest_for_its_own(self):
        foreign = {"Origin": "https://elsewhere.example"}
        async with connect("/ws/time/", headers=foreign) as socket:
            assert set(await socket.receive_json()) == {"time"}
        with self.assertRaises(HandshakeRefused):
            async with connect("/ws/add/", headers=foreign):
                pass

    async def test_the_tally_counts(self):
        async with connect("/ws/tally/") as socket:
            for count in (1, 2):
                await socket.send_bytes(b"")
                assert await socket.receive_json() == {"count": count}

    async def test_a_countdown_is_one_for_all_and_one_socket_can_be_reached(self):
        async with connect("/ws/countdown/a/") as one, connect("/ws/countdown/a/") as two:
            ids = [(await socket.receive_json())["id"] for socket in (one, two)]
            assert await one.receive_json() == {"number": 10}
            await asyncio.to_thread(publish, f"socket.{ids[1]}", "for two")
            assert "for two" in [await two.receive(), await two.receive()]
            assert await one.receive_json() == {"number": 9}

    async def test_a_feed_resumes_and_so_does_an_event_stream(self):
        get_hub().is_serving = True
        page = (await self.async_client.get("/feed/")).content.decode()
        position = page.partition('data-position="')[2].partition('"')[0]
        async with connect("/ws/feed/") as author:
            assert await author.receive_json() == {"reload": True}
            await author.send_text("missed")
            assert await author.receive_json() == {"text": "missed"}
        async with connect(f"/ws/feed/?resume=,{position}") as reader:
            assert (await reader.receive_text()).partition("\\n")[2] == '{"text":"missed"}'
            assert (await reader.receive_text()).partition("\\n")[1] == ""
        await self.async_client.aforce_login(self.anna)
        path = "/rooms/lobby/events/"
        for last, wanted in (("", []), ("0.0", ["reload"]), ("seen", ["missed"])):
            await apublish("room.lobby", "before")
            seen = await aposition("room.lobby")
            await apublish("room.lobby", "missed")
            last = seen if last == "seen" else last
            response = await self.async_client.get(path, headers={"Last-Event-ID": last})
            events = aiter(response.streaming_content)
            got = [asyncio.ensure_future(anext(events)) for _ in wanted]
            for future, text in zip(got, wanted, strict=True):
                assert text.encode() in await asyncio.wait_for(future, 5)
            await events.aclose()

    async def test_an_event_stream_hears_what_sync_code_publishes(self):
        await self.async_client.aforce_login(self.anna)
        response = await self.async_client.get("/rooms/lobby/events/")
        events = aiter(response.streaming_content)
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await asyncio.to_thread(publish, "room.lobby", {"text": "hello"})
        assert (await asyncio.wait_for(first, 5)).endswith(b'data: {"text": "hello"}\\n\\n')
        await events.aclose()

    async def test_an_event_stream_whose_client_is_too_slow_ends_without_an_error(self):
        await self.async_client.aforce_login(self.anna)
        response = await self.async_client.get("/rooms/lobby/events/")
        events = aiter(response.streaming_content)
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await apublish("room.lobby", "first")
        assert (await asyncio.wait_for(first, 5)).endswith(b'data: "first"\\n\\n')
        for _ in range(20):
            await apublish("room.lobby", "x" * 2**16)
        assert [event async for event in events] == []


class CommittedTests(TransactionTestCase):
    async def test_the_lobby_tells_who_is_there(self):
        anna, ben = [await User.objects.acreate_user(name) for name in ("anna", "ben")]
        async with connect("/ws/lobby/", user=anna) as one:
            assert await one.receive_json() == {"here": ["anna"]}
            async with connect("/ws/lobby/", user=ben) as two:
                assert await two.receive_json() == {"here": ["anna", "ben"]}
                while await one.receive_json() != {"here": ["anna", "ben"]}:
                    pass

    async def test_the_admins_action_and_a_change_of_groups_close_a_users_sockets(self):
        self.anna = await User.objects.acreate_user("anna")
        root = await User.objects.acreate_user("root", is_staff=True, is_superuser=True)
        await self.async_client.aforce_login(root)
        async with connect("/ws/rooms/lobby/", user=self.anna) as socket:
            action = {"action": "close_sockets", "_selected_action": [self.anna.pk]}
            await self.async_client.post("/admin/users/user/", action)
            assert await socket.wait_closed() == 1012
        async with connect("/ws/rooms/lobby/", user=self.anna) as socket:
            staff = await Group.objects.acreate(name="staff")
            await self.anna.groups.aadd(staff)
            assert await socket.wait_closed() == 1012
        async with connect("/ws/rooms/lobby/", user=self.anna) as socket:
            await sync_to_async(suspend)(User.objects.filter(username="anna"))
            assert await socket.wait_closed() == 3003

    async def test_a_token_in_the_first_message_logs_a_client_in(self):
        anna = await User.objects.acreate_user("anna")
        async with connect("/ws/inbox/") as socket:
            await socket.send_text("forged")
            assert await socket.wait_closed() == 3000
        async with connect("/ws/inbox/") as socket:
            await socket.send_text(signing.dumps(anna.pk, salt="inbox"))
            await until(lambda: f"user.{anna.pk}" in get_hub().members)
            await apublish(f"user.{anna.pk}", "hello")
            assert await socket.receive() == "hello"
            await sync_to_async(disconnect)(anna, 4000, "Bye.")
            assert await socket.wait_closed() == 4000
"""


@pytest.fixture(scope="module")
def readme(project: Project) -> str:
    """The README, and the pages that continue it."""
    return guide(project.path)


@pytest.fixture(scope="module")
def pasted(project: Project, readme: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project of a reader who has pasted each block at the end of the file that it names."""
    copy = project.copy(tmp_path_factory.mktemp("readme") / "project")
    for code in blocks(readme, "python", "js", "html"):
        named = FILE.match(code)
        assert named, f"This block names no file:\n{code}"
        with (copy.path / named["path"]).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{code}" if file.tell() else code)
    return copy


def test_django_and_the_linters_find_nothing_to_say_about_the_pasted_code(
    pasted: Project, mypy: Callable[..., str]
) -> None:
    assert "no issues" in pasted.run("manage.py", "check", "--fail-level", "DEBUG").stdout
    pasted.run("manage.py", "makemigrations", "--check", "--dry-run")
    # Pasted at the end of a file, an import is not where a linter wants it.
    ruff = ("-m", "ruff", "check", "--no-cache", "--ignore", "E402,F811,I001", ".")
    pasted.run(*ruff)
    mypy(pasted.path)


def test_the_tests_of_the_readme_pass_and_its_views_do_what_it_says(
    pasted: Project, tmp_path: Path
) -> None:
    copy = pasted.copy(tmp_path / "project")
    (copy.path / "users" / "tests" / "test_more.py").write_text(MORE_TESTS)
    assert " passed" in copy.run("-m", "pytest", "users").stdout


@needs_chromium
def test_a_page_shows_the_time_and_two_people_talk_in_the_room(
    pasted: Project, serve: Callable[..., Server]
) -> None:
    make_users = (
        "from users.models import User\n"
        "for name in ('anna', 'ben'): User.objects.create_superuser(name, password=name)"
    )
    pasted.run("manage.py", "shell", "-c", make_users)
    server = serve(path=pasted.path)

    def enter(page: Page, name: str) -> None:
        page.goto(f"{server.url}/rooms/lobby/")
        page.get_by_label("Username").fill(name)
        page.get_by_label("Password").fill(name)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#time")).not_to_be_empty()

    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=HEADLESS_SHELL, args=["--no-sandbox"])
        anna, ben = (browser.new_context().new_page() for _ in range(2))
        anna.goto(f"{server.url}/time/")
        expect(anna.locator("time")).to_have_text(re.compile(r"^\d{4}-\d\d-\d\dT"))
        enter(anna, "anna")
        enter(ben, "ben")
        anna.get_by_label("Message").fill("<b>hello</b>")
        anna.get_by_role("button", name="Send").click()
        for page in (anna, ben):
            expect(page.locator("#messages")).to_have_text("anna: <b>hello</b>")
        browser.close()


# --- production --------------------------------------------------------------------------------


def production(readme: str) -> dict[str, str]:
    """Return the environment that the README deploys with, and a key of one's own."""
    lines = block(readme, "# /etc/my_project.env").splitlines()[1:]
    return dict(line.split("=", 1) for line in lines) | {"SECRET_KEY": "2fTq9-" * 10}


def test_django_finds_nothing_to_say_about_the_readmes_production(
    project: Project, readme: str, tmp_path: Path
) -> None:
    copy = project.copy(tmp_path / "deployed")
    (copy.path / ".env").unlink()
    (packages,) = re.findall(r"pip install -e '\.\[(postgres,redis)\]'", readme)
    run(
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", project.python),
        *("--target", tmp_path / "packages", f"{project.path}[{packages}]"),
    )
    (command,) = re.findall(r"^python (manage\.py check --deploy.*)$", readme, re.MULTILINE)
    env = {**copy.env, **production(readme), "PYTHONPATH": str(tmp_path / "packages")}
    assert "no issues (0 silenced)" in copy.run(*command.split(), env=env).stdout


@pytest.fixture
def nginx(readme: str, tmp_path: Path) -> Iterator[Callable[[int], tuple[int, Path]]]:
    """A function that starts the README's site; returns its HTTPS port, and its certificate."""
    certificate, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"

    def start(upstream: int) -> tuple[int, Path]:
        run(
            *(need("openssl"), "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=example.com"),
            *("-addext", "subjectAltName=DNS:example.com", "-out", certificate, "-keyout", key),
        )
        plain, secure = free_port(), free_port()
        site = block(readme, "# /etc/nginx/conf.d/my_project.conf")
        for ours, theirs in {
            "127.0.0.1:8000": f"127.0.0.1:{upstream}",
            "server 127.0.0.1:8001 max_fails=0;": "",
            "/etc/letsencrypt/live/example.com": str(tmp_path),
            "listen 443": f"listen 127.0.0.1:{secure}",
            "listen 80": f"listen 127.0.0.1:{plain}",
        }.items():
            assert ours in site
            site = site.replace(ours, theirs)
        temporary = "".join(
            f"{kind}_temp_path {tmp_path / kind};\n"
            for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
        )
        config = tmp_path / "nginx.conf"
        config.write_text(
            f"daemon off;\nmaster_process off;\npid {tmp_path / 'pid'};\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}{site}}}\n"
        )
        command = (need("nginx"), "-e", "stderr", "-p", tmp_path, "-c", config)
        run(*command, "-t")
        stack.enter_context(running(*command, port=secure))
        return secure, certificate

    with contextlib.ExitStack() as stack:
        yield start


def test_the_readmes_server_behind_the_readmes_nginx_serves_pages_sockets_and_events(
    pasted: Project,
    readme: str,
    serve: Callable[..., Server],
    nginx: Callable[[int], tuple[int, Path]],
) -> None:
    # On SQLite, and with groups in the memory of one process; .env has another DEBUG.
    env = {**production(readme), "DEBUG": "false"}
    del env["DATABASE_URL"], env["REDIS_URL"]
    log_in = (
        "from django.test import Client\n"
        "from users.models import User\n"
        "client = Client()\n"
        "client.force_login(User.objects.create_user('carol'))\n"
        "print(client.cookies['sessionid'].value)"
    )
    project_env = {**pasted.env, **env}
    pasted.run("manage.py", "collectstatic", "--no-input", env=project_env)
    shell = pasted.run("manage.py", "shell", "-c", log_in, env=project_env)
    cookie = f"sessionid={shell.stdout.split()[-1]}"

    server = serve(env=env, path=pasted.path)
    port, certificate = nginx(server.port)
    trust = trusting(certificate)

    def get(path: str) -> http.client.HTTPResponse:
        client = http.client.HTTPConnection("example.com", timeout=10)
        tcp = socket.create_connection(("127.0.0.1", port), timeout=10)
        client.sock = trust.wrap_socket(tcp, server_hostname="example.com")
        client.request("GET", path, headers={"Cookie": cookie})
        return client.getresponse()

    def open_socket(path: str, origin: str = "https://example.com") -> ClientConnection:
        return connect(
            f"wss://example.com{path}",
            additional_headers={"Cookie": cookie, "Origin": origin},
            proxy=None,
            sock=socket.create_connection(("127.0.0.1", port), timeout=10),
            ssl=trust,
            open_timeout=PATIENCE,
        )

    page = get("/rooms/lobby/").read().decode()
    (script,) = re.findall(r'src="(/static/users/room\.\w+\.js)"', page)
    assert get(script).status == 200

    with pytest.raises(InvalidStatus) as refused:
        open_socket("/ws/rooms/lobby/", "https://elsewhere.example")
    assert refused.value.response.status_code == 403

    events = get("/rooms/lobby/events/")
    with open_socket("/ws/rooms/lobby/") as client:
        client.send('{"text": "hello"}')
        assert events.readline().startswith(b"id: ")
        assert events.readline() == b'data: {"user": "carol", "text": "hello"}\n'
    events.close()
    server.wait_for("WebSocket /ws/rooms/lobby/ 127.0.0.1 carol 1000 ")


def test_systemd_starts_what_the_readme_serves_with(project: Project, readme: str) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(block(readme, "# /etc/systemd/system/my_project@.service"))
    assert unit.sections() == ["Unit", "Service", "Install"]
    assert unit["Service"]["ExecStart"] == "/srv/my_project/serve --port %i"
    script = (project.path / "serve").read_text()
    times = "WEBSOCKET_DRAIN_SECONDS|UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN"
    drain, graceful = re.findall(rf"(?:{times}):=(\d+)", script)
    (compose,) = re.findall(
        r"stop_grace_period: (\d+)s", (project.path / "compose.yaml").read_text()
    )
    # Each waits longer than the process takes at the most.
    assert int(unit["Service"]["TimeoutStopSec"]) > int(drain) + int(graceful)
    assert int(compose) > int(drain) + int(graceful)


def test_the_table_of_settings_has_every_setting_with_its_default(
    project: Project, readme: str
) -> None:
    module = ast.parse((project.path / "websocket" / "conf.py").read_text())
    defaults = {
        f"WEBSOCKET_{ast.unparse(node.target)}": eval(ast.unparse(node.value))
        for node in module.body
        if isinstance(node, ast.AnnAssign)
    }
    rows = re.findall(r"^\| `(WEBSOCKET_\w+)` \| `(.+?)` \|", readme, re.MULTILINE)
    assert {name: ast.literal_eval(default) for name, default in rows} == defaults
    assert set(re.findall(r"WEBSOCKET_[A-Z_]+[A-Z]", readme)) == set(defaults)
