"""Threads and database connections: few, however many sockets, and renewed when they are lost."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from conftest import Project, Server
from services import Postgres, running_postgres
from sites import get, quiet, serving
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as async_connect
from websockets.sync.client import connect

THREADS = 4


@pytest.fixture(scope="module")
def postgres(project: Project) -> Iterator[Postgres]:
    """A server with a migrated database for the site, which may connect so often and no more."""
    with running_postgres(f"CONNECTION LIMIT {THREADS}") as server:
        project.run("manage.py", "migrate", env={**project.env, "DATABASE_URL": server.url})
        yield server


# --- sites -------------------------------------------------------------------------------------


@pytest.fixture
def serve_site(project: Project, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """A function that serves the site with so few threads."""
    with contextlib.ExitStack() as stack:

        def serve_site(**env: str) -> Server:
            env = {"WEBSOCKET_THREADS": str(THREADS), **env}
            return stack.enter_context(serving(project, tmp_path, **env))

        yield serve_site


@pytest.fixture(params=["sqlite", "postgresql"])
def serve_on_database(
    request: pytest.FixtureRequest, serve_site: Callable[..., Server]
) -> Callable[..., tuple[Server, Callable[[], int]]]:
    """A function that serves the site on each database; also returns what counts connections."""

    def serve(**env: str) -> tuple[Server, Callable[[], int]]:
        if request.param == "sqlite":
            server = serve_site(**env)
            return server, lambda: get(f"{server.url}/state/")["sqlite_files"]
        postgres = request.getfixturevalue("postgres")
        return serve_site(DATABASE_URL=postgres.url, **env), postgres.connections

    return serve


@contextlib.asynccontextmanager
async def connected(server: Server, count: int) -> AsyncIterator[list[ClientConnection]]:
    """So many open sockets that do as they are told."""
    gate = asyncio.Semaphore(50)
    clients: list[ClientConnection] = []

    async def open_one() -> None:
        async with gate:
            options = {"compression": None, "open_timeout": 60, "ping_interval": None}
            clients.append(await async_connect(f"{server.ws}/work/", **options))

    async with asyncio.timeout(120):
        await asyncio.gather(*(open_one() for _ in range(count)))
        yield clients
        await asyncio.gather(*(client.close() for client in clients))


async def ask(client: ClientConnection, what: str) -> str:
    await client.send(what)
    return str(await client.recv())


async def ask_all(clients: list[ClientConnection], what: str) -> list[str]:
    return await asyncio.gather(*(ask(client, what) for client in clients))


# --- tests -------------------------------------------------------------------------------------


def test_a_thousand_sockets_share_a_few_threads_and_database_connections(
    serve_on_database: Callable[..., tuple[Server, Callable[[], int]]],
) -> None:
    server, count_connections = serve_on_database()
    sockets = 1000

    async def query_all() -> None:
        async with connected(server, sockets) as clients:
            before = get(f"{server.url}/state/")["threads"]
            assert set(await ask_all(clients, "orm")) == {"orm"}
            used = Counter(await ask_all(clients, "sync"))
            # Dealt out evenly, and no query was refused a connection.
            assert list(used.values()) == [sockets // THREADS] * THREADS
            after = get(f"{server.url}/state/")["threads"]
            assert len(after) == len(before)
            assert sum(name in used for name in after) == THREADS
            connections = count_connections()
            assert connections is None or 1 <= connections <= THREADS

    with quiet(server):
        asyncio.run(query_all())


def test_after_a_restart_of_the_database_every_sockets_next_query_works(
    postgres: Postgres, serve_site: Callable[..., Server]
) -> None:
    server = serve_site(DATABASE_URL=postgres.url)

    async def restart_between() -> None:
        async with connected(server, 4 * THREADS) as clients:
            assert set(await ask_all(clients, "orm")) == {"orm"}
            in_flight = clients[0]
            await in_flight.send("sleep")
            await asyncio.to_thread(server.wait_for, "sleeps in the database")
            await asyncio.to_thread(postgres.restart)
            # The query in flight fails, and its view goes on.
            assert await in_flight.recv() in ("OperationalError", "AdminShutdown")
            assert set(await ask_all(clients, "orm")) == {"orm"}
            assert len(set(await ask_all(clients, "sync"))) == THREADS

    with quiet(server):
        asyncio.run(restart_between())


def test_database_connections_that_idle_beyond_their_age_are_closed(
    serve_on_database: Callable[..., tuple[Server, Callable[[], int]]],
) -> None:
    server, count_connections = serve_on_database(CONN_MAX_AGE="2")
    with quiet(server), connect(f"{server.ws}/work/") as client:
        client.send("sync")
        assert client.recv(timeout=30).startswith("websocket-")
        assert count_connections() == 1
        deadline = time.monotonic() + 30
        while count_connections():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # It was the socket's, which is still open, and opens another one.
        client.send("orm")
        assert client.recv(timeout=30) == "orm"


def test_slow_sync_code_holds_up_only_the_sockets_that_share_its_thread(
    serve_site: Callable[..., Server],
) -> None:
    server = serve_site()

    async def hold_one() -> None:
        async with connected(server, 4 * THREADS) as clients:
            threads = dict(zip(clients, await ask_all(clients, "sync"), strict=True))
            holder = clients[0]
            await holder.send("hold")
            await asyncio.to_thread(server.wait_for, "holds its thread")
            others = [c for c in clients if threads[c] != threads[holder]]
            sharing = [c for c in clients if threads[c] == threads[holder] and c is not holder]
            assert (len(others), len(sharing)) == (4 * THREADS - 4, 3)
            assert set(await ask_all(others, "orm")) == {"orm"}
            # The event loop serves everybody, with what needs no thread.
            assert set(await ask_all(others + sharing, "hello")) == {"hello"}
            waiting = [asyncio.create_task(ask(client, "sync")) for client in sharing]
            assert set(await ask_all(others, "hello")) == {"hello"}
            assert not any(task.done() for task in waiting)
            await asyncio.to_thread(get, f"{server.url}/release/")
            assert await holder.recv() == threads[holder]
            assert set(await asyncio.gather(*waiting)) == {threads[holder]}

    with quiet(server):
        asyncio.run(hold_one())
