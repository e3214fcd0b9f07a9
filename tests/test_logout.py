"""Logouts under real servers: slow databases and decorators, a Redis that is slow or goes away."""

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE, Project, Server
from services import Redis, Wire, running_redis
from sites import RawClient, cookie_of, frame, get, quiet, serving
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import InvalidStatus

TEXT = 1


@contextlib.asynccontextmanager
async def connect(server: Server, path: str, cookie: str) -> AsyncIterator[ClientConnection]:
    headers = {"Cookie": cookie} if cookie else {}
    async with async_connect(f"{server.ws}{path}", additional_headers=headers) as client:
        yield client


def log_out(server: Server, cookie: str) -> None:
    """Log out, and return once the page says so."""
    request = urllib.request.Request(f"{server.url}/log-out/", headers={"Cookie": cookie})
    urllib.request.urlopen(request, timeout=PATIENCE).close()


async def closed(client: ClientConnection) -> int | None:
    """Wait until the server closes a connection, and return the close code."""
    async with asyncio.timeout(PATIENCE):
        await client.wait_closed()
    return client.close_code


async def assert_refused(server: Server, path: str, cookie: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(server, path, cookie):
            pass
    # The client follows the redirect to the login, where there is no socket.
    assert refused.value.response.status_code == 404


# --- the session, and the handshake ------------------------------------------------------------


@pytest.fixture(scope="module")
def site(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A site whose database takes half a second to end a session."""
    env = {"SESSION_ENGINE": "testsite.sessions", "WEBSOCKET_DISCONNECT_GRACE": "1"}
    with serving(project, tmp_path_factory.mktemp("site"), **env) as server:
        yield server


def test_a_client_that_is_told_of_its_logout_is_not_let_in_again(site: Server) -> None:
    async def talk(cookie: str) -> None:
        async with connect(site, "/stay/", cookie) as client:
            logging_out = asyncio.create_task(asyncio.to_thread(log_out, site, cookie))
            assert await closed(client) == 1012
            await assert_refused(site, "/stay/", cookie)
            await logging_out

    with quiet(site):
        asyncio.run(talk(cookie_of(site, "ada")))


def test_a_logout_while_a_decorator_holds_the_handshake_up_is_heard(site: Server) -> None:
    async def talk(cookie: str) -> None:
        connecting = asyncio.create_task(open_held_up(cookie))
        await asyncio.to_thread(site.wait_for, "holds the handshake up")
        await asyncio.to_thread(log_out, site, cookie)
        await asyncio.to_thread(get, f"{site.url}/release/")
        assert await connecting in (1012, 403)

    async def open_held_up(cookie: str) -> int | None:
        try:
            async with connect(site, "/hold_up/", cookie) as client:
                return await closed(client)
        except InvalidStatus as refused:
            return refused.response.status_code

    with quiet(site):
        asyncio.run(talk(cookie_of(site, "ada")))


def test_a_view_gets_nothing_more_from_a_deactivated_user_who_does_not_read(site: Server) -> None:
    with quiet(site):
        client = RawClient(site, "/blocked/", cookie=cookie_of(site, "ada"))
        site.wait_for("the client takes no more")
        client.send(frame(TEXT, b"before"))
        site.wait_for("received before")
        get(f"{site.url}/deactivate/ada/")
        client.send(frame(TEXT, b"after"))
        site.wait_for("blocked ended")
        assert "received after" not in site.log()
        client.close()


# --- with Redis --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with running_redis() as redis:
        yield redis


@pytest.fixture
def wire(redis: Redis) -> Iterator[Wire]:
    with contextlib.closing(Wire(redis.port)) as wire:
        yield wire


@pytest.fixture
def servers(
    project: Project, tmp_path: Path, redis: Redis, wire: Wire
) -> Iterator[tuple[Server, Server]]:
    """Two servers of one site, of which the first reaches Redis by the wire."""
    env = {"DJANGO_SETTINGS_MODULE": "groupsite.settings", "WEBSOCKET_REDIS_TIMEOUT": "5"}
    first = {**env, "REDIS_URL": f"redis://127.0.0.1:{wire.port}/0"}
    second = {
        **env,
        "REDIS_URL": redis.url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/first/site.sqlite3",
    }
    with (
        serving(project, tmp_path / "first", **first) as one,
        serving(project, tmp_path / "second", **second) as two,
    ):
        yield one, two


def test_a_slow_redis_has_confirmed_the_subscription_before_a_socket_opens(
    servers: tuple[Server, Server], wire: Wire
) -> None:
    server, other = servers

    async def talk(cookie: str) -> None:
        wire.delay = 0.3
        async with connect(server, "/alone/", cookie) as client:
            await asyncio.to_thread(log_out, other, cookie)
            assert await closed(client) == 1012

    with quiet(server), quiet(other):
        asyncio.run(talk(cookie_of(server, "ada")))


def test_a_logout_that_a_process_may_have_missed_lets_the_handshakes_decide(
    servers: tuple[Server, Server], wire: Wire
) -> None:
    server, other = servers

    async def talk(ada: str, bob: str) -> None:
        async with (
            connect(server, "/alone/", ada) as hers,
            connect(server, "/alone/", bob) as his,
            connect(server, "/echo/", "") as nobodys,
        ):
            wire.tear()
            await asyncio.to_thread(server.wait_for, "Redis does not answer (")
            await asyncio.to_thread(log_out, other, ada)
            wire.mend()
            assert await closed(hers) == await closed(his) == 1012
            await assert_refused(server, "/alone/", ada)
            async with connect(server, "/alone/", bob) as his:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(his.recv(), 0.1)
            await nobodys.send("still here")
            assert await nobodys.recv() == "still here"

    asyncio.run(talk(cookie_of(server, "ada"), cookie_of(server, "bob")))
    assert "Traceback" not in server.log() + other.log()
