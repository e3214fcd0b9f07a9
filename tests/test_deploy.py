"""A deployed project: PostgreSQL, Redis, two processes, and a proxy that ends TLS before them."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import yaml
from conftest import (
    PATIENCE,
    Project,
    Server,
    clean_environment,
    free_port,
    make_venv,
    run,
    trusting,
    wait_until,
)
from services import Postgres, Redis, need, running, running_postgres, running_redis
from sites import frame, handshake_of, peak_memory
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from docs import block

HOST = "localhost"

# A room whose members are told which process they are in, and a socket that tells what it sees.
VIEWS = """

async def room(socket):
    await socket.accept()
    await socket.join("room")
    await socket.send_json({"process": os.getpid()})
    async for message in socket:
        await apublish("room", message)


async def seen(socket):
    await socket.accept()
    await socket.send_json({
        "client": socket.scope["client"][0],
        "secure": socket.is_secure(),
        "scheme": socket.scheme,
        "user": str(socket.user),
    })
"""

# Publishes a number, says when it began and when it had, and goes on until it is asked to stop.
PUBLISHER = """
import itertools, signal, threading, time
import django
django.setup()
from websocket.groups import publish
may_stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *args: may_stop.set())
for number in itertools.takewhile(lambda number: not may_stop.is_set(), itertools.count()):
    began = time.time()
    publish("room", str(number))
    print(number, began, time.time(), flush=True)
    time.sleep(0.02)
"""


# --- what a deployment has ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with running_redis() as redis:
        yield redis


@pytest.fixture(scope="module")
def deployed(
    project: Project,
    postgres: Postgres,
    redis: Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Project, dict[str, str]]:
    """The project on its server: packages, migrations, static files; and its environment."""
    folder = tmp_path_factory.mktemp("deployed")
    copy = project.copy(folder / "site").path
    packages = ("-e", ".[fast,postgres,redis]", "prometheus-client")
    site = Project(copy, make_venv(folder / "venv", *packages, cwd=copy))
    (site.path / ".env").unlink()
    with (site.path / "users" / "views.py").open("a") as views:
        views.write("\n\nimport os\n\nfrom websocket.groups import apublish\n" + VIEWS)
    with (site.path / "project" / "urls.py").open("a") as urls:
        urls.write(
            "\nfrom users.views import room, seen\n"
            'urlpatterns += [websocket("room/", room), websocket("seen/", seen)]\n'
        )
    env = {
        "ALLOWED_HOSTS": HOST,
        "DATABASE_URL": postgres.url,
        "METRICS": "true",
        "REDIS_URL": redis.url,
        "SECRET_KEY": secrets.token_urlsafe(50),
    }
    manage = {"env": {**site.env, **env}}
    site.run("manage.py", "check", "--deploy", "--fail-level", "WARNING", **manage)
    site.run("manage.py", "migrate", **manage)
    site.run("manage.py", "collectstatic", "--no-input", **manage)
    make_user = "from users.models import User; User.objects.create_superuser('anna', password='a')"
    site.run("manage.py", "shell", "-c", make_user, **manage)
    return site, env


class Web(Server):
    """One of the site's processes, as Docker and systemd start it."""

    def command(self) -> list[str]:
        return [str(self.project.path / "serve"), "--port", str(self.port)]


@pytest.fixture(scope="module")
def webs(deployed: tuple[Project, dict[str, str]]) -> Iterator[list[Web]]:
    """Two processes of the site; neither's log may show a traceback."""
    site, env = deployed
    servers: list[Web] = []
    try:
        for _ in range(2):
            # Its own level leaves out the line that says that it has started.
            options = {"UVICORN_LOG_LEVEL": "info", "WEBSOCKET_DRAIN_SECONDS": "3"}
            servers.append(Web(site, (), {**env, **options}))
        yield servers
        for server in servers:
            server.stop(PATIENCE)
            assert "Traceback" not in server.log(), server.log()
    finally:
        for server in servers:
            server.kill()


@dataclass(frozen=True)
class Proxy:
    """Where the site is for its visitors."""

    port: int
    certificate: Path

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        return trusting(self.certificate)

    def browser(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.certificate)
        session.headers["Referer"] = self.url
        return session

    def connect(self, path: str, session: requests.Session | None = None) -> ClientConnection:
        cookies = "; ".join(f"{c.name}={c.value}" for c in session.cookies) if session else ""
        return connect(
            f"wss://{HOST}:{self.port}{path}",
            additional_headers={"Cookie": cookies, "Origin": self.url},
            open_timeout=PATIENCE,
            proxy=None,
            ssl=self.trust,
        )


@pytest.fixture(scope="module")
def nginx(
    deployed: tuple[Project, dict[str, str]],
    webs: list[Web],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    """The nginx of docs/production.md, with a certificate of its own."""
    program, folder = need("nginx"), tmp_path_factory.mktemp("nginx")
    certificate = folder / "fullchain.pem"
    run(
        *(need("openssl"), "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN={HOST}"),
        *("-addext", f"subjectAltName=DNS:{HOST}"),
        *("-out", certificate, "-keyout", folder / "privkey.pem"),
    )
    plain, secure = free_port(), free_port()
    page = deployed[0].path / "docs" / "production.md"
    site = block(page.read_text(encoding="utf-8"), "# /etc/nginx/")
    for theirs, ours in {
        "127.0.0.1:8000": f"127.0.0.1:{webs[0].port}",
        "127.0.0.1:8001": f"127.0.0.1:{webs[1].port}",
        "/etc/letsencrypt/live/example.com": str(folder),
        "listen 443": f"listen 127.0.0.1:{secure}",
        "listen 80": f"listen 127.0.0.1:{plain}",
        "server_name example.com": f"server_name {HOST}",
    }.items():
        assert theirs in site, theirs
        site = site.replace(theirs, ours)
    temporary = "".join(
        f"{kind}_temp_path {folder / kind};\n"
        for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {folder / 'pid'};\n"
        "events { worker_connections 4096; }\n"
        f"http {{\naccess_log off;\n{temporary}{site}}}\n"
    )
    command = (program, "-e", "stderr", "-p", folder, "-c", config)
    run(*command, "-t")
    with running(*command, port=secure, stderr=subprocess.DEVNULL):
        yield Proxy(secure, certificate)


@pytest.fixture(scope="module")
def caddy(
    deployed: tuple[Project, dict[str, str]],
    webs: list[Web],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    """The proxy of compose.yaml, with a certificate that it makes itself."""
    program, folder = need("caddy"), tmp_path_factory.mktemp("caddy")
    plain, secure = free_port(), free_port()
    env = clean_environment(
        HOME=str(folder),
        SITE_ADDRESS=f"{HOST}:{secure}",
        UPSTREAMS=" ".join(f"127.0.0.1:{web.port}" for web in webs),
        XDG_CONFIG_HOME=str(folder),
        XDG_DATA_HOME=str(folder),
    )
    adapted = run(program, "adapt", "--config", deployed[0].path / "Caddyfile", env=env)
    config = json.loads(adapted.stdout)
    # What would reach out of this folder: its certificate into the system's store, its ports.
    config["admin"] = {"disabled": True}
    config["apps"]["http"]["http_port"] = plain
    config["apps"]["http"]["https_port"] = secure
    config["apps"]["pki"] = {"certificate_authorities": {"local": {"install_trust": False}}}
    (folder / "caddy.json").write_text(json.dumps(config))
    command = (program, "run", "--config", folder / "caddy.json")
    with running(*command, port=secure, env=env):
        proxy = Proxy(secure, folder / "caddy/pki/authorities/local/root.crt")
        wait_for_certificate(proxy)
        yield proxy


def wait_for_certificate(proxy: Proxy) -> None:
    """Ask until Caddy, which listens before it has made its certificate, has one to show."""

    def shows_one() -> bool:
        with contextlib.suppress(requests.exceptions.SSLError, OSError):
            proxy.browser().get(proxy.url)
            return True
        return False

    wait_until(shows_one, lambda: "Caddy got no certificate.")


@pytest.fixture(params=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return request.getfixturevalue(request.param)


# --- behind a proxy ----------------------------------------------------------------------------


def log_in(proxy: Proxy) -> requests.Session:
    browser = proxy.browser()
    form = browser.get(f"{proxy.url}/admin/login/?next=/admin/").text
    (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    data = {"csrfmiddlewaretoken": token, "username": "anna", "password": "a"}
    answer = browser.post(f"{proxy.url}/admin/login/?next=/admin/", data=data)
    assert answer.status_code == 200
    assert answer.url.endswith("/admin/")
    return browser


def test_who_logs_in_over_the_proxy_is_known_to_sockets_which_see_wss(proxy: Proxy) -> None:
    browser = log_in(proxy)
    assert all(cookie.secure for cookie in browser.cookies)
    with proxy.connect("/seen/", browser) as client:
        seen = json.loads(client.recv(timeout=10))
    assert seen == {"client": "127.0.0.1", "scheme": "wss", "secure": True, "user": "anna"}


def test_the_proxy_serves_pages_with_hashed_static_files_and_security_headers(
    proxy: Proxy,
) -> None:
    page = proxy.browser().get(proxy.url)
    assert page.headers["Strict-Transport-Security"].startswith("max-age=31536000")
    styles = re.findall(r'href="(/static/[\w/.-]+\.[0-9a-f]{12}\.css)"', page.text)
    assert styles
    for path in (*styles, "/static/admin/css/base.css"):
        answer = proxy.browser().get(proxy.url + path)
        assert answer.status_code == 200, path
        assert answer.headers["Content-Type"].startswith("text/css")
    assert "immutable" in proxy.browser().get(proxy.url + styles[0]).headers["Cache-Control"]


def test_visitors_do_not_see_what_monitors_do(proxy: Proxy, webs: list[Web]) -> None:
    for path in ("/health/ready", "/health/metrics"):
        assert proxy.browser().get(proxy.url + path).status_code == 404
        assert requests.get(webs[0].url + path, timeout=10).status_code == 200


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="only Linux tells what a process uses")
def test_a_flood_of_pings_through_the_proxy_lets_no_process_grow(
    proxy: Proxy, webs: list[Web]
) -> None:
    before = [peak_memory(web, reset=True) for web in webs]
    pings = frame(0x9, bytes(125)) * 1000
    with (
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as tcp,
        proxy.trust.wrap_socket(tcp, server_hostname=HOST) as client,
    ):
        client.sendall(handshake_of("/ws/", f"{HOST}:{proxy.port}"))
        assert client.recv(2**16).startswith(b"HTTP/1.1 101 ")
        # It reads none of the pongs. Either it is dropped, or nobody reads its pings any more.
        with contextlib.suppress(OSError):
            for _ in range(800):
                client.sendall(pings)
    for web, peak in zip(webs, before, strict=True):
        assert peak_memory(web) - peak < 64 * 2**20


def test_a_message_reaches_the_clients_of_the_other_process(proxy: Proxy) -> None:
    with contextlib.ExitStack() as stack:
        clients: dict[int, ClientConnection] = {}

        def both_are_reached() -> bool:
            """Connect once more: a process that was away is asked again after some seconds."""
            with contextlib.ExitStack() as connection:
                client = connection.enter_context(proxy.connect("/room/"))
                process = json.loads(client.recv(timeout=10))["process"]
                if process not in clients:
                    clients[process] = client
                    stack.push(connection.pop_all())
            return len(clients) == 2

        wait_until(both_are_reached, lambda: f"All get to process {[*clients]}.")
        one, other = clients.values()
        one.send("hello")
        assert one.recv(timeout=10) == other.recv(timeout=10) == "hello"


# --- the processes -----------------------------------------------------------------------------


@contextlib.contextmanager
def database_stopped(postgres: Postgres, redis: Redis) -> Iterator[None]:
    postgres.run("pg_ctl", "stop", "--wait", "--mode=fast")
    try:
        yield
    finally:
        postgres.run("pg_ctl", "start", "--wait", "-o", postgres.options)


@contextlib.contextmanager
def redis_killed(postgres: Postgres, redis: Redis) -> Iterator[None]:
    redis.kill()
    try:
        yield
    finally:
        redis.start()


@contextlib.contextmanager
def redis_hanging(postgres: Postgres, redis: Redis) -> Iterator[None]:
    redis.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        redis.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("fault", [database_stopped, redis_killed, redis_hanging])
def test_what_is_away_for_all_processes_takes_none_of_them_out(
    caddy: Proxy,
    webs: list[Web],
    postgres: Postgres,
    redis: Redis,
    fault: Callable[[Postgres, Redis], AbstractContextManager[None]],
) -> None:
    away, name = ("database", "The database") if fault is database_stopped else ("redis", "Redis")
    well = {"database": True, "redis": True, "stopping": False, "stuck_threads": 0}

    def report(web: Web) -> dict[str, bool]:
        answer = requests.get(f"{web.url}/health/ready", timeout=10)
        assert answer.status_code == 200
        return answer.json()

    def wait_for(expected: dict[str, bool]) -> None:
        reports = [report(web) for web in webs]
        wait_until(lambda: [report(web) for web in webs] == [expected] * 2, lambda: str(reports))

    wait_for(well)
    with fault(postgres, redis):
        wait_for({**well, away: False})
        for web in webs:
            assert requests.get(f"{web.url}/health/live", timeout=10).status_code == 200
            # The proxy asks again and again, and goes on to send visitors here.
            asked = web.log().count("GET /health/ready")
            web.wait_for("GET /health/ready", times=asked + 2)
        for _ in webs:
            assert caddy.browser().get(caddy.url).status_code == 200
            with caddy.connect("/ws/") as client:
                client.send("hello")
                assert client.recv(timeout=10) == "hello"
    wait_for(well)
    for web in webs:
        web.wait_for(f"{name} is away")
        web.wait_for(f"{name} is back")


def test_the_metrics_add_up(webs: list[Web]) -> None:
    def metric(name: str) -> float:
        text = requests.get(f"{webs[0].url}/health/metrics", timeout=10).text
        (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(value)

    # The tests before this one have closed their sockets, which then leave their groups.
    wait_until(lambda: metric("websocket_open") == 0, webs[0].log)
    joins = metric("websocket_group_joins_total")
    headers = {"X-Forwarded-Proto": "https"}
    url = f"ws://{HOST}:{webs[0].port}/room/"
    with connect(url, additional_headers=headers, proxy=None) as client:
        client.recv(timeout=10)
        assert metric("websocket_open") == 1
        assert metric("websocket_group_joins_total") == joins + 1
        deliveries = metric("websocket_group_deliveries_total")
        for text in ("one", "two"):
            client.send(text)
            assert client.recv(timeout=10) == text
        assert metric("websocket_group_deliveries_total") == deliveries + 2
        assert metric('websocket_handshakes_total{status="101"}') >= 1
    assert metric("process_open_fds") > 0  # What prometheus-client, which is there, has to say.


def test_many_pages_at_once_share_the_pool_and_the_server_does_not_run_out(
    webs: list[Web], postgres: Postgres
) -> None:
    limit = int(postgres.query("SHOW max_connections"))
    with requests.Session() as session:
        session.headers.update({"X-Forwarded-Proto": "https", "Host": HOST})
        session.cookies["sessionid"] = "x" * 32  # Unknown, and so looked for in the database.
        for _ in range(limit + 20):
            assert session.get(f"{webs[0].url}/admin/login/").status_code == 200
    assert postgres.connections() <= 2 * 16


@dataclass
class Visit:
    """One connection of a client: when it was in the room, what it got, when it was cut off."""

    joined: float = float("inf")
    numbers: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    closed: float = float("inf")

    def receive(self, number: str | bytes) -> None:
        self.numbers.append(int(number))
        self.times.append(time.time())


async def visit(proxy: Proxy, number: int, visits: list[Visit], trust: ssl.SSLContext) -> None:
    """Stay in the room as a browser does: whenever the connection is lost, connect again."""
    delay = 0.05
    while True:
        try:
            async with async_connect(
                f"wss://{HOST}:{proxy.port}/room/",
                compression=None,
                host="127.0.0.1",
                # nginx allows one visitor no more than so many.
                local_addr=(f"127.0.0.{1 + number // 50}", 0),
                open_timeout=20,
                origin=proxy.url,
                ping_interval=None,
                proxy=None,
                ssl=trust,
            ) as client:
                stay = Visit()
                # What is published once the view has joined may overtake its word that it has.
                while (message := await client.recv()).isdecimal():
                    stay.receive(message)
                stay.joined = time.time()
                visits.append(stay)
                delay = 0.05
                try:
                    while True:
                        stay.receive(await client.recv())
                finally:
                    stay.closed = time.time()
        except (WebSocketException, OSError, TimeoutError):
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1)


def test_a_deploy_under_two_hundred_clients_loses_nothing_but_what_they_were_away_for(
    deployed: tuple[Project, dict[str, str]], webs: list[Web], nginx: Proxy
) -> None:
    site, env = deployed
    clients: list[list[Visit]] = [[] for _ in range(200)]
    published: dict[int, tuple[float, float]] = {}
    seconds_to_connect = 0.0
    answers: set[int | str] = set()

    tasks: list[asyncio.Task[None]] = []

    def is_there(number: int) -> bool:
        return bool(clients[number]) and clients[number][-1].closed == float("inf")

    def all_are_there() -> bool:
        return all(map(is_there, range(len(clients))))

    def describe_absent() -> str:
        """Say of each client that is away how its task has ended, or in which line it waits."""
        away = [task for number, task in enumerate(tasks[: len(clients)]) if not is_there(number)]
        return f"{len(away)} of {len(clients)} are away: {away[:3]}"

    async def until(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {describe_absent()}"
            await asyncio.sleep(0.05)

    async def replace(web: Web) -> None:
        await asyncio.to_thread(web.stop, PATIENCE)
        assert await asyncio.to_thread(web.start)
        answer = await asyncio.to_thread(requests.get, f"{web.url}/health/ready", timeout=10)
        assert answer.status_code == 200
        await until(all_are_there, "all are back")

    async def read(publisher: asyncio.subprocess.Process) -> None:
        async for line in publisher.stdout:
            number, began, ended = line.split()
            published[int(number)] = (float(began), float(ended))

    async def browse() -> None:
        browser = nginx.browser()
        while True:
            try:
                answer = await asyncio.to_thread(browser.get, nginx.url, timeout=10)
                answers.add(answer.status_code)
            except requests.RequestException as error:
                answers.add(repr(error))
            await asyncio.sleep(0.05)

    async def deploy() -> None:
        nonlocal seconds_to_connect
        trust, start = nginx.trust, time.monotonic()
        tasks.extend(
            asyncio.create_task(visit(nginx, number, visits, trust))
            for number, visits in enumerate(clients)
        )
        await until(all_are_there, "all are there")
        seconds_to_connect = time.monotonic() - start
        publisher = await asyncio.create_subprocess_exec(
            *(site.python, "-c", PUBLISHER),
            cwd=site.path,
            env={**site.env, **env, "DJANGO_SETTINGS_MODULE": "project.settings"},
            stdout=asyncio.subprocess.PIPE,
        )
        reader = asyncio.create_task(read(publisher))
        tasks.append(asyncio.create_task(browse()))
        try:
            await until(lambda: len(published) > 10, "the publisher has begun")
            for web in webs:
                await replace(web)
            last = max(published) + 10
            await until(
                lambda: all(v[-1].numbers and v[-1].numbers[-1] >= last for v in clients), "the end"
            )
        finally:
            publisher.terminate()
            await publisher.wait()
            await reader
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(deploy())

    # The site stayed up.
    assert answers == {200}
    # All had to move, for both processes were replaced.
    assert all(len(visits) > 1 for visits in clients)
    # How long a message takes to all of them, and so how long it may be on its way at the end.
    latest = max(
        received - published[number][1]
        for visits in clients
        for stay in visits
        for number, received in zip(stay.numbers, stay.times, strict=True)
    )
    for visits in clients:
        for before, after in itertools.pairwise(visits):
            assert after.joined - before.closed < max(10, 10 * seconds_to_connect)
        stays = [stay.numbers for stay in visits if stay.numbers]
        for numbers in stays:
            # No gap, nothing twice, nothing out of order.
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
        for before, after in itertools.pairwise(stays):
            assert before[-1] < after[0]
            for missing in range(before[-1] + 1, after[0]):
                # On its way in the moment of the end, it counts as sent while they were away.
                began, ended = published[missing]
                assert not any(
                    stay.joined <= began and ended <= stay.closed - 1 - 2 * latest
                    for stay in visits
                )


def test_the_projects_own_tests_pass_on_postgresql_and_redis(
    project: Project, deployed: tuple[Project, dict[str, str]], postgres: Postgres, redis: Redis
) -> None:
    # As its GitHub workflow runs them.
    urls = {"DATABASE_URL": postgres.url.replace("site@", "postgres@"), "REDIS_URL": redis.url}
    assert " passed" in project.run("-m", "pytest", "-n", "2", env={**project.env, **urls}).stdout


# --- the files ---------------------------------------------------------------------------------


def test_the_dockerfile_keeps_the_rules_of_hadolint(project: Project) -> None:
    run(Path(sys.executable).with_name("hadolint"), project.path / "Dockerfile")


def test_the_image_gets_packages_from_two_files_and_has_no_secrets(
    project: Project, tmp_path: Path
) -> None:
    dockerfile = (project.path / "Dockerfile").read_text()
    files = re.search(r"^COPY (pyproject.toml README.md) \./$", dockerfile, re.MULTILINE)[1]
    for name in files.split():
        shutil.copy(project.path / name, tmp_path)
    uv = (sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable)
    run(*uv, "--target", tmp_path / "packages", "--no-deps", tmp_path)
    (metadata,) = tmp_path.glob("packages/*.dist-info/METADATA")
    wanted = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["dependencies"]
    assert metadata.read_text().count("Requires-Dist") > len(wanted)
    assert len(re.findall(r"^FROM", dockerfile, re.MULTILINE)) == 2
    assert re.findall(r"^USER (.*)", dockerfile, re.MULTILINE) == ["10001"]
    assert not re.search(r"^(ENV|ARG).*(KEY|PASSWORD|SECRET)", dockerfile, re.MULTILINE)
    ignored = (project.path / ".dockerignore").read_text().splitlines()
    assert {".env", ".env.*", ".git", "db.sqlite3*"} <= set(ignored)
    (health,) = re.findall(r'CMD \["python", "-c", "(.*)"\]', dockerfile)
    compile(health, "HEALTHCHECK", "exec")
    assert "/health/live" in health


def compose_config(project: Project, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `compose config` with these variables, and with those that .env has to have."""
    env = {"POSTGRES_PASSWORD": "p", "SECRET_KEY": "s", "SITE_ADDRESS": "a.example", **env}
    command = ("docker", "compose")
    if not shutil.which("docker") or run(*command, "version", check=False).returncode:
        command = (need("docker-compose"),)
    options = {"check": False, "cwd": project.path, "env": {**project.env, **env}}
    return run(*command, "config", **options)


def test_compose_understands_its_file(workshop: Project) -> None:
    config = compose_config(workshop, CSRF_TRUSTED_ORIGINS="https://b.example")
    services = yaml.safe_load(config.stdout)["services"]
    for name in ("web-1", "web-2"):
        assert services[name]["environment"]["ALLOWED_HOSTS"] == "a.example"
        assert services[name]["environment"]["CSRF_TRUSTED_ORIGINS"] == "https://b.example"
        assert "DEBUG" not in services[name]["environment"]
        assert services[name]["depends_on"]["migrate"]["condition"].endswith("successfully")
        assert "ports" not in services[name]
    (workshop.path / ".env").unlink()
    refused = compose_config(workshop, SECRET_KEY="")
    assert refused.returncode
    assert "SECRET_KEY" in refused.stderr


def test_any_password_opens_the_database_of_compose(project: Project, postgres: Postgres) -> None:
    password = "a/b?c#d@e%2Ff:g h&i=j"
    config = yaml.safe_load(compose_config(project, POSTGRES_PASSWORD=password).stdout)
    database, web = (config["services"][name]["environment"] for name in ("database", "web-1"))
    assert database["POSTGRES_PASSWORD"] == password
    address = f"careful@127.0.0.1:{postgres.port}"
    env = {
        **project.env,
        "DATABASE_URL": web["DATABASE_URL"].replace("site@database:5432", address),
        "PGPASSWORD": web["PGPASSWORD"],
    }
    postgres.query(f"CREATE ROLE careful LOGIN PASSWORD '{password}'")
    postgres.ask_for_password("careful")
    connect = "from django.db import connection; connection.ensure_connection()"
    project.run("manage.py", "shell", "-c", connect, env=env)
    env["PGPASSWORD"] = "another"
    refused = project.run("manage.py", "shell", "-c", connect, env=env, check=False)
    assert "password authentication failed" in refused.stderr


def test_the_options_of_serve_are_uvicorns_and_the_environment_goes_before_them(
    project: Project, tmp_path: Path
) -> None:
    script = (project.path / "serve").read_text()
    set_here = set(re.findall(r'"\$\{(UVICORN_\w+):=', script))
    exported = set(re.findall(r"\bUVICORN_\w+", script[script.index("export ") :]))
    help = project.run("-m", "uvicorn", "--help").stdout
    known = {
        f"UVICORN_{name[2:].replace('-', '_').upper()}" for name in re.findall(r"--[\w-]+", help)
    }
    assert set_here == exported <= known
    # A uvicorn that shows what it was given.
    (tmp_path / "uvicorn").write_text('#!/bin/sh\necho "$@" $UVICORN_WS $UVICORN_WS_MAX_SIZE\n')
    (tmp_path / "uvicorn").chmod(0o755)
    env = {**project.env, "PATH": f"{tmp_path}:{os.environ['PATH']}", "UVICORN_WS_MAX_SIZE": "5"}
    shown = run(project.path / "serve", "--port", "1", cwd="/", env=env).stdout
    assert shown == "project.asgi:application --port 1 websockets-sansio 5\n"
