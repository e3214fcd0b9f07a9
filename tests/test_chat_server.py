"""The chat example's socket on real servers and databases: what is stored, and who is told."""

import asyncio
import contextlib
import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Project, Server
from services import running_postgres
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

LOG_IN = """
from django.test import Client
from users.models import User

client = Client()
client.force_login(User.objects.create_user("ada"))
print(client.cookies["sessionid"].value)
"""


@pytest.fixture(scope="module")
def postgres(project: Project) -> Iterator[str]:
    """The URL of a migrated database."""
    with running_postgres() as server:
        project.run("manage.py", "migrate", env={**project.env, "DATABASE_URL": server.url})
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def env(request: pytest.FixtureRequest, project: Project, tmp_path: Path) -> dict[str, str]:
    """The environment of a server on each database."""
    if request.param == "sqlite":
        database = shutil.copy(project.path / "db.sqlite3", tmp_path / "db.sqlite3")
        return {"DATABASE_URL": f"sqlite:///{database}"}
    return {"DATABASE_URL": request.getfixturevalue("postgres")}


def test_a_key_that_two_connections_send_at_once_is_stored_and_told_once(
    serve: Callable[..., Server], project: Project, env: dict[str, str]
) -> None:
    """As where a page sends a message again before the server knows that it was away."""

    def shell(code: str) -> str:
        return project.run("manage.py", "shell", "-c", code, env={**project.env, **env}).stdout

    cookie = {"Cookie": f"sessionid={shell(LOG_IN).split()[-1]}"}
    server = serve(env=env)
    url = f"{server.ws}/chat/rooms/lobby/ws/"
    events: asyncio.Queue[tuple[str | None, str]] = asyncio.Queue()

    async def read(client: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in client:
                event = json.loads(message)
                if event["type"] in ("joined", "left"):
                    continue
                code = event["errors"]["key"][0]["code"] if "errors" in event else event["type"]
                events.put_nowait((event.get("key"), code))

    async def say(key: str, *clients: ClientConnection) -> None:
        data = json.dumps({"type": "say", "text": "Hello", "key": key})
        await asyncio.gather(*(client.send(data) for client in clients))

    async def talk() -> None:
        async with (
            connect(url, additional_headers=cookie) as one,
            connect(url, additional_headers=cookie) as other,
        ):
            readers = [asyncio.create_task(read(client)) for client in (one, other)]
            assert [await events.get() for _ in readers] == [(None, "state")] * 2
            for key in (uuid.uuid4().hex for _ in range(50)):
                await say(key, one, other)
                answers = Counter([await events.get() for _ in range(3)])
                assert answers == {(key, "message"): 2, (key, "unique"): 1}
            shell("from chat.models import Room; Room.objects.all().delete()")
            await say(uuid.uuid4().hex, one, other)
            await asyncio.wait(readers)
            for client in (one, other):
                assert (client.close_code, client.close_reason) == (1008, "This room is gone.")
            assert events.empty()

    asyncio.run(asyncio.wait_for(talk(), 60))
    server.stop()
    assert "ERROR" not in server.log(), server.log()
