"""The contenders' servers: each a process of its own, on a core that the load does not use."""

import asyncio
import contextlib
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent

# With one core there is nothing to choose; then the load is in the way of the server.
_cores = sorted(os.sched_getaffinity(0))
SERVER_CORE = _cores[0]
LOAD_CORE = _cores[-1]

UVICORN = {
    "--http": "httptools",
    "--log-level": "warning",
    "--loop": "uvloop",
    # As the project's `serve` has it: an open connection does not hold up a deploy for ever.
    "--timeout-graceful-shutdown": "10",
    "--ws": "websockets-sansio",
    "--ws-per-message-deflate": "false",
}

# What would make a contender behave otherwise on one machine than on another.
FOREIGN = (
    *("CHANNEL_", "CONN_MAX_AGE", "CSRF_", "DJANGO_", "HANDSHAKES", "MIDDLEWARE", "PYTHON"),
    *("REDIS_URL", "SECURE_", "SESSION_", "UVICORN_", "VARIANT", "WEBSOCKET_", "WEB_CONCURRENCY"),
)


@dataclass(frozen=True)
class Contender:
    """What is served, and by what."""

    title: str
    application: str
    options: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    daphne: bool = False

    def command(self, port: int) -> list[str]:
        address = {"--port": str(port)}
        if self.daphne:
            module, options = "daphne", {"--bind": "127.0.0.1", "--verbosity": "0", **address}
        else:
            module, options = "uvicorn", {**UVICORN, **self.options, **address}
        arguments = [part for option in options.items() for part in option]
        if not self.daphne:
            arguments.append("--no-access-log")
        return [sys.executable, "-m", module, *arguments, self.application]


RAW = "contenders.raw:application"
OURS = "project.asgi:application"
CHANNELS = "contenders.channels:application"
FAST = {"--ws": "websocket.fast:Protocol"}
#: Histories, with as many handshakes at a time as there are; or a queue of them, and a drain of so
#: many seconds when a server stops.
UNPACED = {"VARIANT": "history", "HANDSHAKES": "1000000"}
DRAIN = {"VARIANT": "history", "WEBSOCKET_DRAIN_SECONDS": "10"}
IN_MEMORY = {"CHANNEL_LAYER": "channels.layers.InMemoryChannelLayer"}
CORE = {"CHANNEL_LAYER": "channels_redis.core.RedisChannelLayer"}
PUBSUB = {"CHANNEL_LAYER": "channels_redis.pubsub.RedisPubSubChannelLayer"}

CONTENDERS = {
    "raw": Contender("raw ASGI", RAW),
    "ours": Contender("this project", OURS),
    "ours_history": Contender("this project, with history", OURS, env={"VARIANT": "history"}),
    "ours_presence": Contender("this project, with presence", OURS, env={"VARIANT": "presence"}),
    "ours_own": Contender("this project, to socket.<id>", OURS, env={"VARIANT": "own"}),
    "ours_login": Contender("this project, logged in", OURS, env={"VARIANT": "login"}),
    "ours_group": Contender("this project, in a group", OURS, env={"VARIANT": "group"}),
    "ours_unpaced": Contender("this project, without drain and queue", OURS, env=UNPACED),
    "ours_drain": Contender("this project, with drain and queue", OURS, env=DRAIN),
    "ours_all": Contender("this project, all of that", OURS, env={"VARIANT": "all"}),
    "before": Contender("this project, before", OURS),
    "starlette": Contender("Starlette", "contenders.starlette:application"),
    "channels": Contender("Channels, uvicorn", CHANNELS),
    "daphne": Contender("Channels, Daphne", CHANNELS, daphne=True),
    "channels_core": Contender("channels_redis, core", CHANNELS, env=CORE),
    "channels_pubsub": Contender("channels_redis, pubsub", CHANNELS, env=PUBSUB),
    "raw_fast": Contender("raw ASGI, websocket.fast", RAW, FAST),
    "ours_fast": Contender("this project, websocket.fast", OURS, FAST),
    "raw_websockets": Contender("raw ASGI, --ws websockets", RAW, {"--ws": "websockets"}),
    "raw_wsproto": Contender("raw ASGI, --ws wsproto", RAW, {"--ws": "wsproto"}),
    "raw_asyncio": Contender("raw ASGI, --loop asyncio", RAW, {"--loop": "asyncio"}),
    "raw_deflate": Contender("raw ASGI, deflate on", RAW, {"--ws-per-message-deflate": "true"}),
}


class ServerFailed(Exception):
    """A server did not start, or did not do what was asked of it."""


def environment(project: Path, env: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process that works on the rendered project in production."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN)}
    return {
        **inherited,
        "ALLOWED_HOSTS": "127.0.0.1",
        "DATABASE_URL": f"sqlite:///{project.parent / 'db.sqlite3'}",
        "DEBUG": "false",
        "DJANGO_SETTINGS_MODULE": "contenders.settings",
        "PYTHONPATH": f"{project}{os.pathsep}{HERE}",
        "SECRET_KEY": "not-a-secret-for-nobody-else-gets-in",
        "SECURE_SSL_REDIRECT": "false",
        **env,
    }


class Server:
    """A server, and what the operating system knows of it while it runs."""

    process: subprocess.Popen[bytes]

    def __init__(
        self,
        command: list[str],
        port: int,
        core: int,
        directory: Path,
        env: dict[str, str],
        log: Path,
    ) -> None:
        self.command = command
        self.port = port
        self.core = core
        self.directory = directory
        self.env = env
        self.log = log

    async def start(self) -> None:
        """Start the process on its core, and wait until it listens."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=self.env,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        os.sched_setaffinity(self.process.pid, {self.core})
        deadline = time.monotonic() + 30
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.failed("The server did not start.")
            await asyncio.sleep(0.02)

    def listens(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            return True
        return False

    async def restart(self) -> None:
        """Stop the process as a deploy does, with SIGTERM, and start it again."""
        self.process.terminate()
        await asyncio.to_thread(self.process.wait)
        await self.start()

    def kill(self) -> None:
        """Stop the process without waiting for its clients."""
        self.process.kill()
        self.process.wait()

    def cpu(self) -> float:
        """Return the CPU time of the process so far, all its threads', in seconds.

        Linux's clock of another process counts nanoseconds; /proc/<pid>/stat counts in 10 ms.
        """
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def memory(self, kind: str = "RssAnon") -> int:
        """Return the bytes of memory that are the process's own, or `VmRSS`, or its share (`Pss`).

        What two processes share counts half in `Pss`.
        """
        file = "smaps_rollup" if kind == "Pss" else "status"
        return kib(Path(f"/proc/{self.process.pid}/{file}"), kind) * 1024

    def holds(self, client: tuple[str, int]) -> bool:
        """Tell whether the process still has its end of a client's connection."""
        ends = [_hexadecimal(end) for end in (("127.0.0.1", self.port), client)]
        connections = Path("/proc/net/tcp").read_text().splitlines()
        # An end that no process has any more has no inode.
        return any(line.split()[1:3] == ends and line.split()[9] != "0" for line in connections)

    def failed(self, why: str) -> ServerFailed:
        return ServerFailed(f"{why}\n{self.process.args!r}\n{self.log.read_text()[-1500:]}")


def kib(file: Path, name: str) -> int:
    """Return a figure of a file in /proc."""
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ServerFailed(f"{file} does not tell {name}.")


def _hexadecimal(address: tuple[str, int]) -> str:
    """Return an address as /proc/net/tcp has it."""
    host = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{host:08X}:{address[1]:04X}"


@contextlib.asynccontextmanager
async def serve(contender: Contender, project: Path, env: dict[str, str]) -> AsyncIterator[Server]:
    """Serve a contender on the server's core, and stop it without waiting for anybody."""
    port = free_port()
    env = environment(project, {**contender.env, **env})
    async with running(contender.command(port), port, SERVER_CORE, project, env) as server:
        yield server


@contextlib.asynccontextmanager
async def serve_redis(directory: Path) -> AsyncIterator[Server]:
    """Run a Redis of our own on the load's core."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    command = ["redis-server", *options]
    async with running(command, port, LOAD_CORE, directory, dict(os.environ)) as server:
        yield server


NGINX = """
daemon off;
error_log stderr;
master_process off;
pid {folder}/pid;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    scgi_temp_path {folder}; uwsgi_temp_path {folder};
    upstream site {{
        least_conn;
        {servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://site;
            proxy_next_upstream error timeout http_503;
            proxy_http_version 1.1;
            proxy_set_header Connection upgrade;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


@contextlib.asynccontextmanager
async def serve_nginx(servers: Sequence[Server]) -> AsyncIterator[Server]:
    """Run nginx on the load's core, in front of servers, as the project's docs configure it."""
    port = free_port()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "nginx.conf"
        upstream = [f"server 127.0.0.1:{server.port} max_fails=0;" for server in servers]
        values = {"folder": folder, "files": files, "port": port, "servers": " ".join(upstream)}
        configuration.write_text(NGINX.format(**values))
        # Debian has it where only root looks.
        nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        command = [nginx, "-e", "stderr", "-c", str(configuration)]
        async with running(command, port, LOAD_CORE, Path(folder), dict(os.environ)) as server:
            yield server


@contextlib.asynccontextmanager
async def running(
    command: list[str], port: int, core: int, directory: Path, env: dict[str, str]
) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(command, port, core, directory, env, Path(folder) / "log")
        try:
            await server.start()
            yield server
        finally:
            server.kill()


def free_port() -> int:
    """Return a port outside of the range from which the system gives clients theirs."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
