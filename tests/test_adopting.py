"""The pages on adoption, tried on a plain project that gets the folder and four lines."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import Project, Server, run
from markdown_it import MarkdownIt
from websockets.sync.client import connect

FILE = re.compile(r"# (?P<path>[a-z/]+\.py)\n")

CHANNELS_TEST = """
from django.contrib.auth import get_user_model
from django.test import TestCase
from websocket.testing import HandshakeRefused, connect


class ChatTests(TestCase):
    async def test_it_does_what_the_consumer_did(self):
        with self.assertRaises(HandshakeRefused):
            async with connect("/ws/chat/lobby/"):
                pass
        anna = await get_user_model().objects.acreate(username="anna")
        async with connect("/ws/chat/lobby/", user=anna) as one:
            async with connect("/ws/chat/lobby/", user=anna) as other:
                await one.send_json({"text": "hello"})
                for socket in (one, other):
                    self.assertEqual(await socket.receive_json(), {"text": "hello"})
"""


def paste(page: Path, site: Path) -> list[str]:
    """Paste each block at the end of the file that it names; return its lines, less imports."""
    pasted = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info == "python":
            named = FILE.match(token.content)
            assert named, f"This block names no file:\n{token.content}"
            (site / named["path"]).parent.mkdir(parents=True, exist_ok=True)
            with (site / named["path"]).open("a") as file:
                file.write(f"\n\n{token.content}")
            if named["path"] != "mysite/sockets.py":
                lines = token.content.splitlines()[1:]
                pasted += [line for line in lines if line and not line.startswith("from ")]
    return pasted


@pytest.fixture
def mysite(project: Project, tmp_path: Path) -> Project:
    """What `django-admin startproject` makes, with the folder copied in."""
    site = tmp_path / "site"
    site.mkdir()
    run(project.python, "-m", "django", "startproject", "mysite", site, cwd=tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(project.path / "websocket", site / "websocket", ignore=ignored)
    return Project(site, project.python)


class MySite(Server):
    def command(self) -> list[str]:
        uvicorn = [str(self.project.python), "-m", "uvicorn", "mysite.asgi:application"]
        return [*uvicorn, "--port", str(self.port)]


@pytest.mark.slow
def test_a_plain_project_with_four_lines_changed_passes_the_apps_own_tests(
    mysite: Project, project: Project
) -> None:
    assert len(paste(project.path / "docs" / "adopting.md", mysite.path)) == 4
    found = mysite.run("manage.py", "check").stderr
    # All that it has to say is that Django's runserver, which is still there, has no sockets.
    assert "identified 1 issue " in found
    assert "websocket.W006" in found
    assert "uvicorn mysite.asgi:application --reload" in found
    tests = mysite.run("manage.py", "test", "websocket", "--parallel", str(os.cpu_count()))
    assert re.search(r"^Ran \d\d+ tests", tests.stderr, re.MULTILINE)
    server = MySite(mysite, (), {})
    try:
        with connect(f"{server.ws}/ws/") as client:
            client.send("hello")
            assert client.recv(timeout=10) == "hello"
        server.stop()
    finally:
        server.kill()


def test_the_view_that_was_a_consumer_does_what_it_did(mysite: Project, project: Project) -> None:
    for page in ("adopting.md", "from-channels.md"):
        paste(project.path / "docs" / page, mysite.path)
    (mysite.path / "mysite" / "tests.py").write_text(CHANNELS_TEST)
    assert "\nOK" in mysite.run("manage.py", "test", "mysite").stderr


def test_what_the_table_names_is_there(project: Project) -> None:
    page = (project.path / "docs" / "from-channels.md").read_text(encoding="utf-8")
    names = set(re.findall(r"socket\.(\w+)\(", page))
    show = (
        "import json; from websocket.connection import WebSocket; print(json.dumps(dir(WebSocket)))"
    )
    django = {**project.env, "DJANGO_SETTINGS_MODULE": "project.settings"}
    assert names <= set(json.loads(project.run("-c", show, env=django).stdout))
    imports = (
        "from websocket.groups import apublish, publish, subscribe; "
        "from websocket.testing import ASGILiveServerTestCase, connect; "
        "from websocket.urls import re_websocket, websocket; "
        "from websocket.views import WebSocketView, origin_exempt"
    )
    project.run("-c", f"import django; django.setup(); {imports}", env=django)
