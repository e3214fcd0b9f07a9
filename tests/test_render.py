"""What the template renders: which files, with which text, and as clean as a linter can tell."""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import TEMPLATE, Project, run
from markdown_it import MarkdownIt
from markdown_it.token import Token

PATHS = """
.dockerignore
.editorconfig
.env
.env.example
.github/dependabot.yml
.github/workflows/tests.yml
.gitignore
AGENTS.md
Caddyfile
Dockerfile
README.md
SECURITY.md
chat/__init__.py
chat/admin.py
chat/apps.py
chat/forms.py
chat/management/__init__.py
chat/management/commands/__init__.py
chat/management/commands/announce.py
chat/migrations/0001_initial.py
chat/migrations/0002_lobby.py
chat/migrations/__init__.py
chat/models.py
chat/signals.py
chat/static/chat/page.js
chat/static/chat/room.js
chat/templates/chat/base.html
chat/templates/chat/login.html
chat/templates/chat/room.html
chat/templates/chat/rooms.html
chat/tests/__init__.py
chat/tests/test_pages.py
chat/tests/test_room.py
chat/urls.py
chat/views.py
compose.yaml
conftest.py
docs/adopting.md
docs/architecture.md
docs/browser.md
docs/fast.md
docs/first-app.md
docs/from-channels.md
docs/graphql.md
docs/groups.md
docs/handshake.md
docs/html.md
docs/production.md
docs/reference.md
docs/security.md
docs/testing.md
docs/threads.md
docs/tokens.md
docs/views.md
manage.py
project/__init__.py
project/asgi.py
project/health.py
project/logging.py
project/management/__init__.py
project/management/commands/__init__.py
project/management/commands/runserver.py
project/settings.py
project/templates/404.html
project/templates/500.html
project/templates/admin/base_site.html
project/tests/__init__.py
project/tests/test_faults.py
project/tests/test_health.py
project/tests/test_logging.py
project/tests/test_runserver.py
project/tests/test_settings.py
project/tests/test_templates.py
project/urls.py
pyproject.toml
serve
users/__init__.py
users/admin.py
users/apps.py
users/migrations/0001_initial.py
users/migrations/0002_note.py
users/migrations/__init__.py
users/models.py
users/static/users/code.js
users/static/users/favicon.svg
users/static/users/index.js
users/static/users/reasons.js
users/static/users/wall.js
users/templates/code.html
users/templates/index.html
users/tests/__init__.py
users/tests/test_admin.py
users/tests/test_views.py
users/views.py
websocket/__init__.py
websocket/admission.py
websocket/apps.py
websocket/attributes.py
websocket/auth.py
websocket/checks.py
websocket/conf.py
websocket/connection.py
websocket/console.py
websocket/counters.py
websocket/drain.py
websocket/fast.py
websocket/groups/__init__.py
websocket/groups/following.py
websocket/groups/history.py
websocket/groups/membership.py
websocket/groups/memory.py
websocket/groups/message.py
websocket/groups/presence.py
websocket/groups/redis.py
websocket/groups/redis_history.py
websocket/groups/redis_presence.py
websocket/groups/redis_tasks.py
websocket/groups/server.py
websocket/groups/subscription.py
websocket/groups/tasks.py
websocket/handshake.py
websocket/hints.py
websocket/inbox.py
websocket/internals.py
websocket/lifecycle.py
websocket/link.py
websocket/logins.py
websocket/lookout.py
websocket/management/__init__.py
websocket/management/commands/__init__.py
websocket/management/commands/publish.py
websocket/management/commands/sockets.py
websocket/members.py
websocket/metrics.py
websocket/middleware.py
websocket/outbox.py
websocket/pacing.py
websocket/pending.py
websocket/protocol.py
websocket/redis_url.py
websocket/refusal.py
websocket/resume.py
websocket/routes.py
websocket/sentry.py
websocket/sessions.py
websocket/state.py
websocket/static/websocket/client.js
websocket/static/websocket/site.css
websocket/streams.py
websocket/supervisor.py
websocket/sweep.py
websocket/templates/websocket/console.html
websocket/testing.py
websocket/tests/__init__.py
websocket/tests/redis_server.py
websocket/tests/test_admission.py
websocket/tests/test_auth.py
websocket/tests/test_checks.py
websocket/tests/test_commands.py
websocket/tests/test_connection.py
websocket/tests/test_drain.py
websocket/tests/test_fast.py
websocket/tests/test_group_tasks.py
websocket/tests/test_groups.py
websocket/tests/test_handshake.py
websocket/tests/test_history.py
websocket/tests/test_inbox.py
websocket/tests/test_internals.py
websocket/tests/test_life.py
websocket/tests/test_link.py
websocket/tests/test_many_redis.py
websocket/tests/test_outbox.py
websocket/tests/test_presence.py
websocket/tests/test_protocol.py
websocket/tests/test_redis.py
websocket/tests/test_sessions.py
websocket/tests/test_streams.py
websocket/tests/test_subclass.py
websocket/tests/test_subscribe.py
websocket/tests/test_testing.py
websocket/tests/test_threads.py
websocket/tests/test_views.py
websocket/tests/uvicorn_server.py
websocket/tests/wire.py
websocket/threads.py
websocket/urls.py
websocket/views.py
"""

# Text that means something else to TOML, to Python, to Markdown, to HTML, to Jinja or to a shell.
NASTY = {
    "apostrophe": "Anna's site",
    "backslash at the end": "C:\\",
    "chinese": "\u6211\u7684\u7f51\u7ad9",
    "control characters": "bell \x07 escape \x1b delete \x7f",
    "curly quotes": "Anna\u2019s \u201csite\u201d \u2013 the best",
    "cyrillic": "\u041c\u043e\u0439 \u043f\u0440\u043e\u0435\u043a\u0442, my \u0441ite",
    "dollar and hash": "# ${HOME} $(id) `id` %s {0} #: if #: # jinja: if",
    "double quotes": 'the "best" site',
    "emoji": "\U0001f680 rockets \U0001f469\u200d\U0001f680",
    "escapes": "\\n \\x41 \\N{BULLET} \\\\",
    "html": "<script>alert('1')</script> &amp; <b>",
    "jinja block": "{% raise %} {% endraw %} {# gone #}",
    "jinja expression": "{{ cookiecutter.project_slug }} {{ 7 * 7 }}",
    "long": "A very long name " + "that goes on and on " * 10 + "to the end",
    "markdown": "[a](b) ![c](d) *e* _f_ ~~g~~ | h > i - j + k 1. l `m` <http://n> &copy;",
    "newlines": "first\nsecond\r\nthird\tfourth\u2028fifth",
    "setext heading": "one\n===\ntwo\n---",
    "triple quotes": '""" \'\'\' """\\',
}


def files(project: Path) -> list[str]:
    paths = (path for path in project.rglob("*") if path.is_file())
    return sorted(path.relative_to(project).as_posix() for path in paths)


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_exactly_these_files_are_rendered(render: Callable[..., Path]) -> None:
    assert "\n".join(files(render())) == PATHS.strip()


def test_without_the_chat_example_nothing_is_left_of_it(render: Callable[..., Path]) -> None:
    project = render(chat_example=False)
    assert files(project) == [path for path in PATHS.split() if not path.startswith("chat/")]
    for path in files(project):
        # Documents and the tests of groups may speak of chats, as an example of their own.
        text = (project / path).read_text(encoding="utf-8")
        if not path.startswith(("docs/", "websocket/tests/")) and path != "README.md":
            assert "chat" not in text.lower(), path
        elif path.endswith(".md"):
            # Channels' own example is a chat, too.
            text = re.sub(r'"chat\.message"|\bws/chat/', "", text)
            assert not re.search(r"\bchat[/.:]", text), path


@pytest.mark.parametrize("chat", [True, False])
def test_each_link_in_the_documents_leads_to_a_file_and_a_heading_that_exist(
    render: Callable[..., Path], chat: bool
) -> None:
    project = render(chat_example=chat)
    pages = {
        path.resolve(): MarkdownIt().parse(path.read_text("utf-8"))
        for path in project.rglob("*.md")
    }
    anchors = {path: set(headings(tokens)) for path, tokens in pages.items()}
    found = 0
    for path, tokens in pages.items():
        for link in links(tokens):
            target, _, anchor = link.partition("#")
            if "://" in target:
                continue
            found += 1
            file = (path.parent / target).resolve() if target else path
            assert file.is_file(), f"{path.name} links to {link}"
            assert not anchor or anchor in anchors[file], f"{path.name} links to {link}"
    assert found > 30


def headings(tokens: list[Token]) -> Iterator[str]:
    """Yield the anchors that GitHub gives the headings of a page."""
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or [])
            yield re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def links(tokens: list[Token]) -> Iterator[str]:
    """Yield where the links and pictures of a page lead."""
    for token in tokens:
        for child in token.children or []:
            if target := child.attrGet("href") or child.attrGet("src"):
                yield str(target)


@pytest.mark.parametrize("chat", [True, False])
def test_nothing_of_the_template_is_left_in_the_project(
    render: Callable[..., Path], chat: bool
) -> None:
    project = render(chat_example=chat)
    for path in files(project):
        text = (project / path).read_text(encoding="utf-8")
        assert "cookiecutter." not in path + text, path
        assert not re.search(r"^\s*# jinja:", text, re.MULTILINE), path
        if not path.endswith((".html", ".md", ".yml")):
            assert not re.search(r"{{|{%|{#", text), path


def test_the_same_answers_give_the_same_bytes_but_for_the_secrets(
    render: Callable[..., Path],
) -> None:
    first, second = render(), render()
    for path in files(first):
        same = (first / path).read_bytes() == (second / path).read_bytes()
        assert same == (path != ".env"), path
        assert (first / path).stat().st_mode == (second / path).stat().st_mode, path
    assert files(first) == files(second)


class Text(HTMLParser):
    """The tags of a page, and the text of its title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.title = ""
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["title"]:
            self.title += data


@cache
def index_page(path: Path, python: Project) -> Text:
    get = (
        "import django, sys; django.setup()\n"
        "from django.test import Client\n"
        "sys.stdout.buffer.write(Client().get('/', HTTP_HOST='localhost').content)"
    )
    env = {**python.env, "DJANGO_SETTINGS_MODULE": "project.settings"}
    return Text(python.run("-c", get, cwd=path, env=env).stdout)


def check_text(project: Path, python: Project, text: str) -> None:
    """Check that the text that was typed is the text that each of the files holds."""
    pyproject = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["project"]["description"] == one_line(text)

    settings = ast.parse((project / "project" / "settings.py").read_bytes())
    (name,) = [
        ast.literal_eval(node.value)
        for node in settings.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PROJECT_NAME"
    ]
    assert name == text

    tokens = MarkdownIt().parse((project / "README.md").read_text(encoding="utf-8"))
    assert [token.type for token in tokens[:3]] == ["heading_open", "inline", "heading_close"]
    assert tokens[0].tag == "h1"
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}
    assert "".join(child.content for child in tokens[1].children) == one_line(text)

    page = index_page(project, python)
    assert page.tags == index_page(python.path, python).tags
    assert one_line(text) in one_line(page.title)

    # The files that the text is in; what the rest looks like, another test says once.
    ruff = ("-m", "ruff", "check", "--no-cache", "project", "pyproject.toml")
    python.run(*ruff, cwd=project)
    ruff = ("-m", "ruff", "format", "--no-cache", "--check", "project", "README.md")
    python.run(*ruff, cwd=project)


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_free_text_means_the_same_text_wherever_it_lands(
    render: Callable[..., Path], project: Project, text: str
) -> None:
    rendered = render(project_name=text, project_slug="nasty", description=text)
    check_text(rendered, project, text)


def test_text_typed_at_the_prompts_means_the_same_text(
    template: Path, cookiecutter_config: Path, project: Project, tmp_path: Path
) -> None:
    text = 'Anna\'s "best" {{ 7 * 7 }} {% if %} {# # jinja: # <b> [/] [bold] \U0001f680 \\'
    command = (sys.executable, "-m", "cookiecutter", template, "-o", tmp_path)
    run(*command, "--config-file", cookiecutter_config, input=f"{text}\nnasty\n{text}\nyes\n")
    check_text(tmp_path / "nasty", project, text)


def test_pip_installs_a_project_whose_description_is_nasty(
    render: Callable[..., Path], project: Project, tmp_path: Path
) -> None:
    text = "\n".join(NASTY.values())
    rendered = render(project_name=text, project_slug="nasty", description=text)
    run(
        *(sys.executable, "-m", "uv", "pip", "install", "--python", project.python, "--no-deps"),
        *("--target", tmp_path, rendered),
    )
    (metadata,) = tmp_path.glob("nasty-*.dist-info/METADATA")
    assert f"\nSummary: {one_line(text)}\n" in metadata.read_text(encoding="utf-8")


@pytest.mark.parametrize("chat", [True, False])
def test_the_rendered_code_is_clean(
    render: Callable[..., Path], project: Project, mypy: Callable[..., str], chat: bool
) -> None:
    rendered = render(chat_example=chat)
    for check in (
        ("-m", "ruff", "check", "--no-cache", "."),
        ("-m", "ruff", "format", "--no-cache", "--check", "."),
        ("-W", "error", "-m", "compileall", "-q", "-f", "."),
    ):
        project.run(*check, cwd=rendered)
    if chat:  # Without the example, a few lines are gone from the same code.
        mypy(rendered)


def test_the_code_is_clean_before_it_is_rendered() -> None:
    for check in (("check",), ("format", "--check")):
        run(sys.executable, "-m", "ruff", *check, "--no-cache", TEMPLATE)
    for path in TEMPLATE.glob("{{cookiecutter.project_slug}}/**/*.py"):
        compile(path.read_bytes(), path, "exec")


def test_git_ignores_what_is_made_on_this_machine_and_nothing_else(
    render: Callable[..., Path],
) -> None:
    project = render()
    run("git", "init", "--quiet", cwd=project)
    made = [".venv/bin/python", "db.sqlite3", "staticfiles/a.css", "users/__pycache__/a.pyc"]
    for path in made:
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).touch()
    # The excludes of the project alone, not those of whoever runs the tests.
    ignored = run(
        *("git", "ls-files", "--others", "--ignored", "--exclude-per-directory=.gitignore"),
        cwd=project,
    )
    assert ignored.stdout.split() == sorted([".env", *made])


def test_the_page_on_security_names_each_setting(render: Callable[..., Path]) -> None:
    project = render()
    conf = (project / "websocket" / "conf.py").read_text()
    settings = {f"WEBSOCKET_{name}" for name in re.findall(r"^([A-Z_]+): ", conf, re.MULTILINE)}
    page = (project / "docs" / "security.md").read_text()
    assert set(re.findall("WEBSOCKET_[A-Z_]+", page)) == settings
