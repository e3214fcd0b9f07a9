"""The contenders' servers: each a process of its own, on a core that the load does not use."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
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
    "--ws": "websockets-sansio",
    "--ws-per-message-deflate": "false",
}

# What would make a contender behave otherwise on one machine than on another.
FOREIGN = (
    *("CHANNEL_", "CONN_MAX_AGE", "CSRF_", "DJANGO_", "MIDDLEWARE", "PYTHON", "REDIS_URL"),
    *("SECURE_", "SESSION_", "UVICORN_", "WEBSOCKET_", "WEB_CONCURRENCY"),
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
CHANNELS = "contenders.channels:application"
FAST = {"--ws": "websocket.fast:Protocol"}
IN_MEMORY = {"CHANNEL_LAYER": "channels.layers.InMemoryChannelLayer"}
CORE = {"CHANNEL_LAYER": "channels_redis.core.RedisChannelLayer"}
PUBSUB = {"CHANNEL_LAYER": "channels_redis.pubsub.RedisPubSubChannelLayer"}

CONTENDERS = {
    "raw": Contender("raw ASGI", RAW),
    "ours": Contender("this project", "project.asgi:application"),
    "before": Contender("this project, before", "project.asgi:application"),
    "starlette": Contender("Starlette", "contenders.starlette:application"),
    "channels": Contender("Channels, uvicorn", CHANNELS),
    "daphne": Contender("Channels, Daphne", CHANNELS, daphne=True),
    "channels_core": Contender("channels_redis, core", CHANNELS, env=CORE),
    "channels_pubsub": Contender("channels_redis, pubsub", CHANNELS, env=PUBSUB),
    "raw_fast": Contender("raw ASGI, websocket.fast", RAW, FAST),
    "ours_fast": Contender("this project, websocket.fast", "project.asgi:application", FAST),
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
    """A running server, and what the operating system knows of it."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.process = process
        self.log = log

    def cpu(self) -> float:
        """Return the CPU time of the process so far, all its threads', in seconds.

        Linux's clock of another process counts nanoseconds; /proc/<pid>/stat counts in 10 ms.
        """
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def memory(self) -> int:
        """Return the bytes of memory that are the process's own."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise ServerFailed("The system does not say how much memory the server has.")

    def holds(self, client: tuple[str, int]) -> bool:
        """Tell whether the process still has its end of a client's connection."""
        ends = [_hexadecimal(end) for end in (("127.0.0.1", self.port), client)]
        connections = Path("/proc/net/tcp").read_text().splitlines()
        # An end that no process has any more has no inode.
        return any(line.split()[1:3] == ends and line.split()[9] != "0" for line in connections)

    def failed(self, why: str) -> ServerFailed:
        return ServerFailed(f"{why}\n{self.process.args!r}\n{self.log.read_text()[-1500:]}")


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
async def serve_redis(directory: Path) -> AsyncIterator[str]:
    """Run a Redis of our own on the load's core, and give its URL."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    async with running(["redis-server", *options], port, LOAD_CORE, directory, dict(os.environ)):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.asynccontextmanager
async def running(
    command: list[str], port: int, core: int, directory: Path, env: dict[str, str]
) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=directory, env=env, stdout=output, stderr=subprocess.STDOUT
            )
        os.sched_setaffinity(process.pid, {core})
        try:
            server = Server(port, process, log)
            await until_it_listens(server)
            yield server
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


async def until_it_listens(server: Server) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
            return
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise server.failed("The server did not start.")
        await asyncio.sleep(0.02)


def free_port() -> int:
    """Return a port outside of the range from which the system gives clients theirs."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
