"""The tutorial in docs/first-app.md and the recipes in AGENTS.md: each step is taken, and works."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HEADLESS_SHELL, Project, Server, needs_chromium
from markdown_it import MarkdownIt
from playwright.sync_api import Page, expect, sync_playwright

from docs import FILE, blocks

COMMAND = "python manage.py "
ROOT = {
    "DJANGO_SUPERUSER_EMAIL": "root@example.com",
    "DJANGO_SUPERUSER_PASSWORD": "root",
    "DJANGO_SUPERUSER_USERNAME": "root",
}


@pytest.fixture(scope="module")
def tutorial(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project of a reader who has run each command and saved each file, in the page's order."""
    copy = project.copy(tmp_path_factory.mktemp("tutorial") / "project")
    page = (project.path / "docs" / "first-app.md").read_text(encoding="utf-8")
    for token in MarkdownIt().parse(page):
        if token.type == "fence" and token.info == "sh":
            for line in token.content.splitlines():
                if line.startswith(COMMAND):
                    command = line.removeprefix(COMMAND).split()
                    no_input = ["--no-input"] * (command == ["createsuperuser"])
                    copy.run("manage.py", *command, *no_input, env={**copy.env, **ROOT})
        elif token.type == "fence":
            named = FILE.match(token.content)
            assert named, f"This block names no file:\n{token.content}"
            path = copy.path / named["path"]
            if path.is_relative_to(copy.path / "polls"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(token.content, encoding="utf-8")
            else:
                paste(path, token.content)
    for code in blocks((project.path / "AGENTS.md").read_text("utf-8"), "python", "html", "js"):
        paste(copy.path / FILE.match(code)["path"], code)
    return copy


def paste(path: Path, code: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n\n{code}" if file.tell() else code)


def test_the_tests_of_the_tutorial_and_of_the_recipes_pass(tutorial: Project) -> None:
    result = tutorial.run("-m", "pytest", "polls", "users/tests/test_shout.py")
    assert "9 passed" in result.stdout


@pytest.mark.slow
def test_django_and_the_linters_find_nothing_to_say_about_the_code(
    tutorial: Project, mypy: Callable[..., str]
) -> None:
    assert "no issues" in tutorial.run("manage.py", "check", "--fail-level", "DEBUG").stdout
    tutorial.run("manage.py", "makemigrations", "--check", "--dry-run")
    tutorial.run("-m", "ruff", "check", "--no-cache", "polls")
    tutorial.run("-m", "ruff", "format", "--no-cache", "--check", "polls", "docs", "AGENTS.md")
    mypy(tutorial.path)
    assert "/polls/<int:pk>/ws/  " in tutorial.run("manage.py", "sockets").stdout


def log_in(page: Page) -> None:
    page.get_by_label("Username").fill("root")
    page.get_by_label("Password").fill("root")
    page.get_by_role("button", name="Log in").click()


@needs_chromium
def test_a_vote_and_a_change_in_the_admin_show_on_all_pages(
    tutorial: Project, serve: Callable[..., Server]
) -> None:
    server = serve(path=tutorial.path)
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=HEADLESS_SHELL, args=["--no-sandbox"])
        ours = browser.new_context()
        admin, voter, watcher = ours.new_page(), ours.new_page(), browser.new_context().new_page()

        admin.goto(f"{server.url}/admin/polls/poll/add/")
        log_in(admin)
        admin.get_by_label("Question").fill("Tea or coffee?")
        for number, text in enumerate(["Tea", "Coffee"]):
            admin.locator(f"[name=choices-{number}-text]").fill(text)
        admin.get_by_role("button", name="Save and continue editing").click()
        with admin.expect_navigation():
            admin.get_by_role("link", name="View on site").click()
        poll = admin.url
        admin.go_back()

        watcher.goto(poll)
        voter.goto(poll)
        expect(watcher.locator("output")).to_have_text(["0", "0"])
        expect(watcher.get_by_role("button", name="Tea")).to_be_disabled()
        expect(voter.get_by_role("link", name="Log in")).to_be_hidden()

        voter.get_by_role("button", name="Tea").click()
        for page in (voter, watcher):
            expect(page.locator("output")).to_have_text(["1", "0"])
        voter.get_by_role("button", name="Coffee").click()
        for page in (voter, watcher):
            expect(page.locator("output")).to_have_text(["0", "1"])

        admin.get_by_label("Question").fill("Tea or <b>juice</b>?")
        admin.locator("[name=choices-1-text]").fill("Juice")
        admin.get_by_role("button", name="Save and continue editing").click()
        for page in (voter, watcher):
            expect(page.get_by_role("heading")).to_have_text("Tea or <b>juice</b>?")
            expect(page.get_by_role("button")).to_have_text(["Tea", "Juice"])

        admin.get_by_role("button", name="Log out").click()
        expect(voter.get_by_role("button", name="Tea")).to_be_disabled()
        voter.get_by_role("link", name="Log in").click()
        log_in(voter)
        expect(voter).to_have_url(poll)
        voter.get_by_role("button", name="Tea").click()
        expect(watcher.locator("output")).to_have_text(["1", "0"])

        # The page of the recipes.
        watcher.goto(f"{server.url}/shout/")
        watcher.get_by_label("Text").fill("<b>hello</b>")
        watcher.get_by_role("button", name="Shout").click()
        expect(watcher.get_by_role("status")).to_have_text("<B>HELLO</B>")
        browser.close()
