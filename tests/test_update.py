"""A project follows its template with cruft, and keeps what is its own."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import clean_environment, run

GIT = ("git", "-c", "user.name=Anna", "-c", "user.email=anna@example.com")


@pytest.fixture
def commit() -> Callable[[Path, str], None]:
    def commit(folder: Path, message: str) -> None:
        run("git", "add", "--all", cwd=folder)
        run(*GIT, "commit", "--quiet", "--message", message, cwd=folder)

    return commit


@pytest.fixture
def cruft(tmp_path: Path) -> Callable[..., int]:
    """A function that runs cruft, and returns what it exits with."""
    # cruft copies what the user's configuration says; a home of its own has none.
    home = tmp_path / "home"
    home.mkdir()
    env = clean_environment(HOME=str(home), XDG_CONFIG_HOME=str(home))

    def cruft(*args: str | Path, check: bool = True, cwd: Path = tmp_path) -> int:
        command = (sys.executable, "-m", "cruft", *args)
        return run(*command, check=check, cwd=cwd, env=env).returncode

    return cruft


@pytest.fixture
def source(template: Path, tmp_path: Path, commit: Callable[[Path, str], None]) -> Path:
    """The template as a git repository, to be changed."""
    source = Path(shutil.copytree(template, tmp_path / "source"))
    run("git", "init", "--quiet", "--initial-branch=main", cwd=source)
    commit(source, "The template, as it was")
    return source


@pytest.mark.slow
def test_a_project_that_cookiecutter_made_learns_later_where_it_comes_from(
    source: Path, render: Callable[..., Path], cruft: Callable[..., int]
) -> None:
    project = render()
    cruft("link", source, "--no-input", "--checkout", "main", cwd=project)
    cruft("check", cwd=project)


@pytest.mark.slow
def test_an_update_brings_the_templates_changes_and_keeps_the_projects_own(
    source: Path,
    tmp_path: Path,
    commit: Callable[[Path, str], None],
    cruft: Callable[..., int],
) -> None:
    cruft("create", source, "--no-input", "--checkout", "main")
    project = tmp_path / "my_project"
    assert json.loads((project / ".cruft.json").read_text())["template"] == str(source)
    run("git", "init", "--quiet", cwd=project)
    commit(project, "The project, as it was rendered")
    secrets = (project / ".env").read_text()

    mine = (project / "users" / "views.py").read_text() + "\n\nMINE = True\n"
    (project / "users" / "views.py").write_text(mine)
    (project / "users" / "of_mine.py").write_text("MINE = True\n")
    (project / ".env").write_text(secrets + "MINE=true\n")
    commit(project, "What the user does")
    cruft("check", cwd=project)

    rendered = source / "{{cookiecutter.project_slug}}"
    urls = rendered / "websocket" / "urls.py"
    urls.write_text(urls.read_text() + "\n# A line of the newer template.\n")
    views = rendered / "users" / "views.py"
    views.write_text(views.read_text().replace('"""', '"""Newer: ', 1))
    (rendered / "users" / "newer.py").write_text('"""A file of the newer template."""\n')
    (rendered / "users" / "admin.py").unlink()
    commit(source, "The template, changed")

    assert cruft("check", check=False, cwd=project) == 1
    cruft("update", "--skip-apply-ask", cwd=project)
    cruft("check", cwd=project)

    assert (project / "websocket" / "urls.py").read_text().endswith("newer template.\n")
    assert (project / "users" / "newer.py").exists()
    assert not (project / "users" / "admin.py").exists()
    assert (project / "users" / "of_mine.py").exists()
    assert (project / "users" / "views.py").read_text() == mine.replace('"""', '"""Newer: ', 1)
    assert (project / ".env").read_text() == secrets + "MINE=true\n"
    assert (project / "serve").stat().st_mode & 0o111
    assert not list(project.rglob("*.rej"))
