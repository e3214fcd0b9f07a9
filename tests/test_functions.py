"""Tests of sockets as functions, with pytest-asyncio or anyio, in any order and two processes."""

import os
import sys
from pathlib import Path

import pytest
from conftest import Project, run

# Written once for both plugins, whose marks have their names.
TESTS = """
import pytest
from users.models import User
from websocket.groups import apublish
from websocket.testing import connect, listen


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def anna(transactional_db):
    return User.objects.create_user("anna")


@pytest.mark.PLUGIN
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("time", ["first", "second"])
async def test_a_socket_sees_the_rows_of_the_test_and_the_next_test_does_not(anna, time):
    assert await User.objects.acount() == 1
    await User.objects.acreate(username="ben")
    async with connect("/clock/", user=anna) as socket:
        assert (await socket.receive_json())["user"] == "anna"


@pytest.mark.PLUGIN
@pytest.mark.django_db
@pytest.mark.parametrize("time", ["first", "second", "third"])
async def test_a_socket_and_a_test_may_use_the_database(time):
    assert await User.objects.acount() == 0
    async with connect("/clock/") as socket:
        assert (await socket.receive_json())["user"] == ""


@pytest.mark.PLUGIN
async def test_a_test_without_a_database_waits_for_a_groups_message():
    async with listen("news") as news:
        await apublish("news", "hello")
        assert await news.receive() == "hello"
        await news.receive_nothing(0.001)
"""


@pytest.mark.slow
def test_functions_test_sockets_with_pytest_asyncio_and_with_anyio(
    workshop: Project, tmp_path: Path
) -> None:
    # anyio, which uvicorn[standard] needs, brings its plugin with it.
    packages = tmp_path / "packages"
    run(
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"),
        *("--python", workshop.python, "--target", packages),
        *("pytest-asyncio>=1.2", "pytest-randomly>=4.0"),
    )
    folder = workshop.path / "users" / "tests"
    for plugin in ("anyio", "asyncio"):
        (folder / f"test_with_{plugin}.py").write_text(TESTS.replace("PLUGIN", plugin))
    env = {**workshop.env, "PYTHONPATH": os.fspath(packages)}
    result = workshop.run("-m", "pytest", "-n", "2", "-k", "test_with_", "users", env=env)
    assert "Using --randomly-seed=" in result.stdout
    assert "12 passed" in result.stdout  # A test that no plugin runs would be skipped.
    assert "skipped" not in result.stdout
