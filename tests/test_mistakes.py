"""Mistakes that newcomers make: each gets one sentence in the log, which names the fix."""

import pytest
from conftest import Project
from sites import TESTS

# --- what stops the start ----------------------------------------------------------------------

STARTS = {
    "a setting out of range": (
        {"DJANGO_SETTINGS_MODULE": "testsite.settings", "WEBSOCKET_THREADS": "0"},
        "WEBSOCKET_THREADS is 0: it has to be a whole number, 1 or more.",
    ),
    "Redis without its package": (
        {"DJANGO_SETTINGS_MODULE": "mistakesite.without_redis", "REDIS_URL": "redis://127.0.0.1"},
        "WEBSOCKET_REDIS_URL is set, but the package redis is not installed: pip install redis.",
    ),
    "Redis without its scheme": (
        {"REDIS_URL": "127.0.0.1:6379"},
        "WEBSOCKET_REDIS_URL is not a URL such as redis://localhost:6379/0, in which a password "
        "is percent-encoded.",
    ),
}


@pytest.mark.parametrize("mistake", STARTS)
def test_the_server_does_not_start_and_the_last_line_says_why(
    project: Project, mistake: str
) -> None:
    env, sentence = STARTS[mistake]
    assert last_line_of_start(project, **env) == sentence


def test_without_a_key_the_last_line_tells_of_debug_and_of_the_file_env(workshop: Project) -> None:
    (workshop.path / ".env").unlink()
    assert last_line_of_start(workshop) == (
        "SECRET_KEY is not set, and DEBUG is off: to develop, write DEBUG=true to the file .env; "
        "to deploy, set SECRET_KEY in the environment (.env.example has the rest)."
    )


def last_line_of_start(project: Project, **env: str) -> str:
    env = {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1", **env}
    command = ("-m", "uvicorn", "project.asgi:application", "--port", "0")
    result = project.run(*command, check=False, env={**project.env, **env}, timeout=60)
    assert result.returncode != 0
    error, _, sentence = result.stderr.strip().splitlines()[-1].partition(": ")
    assert error == "django.core.exceptions.ImproperlyConfigured"
    return sentence
