"""Threads and database connections: few, however many sockets, and renewed when they are lost."""

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import requests
from conftest import Project, Server, wait_until
from services import Postgres, Wire, running_postgres
from sites import cookie_of, get, quiet, serving
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
            assert len(after) == len(before) + THREADS
            assert sum(name in used for name in after) == THREADS
            # Where handshakes are slow, as on a busy machine, they have up to four times as many.
            assert 1 <= sum(name.startswith("handshake-") for name in after) <= 4 * THREADS
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

        def connects() -> bool:
            client.send("sync")
            assert client.recv(timeout=30).startswith("websocket-")
            return count_connections() == 1

        wait_until(connects, server.log)
        wait_until(lambda: count_connections() == 0, server.log)
        # It was the socket's, which is still open, and opens another one.
        client.send("orm")
        assert client.recv(timeout=30) == "orm"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_with_rows(
    request: pytest.FixtureRequest, project: Project, tmp_path: Path
) -> tuple[str, Callable[[Server], int]]:
    """The URL of a database with 10,000 rows to read, and what counts a server's connections."""
    if request.param == "sqlite":
        path = shutil.copy(project.path / "db.sqlite3", tmp_path / "rows.sqlite3")
        url = f"sqlite:///{path}"

        def count_connections(server: Server) -> int:
            return get(f"{server.url}/state/")["sqlite_files"]
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.url.replace("site@", "reader@")
        postgres.query("CREATE ROLE reader LOGIN SUPERUSER")

        def count_connections(server: Server) -> int:
            return postgres.connections("reader")

    project.run("manage.py", "shell", "-c", INSERT, env={**project.env, "DATABASE_URL": url})
    if request.param == "sqlite":
        for alias in ALIASES:
            shutil.copy(path, f"{path}.{alias}.sqlite3")
    return url, count_connections


# Aliases of that database; the last one's rows are all fetched at once.
ALIASES = ["age_0", "age_60", "age_none", "checked", "client_side"]

INSERT = """
from django.contrib.sessions.models import Session
from django.utils.timezone import now
rows = (Session(session_key=f"{n:032}", session_data="-", expire_date=now()) for n in range(10_000))
Session.objects.bulk_create(rows)
"""


def test_a_queryset_is_read_to_its_end_whatever_its_thread_does_meanwhile(
    database_with_rows: tuple[str, Callable[[Server], int]], serve_site: Callable[..., Server]
) -> None:
    url, count_connections = database_with_rows
    server = serve_site(DATABASE_URL=url, CONN_MAX_AGE="0", VARIANTS="1", WEBSOCKET_THREADS="1")
    aliases = [*ALIASES, "pool"] if url.startswith("postgres") else ALIASES
    options = {"compression": None, "open_timeout": 60}

    async def read_all() -> None:
        async with contextlib.AsyncExitStack() as stack:
            readers = [
                await stack.enter_async_context(
                    async_connect(f"{server.ws}/read-rows/{alias}/", **options)
                )
                for alias in aliases
            ]
            for reader in readers:
                assert await reader.recv() == "1000"
            # The thread is idle until it has closed what nobody reads from.
            async with connected(server, 1) as [other]:
                assert await ask(other, "orm") == "orm"
            async with asyncio.timeout(30):
                while await asyncio.to_thread(count_connections, server) > len(aliases) - 1:
                    await asyncio.sleep(0.1)
            # Then there are others' jobs and handshakes between each two chunks.
            for rows in range(2000, 10_001, 1000):
                async with connected(server, 1) as [other]:
                    assert await ask(other, "orm") == "orm"
                assert set(await ask_all(readers, "on")) == {str(rows)}
            assert set(await ask_all(readers, "on")) == {"all"}

    with quiet(server):
        asyncio.run(read_all())


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


def test_threads_whose_database_falls_silent_are_avoided_and_reported(
    postgres: Postgres, serve_site: Callable[..., Server]
) -> None:
    wire = Wire(postgres.port)
    url = f"postgres://postgres@127.0.0.1:{wire.port}/site"
    server = serve_site(DATABASE_URL=url, STUCK_AFTER="0.5", WEBSOCKET_THREADS="2")
    headers = {"Cookie": cookie_of(server, "ada")}

    async def greet() -> str:
        """Shake hands as a user, whom the handshake asks the database for."""
        url, options = f"{server.ws}/members/", {"open_timeout": 60, "additional_headers": headers}
        async with async_connect(url, **options) as client:
            return str(await client.recv())

    async def ready() -> tuple[int, int]:
        answer = await asyncio.to_thread(requests.get, f"{server.url}/health/ready", timeout=10)
        assert answer.json()["database"] is True
        return answer.status_code, answer.json()["stuck_threads"]

    async def fall_silent() -> None:
        async with connected(server, 1) as [first], connected(server, 1) as [second]:
            assert (await ask(first, "orm"), await greet()) == ("orm", "ada")
            assert await ready() == (200, 0)
            wire.fall_silent()
            hanging = [asyncio.create_task(ask(first, "orm")), asyncio.create_task(greet())]
            for name in ("websocket-0", "handshake-0"):
                await asyncio.to_thread(server.wait_for, f"held up {name}")
            # Handshakes, and sockets that are new, get other threads, with new connections.
            assert await greet() == "ada"
            async with connected(server, 2) as clients:
                assert set(await ask_all(clients, "sync")) == {"websocket-1_0"}
            assert await ready() == (200, 2)
            # With the last of the sockets' threads gone, other processes should serve.
            wire.fall_silent()
            hanging.append(asyncio.create_task(ask(second, "orm")))
            await asyncio.to_thread(server.wait_for, "held up websocket-1")
            assert await ready() == (503, 3)
            async with async_connect(f"{server.ws}/echo/") as client:
                assert await ask(client, "hello") == "hello"
            wire.hang_up()
            assert await asyncio.gather(*hanging) == ["orm", "ada", "orm"]
            assert await ready() == (200, 0)

    with quiet(server), contextlib.closing(wire):
        asyncio.run(fall_silent())
