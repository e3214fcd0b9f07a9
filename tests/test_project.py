"""The rendered project: its own tests, its management commands, its production settings."""

import re
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project, clean_environment, run

PRODUCTION = {
    "ALLOWED_HOSTS": "example.com",
    "DEBUG": "false",
    "REDIS_URL": "redis://localhost",
    "SECRET_KEY": secrets.token_urlsafe(50),
    "SECURE_PROXY_SSL_HEADER": "X-Forwarded-Proto",
}


# That all of its tests pass is seen in test_floor, on SQLite and in memory, and in test_deploy, on
# PostgreSQL and Redis. Those of the WebSocket layer do not depend on what differs here.


def test_the_projects_own_tests_pass_without_its_env_file(workshop: Project) -> None:
    # As its GitHub workflow runs them: .env is not in the repository.
    (workshop.path / ".env").unlink()
    env = {**workshop.env, "DEBUG": "true", "SECRET_KEY": "for-tests-only"}
    assert " passed" in workshop.run("-m", "pytest", "project", "users", env=env).stdout


def test_a_project_without_the_chat_example_is_as_sound(
    render: Callable[..., Path], project: Project
) -> None:
    rendered = Project(render(chat_example=False), project.python)
    assert " passed" in rendered.run("-m", "pytest", "project", "users").stdout
    check = rendered.run("manage.py", "check", "--fail-level", "DEBUG")
    assert "no issues (0 silenced)" in check.stdout
    rendered.run("manage.py", "makemigrations", "--check", "--dry-run")
    rendered.run("manage.py", "migrate")


def test_the_chat_is_removed_as_the_readme_says_and_the_rest_is_sound(
    workshop: Project, mypy: Callable[..., str]
) -> None:
    readme = (workshop.path / "README.md").read_text(encoding="utf-8")
    sentences = readme.partition("To remove the example, run ")[2].partition("\n")[0]
    migrate, word, *files, login, redirect, settings_py, tidy = re.findall("`(.+?)`", sentences)
    assert (word, files[0]) == ("chat", settings_py)
    workshop.run(*migrate.split()[1:])
    shutil.rmtree(workshop.path / word)
    for name in files:
        lines = (workshop.path / name).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if word not in line]
        assert len(kept) < len(lines), name
        (workshop.path / name).write_text("".join(kept), encoding="utf-8")
    settings = workshop.path / settings_py
    (history,) = re.findall(
        "^WEBSOCKET_HISTORY .*$",
        (workshop.path / "docs" / "groups.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    settings.write_text(f"{settings.read_text(encoding='utf-8')}{login}\n{redirect}\n{history}\n")
    for command in tidy.split(" && "):
        workshop.run("-m", *command.split())
    check = workshop.run("manage.py", "check", "--fail-level", "DEBUG")
    assert "no issues (0 silenced)" in check.stdout
    assert " passed" in workshop.run("-m", "pytest", "project", "users").stdout
    for command in (("check", "."), ("format", "--check", ".")):
        workshop.run("-m", "ruff", *command, "--no-cache")
    mypy(workshop.path)


@pytest.mark.slow
def test_uv_runs_the_projects_own_tests_and_mypy_without_the_optional_packages(
    workshop: Project,
) -> None:
    env = clean_environment(UV_PYTHON=sys.executable, UV_PYTHON_DOWNLOADS="never")
    uv = (sys.executable, "-m", "uv", "run", "--extra", "dev")
    find = "from importlib.util import find_spec; assert not find_spec('redis')"
    run(*uv, "python", "-c", find, cwd=workshop.path, env=env)
    # Collecting imports all tests. Those of groups take longest; test_floor runs them.
    collected = run(*uv, "pytest", "--collect-only", "-q", cwd=workshop.path, env=env)
    assert " tests collected" in collected.stdout
    files = ("users", "websocket/tests/test_checks.py", "websocket/tests/test_many_redis.py")
    assert " passed" in run(*uv, "pytest", *files, cwd=workshop.path, env=env).stdout
    run(*uv, "mypy", ".", cwd=workshop.path, env=env)


def test_django_finds_nothing_to_say_about_the_project(project: Project) -> None:
    result = project.run("manage.py", "check", "--fail-level", "DEBUG")
    assert "no issues (0 silenced)" in result.stdout


def test_the_migrations_are_up_to_date_with_the_models(workshop: Project) -> None:
    workshop.run("manage.py", "makemigrations", "--check", "--dry-run")
    workshop.run("manage.py", "migrate", "--check")


def test_django_finds_nothing_to_say_about_production(workshop: Project) -> None:
    (workshop.path / ".env").unlink()
    result = workshop.run(
        *("manage.py", "check", "--deploy", "--fail-level", "DEBUG"),
        env={**workshop.env, **PRODUCTION},
    )
    assert "no issues (0 silenced)" in result.stdout


@pytest.mark.parametrize("debug", [{}, {"DEBUG": "false"}], ids=["unset", "off"])
def test_without_a_secret_key_only_debug_lets_the_project_start(
    workshop: Project, debug: dict[str, str]
) -> None:
    (workshop.path / ".env").unlink()
    result = workshop.run("manage.py", "check", env={**workshop.env, **debug}, check=False)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "ImproperlyConfigured: " in last
    assert "SECRET_KEY" in last
    workshop.run("manage.py", "check", env={**workshop.env, "DEBUG": "true"})


def test_the_environment_wins_over_the_env_file(workshop: Project) -> None:
    show = ("manage.py", "shell", "-c", "from django.conf import settings as s; print(s.DEBUG)")
    assert workshop.run(*show).stdout.splitlines()[-1] == "True"
    env = {**workshop.env, "DEBUG": "false"}
    assert workshop.run(*show, env=env).stdout.splitlines()[-1] == "False"


def test_no_formatter_moves_an_import_before_the_settings_are_named(workshop: Project) -> None:
    asgi = workshop.path / "project" / "asgi.py"
    before = asgi.read_text()
    asgi.write_text(before.replace("  # noqa: E402", ""))
    ruff = ("-m", "ruff", "check", "--no-cache", "--fix", "--unsafe-fixes", "--exit-zero")
    workshop.run(*ruff, "--select", "ALL", "--ignore", "D", asgi)
    workshop.run("-m", "ruff", "format", "--no-cache", asgi)
    workshop.run("-c", "import project.asgi")


def test_the_application_starts_whatever_imports_it(workshop: Project) -> None:
    workshop.run("-W", "error", "-c", "import project.asgi", cwd=workshop.path)
