"""A real Redis for the tests that need one: `redis-server`, on a port of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.test import SimpleTestCase, override_settings

from websocket.groups import close_hub

COMMAND = shutil.which("redis-server")

# Not that of `settings`, which conftest.py has changed: other processes know the module's alone.
MODULE = import_module(os.environ["DJANGO_SETTINGS_MODULE"])
PREFIX = getattr(MODULE, "WEBSOCKET_REDIS_PREFIX", "websocket:")


def free_port() -> int:
    """Return a free port below those that the system gives to clients.

    One of theirs could be taken while the server is away.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A Redis that keeps nothing, until `stop()`."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.name = f"127.0.0.1:{self.port}/0"
        self.url = f"redis://{self.name}"
        self.options = options
        self.folder = tempfile.TemporaryDirectory()
        self.start()

    def start(self) -> None:
        """Return once it answers."""
        assert COMMAND is not None
        self.process = subprocess.Popen(
            [
                *(COMMAND, *self.options, "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--appendonly", "no", "--dir", self.folder.name, "--save", ""),
            ],
            # It may outlive a run of the tests that crashes, whose output nobody waits for then.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not self.is_up():
            assert self.process.poll() is None, "redis-server ended."
            assert time.monotonic() < deadline, "redis-server does not answer."
            time.sleep(0.01)

    def is_up(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def kill(self) -> None:
        """Take it away as a machine does that fails."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Let it accept connections, and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.kill()
        self.folder.cleanup()


class Proxy:
    """A way to Redis that takes its time, and loses connections as networks do."""

    def __init__(self, port: int, delay: float) -> None:
        self.port = port
        self.delay = delay
        #: Whether what Redis answers is lost, and with it the connection.
        self.loses_answers = False
        self.links: list[Link] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Proxy:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}/0"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        for link in self.links:
            link.client.close()
            link.redis.close()
        await asyncio.gather(*self.tasks)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, writer)
        await link.connect()
        self.links.append(link)
        self.tasks += map(asyncio.create_task, (link.ask(reader), link.answer()))

    async def reconnect(self) -> None:
        """Connect to Redis again, which those who are connected here do not see."""
        for link in self.links:
            old = link.redis
            await link.connect()
            old.close()


class Link:
    """A connection through the proxy."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client = client

    async def connect(self) -> None:
        self.answers, self.redis = await asyncio.open_connection("127.0.0.1", self.proxy.port)

    async def ask(self, questions: asyncio.StreamReader) -> None:
        while data := await questions.read(2**16):
            await asyncio.sleep(self.proxy.delay)
            self.redis.write(data)
        self.redis.close()

    async def answer(self) -> None:
        while True:
            answers = self.answers
            data = await answers.read(2**16)
            if answers is not self.answers:
                continue
            if not data or self.proxy.loses_answers:
                break
            await asyncio.sleep(self.proxy.delay)
            self.client.write(data)
        self.client.close()


#: For tests and blocks in which Redis does not answer: do not wait long for it.
impatient = override_settings(WEBSOCKET_REDIS_TIMEOUT=0.3)


class OnRedis(SimpleTestCase):
    """Test cases whose groups live in Redis."""

    number_of_servers = 1
    servers: list[RedisServer]
    #: The first of the servers.
    redis: RedisServer
    redis_settings: override_settings

    @classmethod
    def setUpClass(cls) -> None:
        # Not by a decorator: this way, one line of the report tells of all.
        if not (COMMAND and find_spec("redis")):
            raise unittest.SkipTest("needs redis-server on the PATH and pip install -e '.[redis]'")
        super().setUpClass()
        cls.servers = []
        for _ in range(cls.number_of_servers):
            cls.servers.append(RedisServer())
            cls.addClassCleanup(cls.servers[-1].stop)
        cls.redis = cls.servers[0]
        # Longer than any machine is busy: a test in which Redis does not answer is `impatient`.
        cls.redis_settings = override_settings(
            WEBSOCKET_REDIS_PREFIX=PREFIX,
            WEBSOCKET_REDIS_TIMEOUT=20,
            WEBSOCKET_REDIS_URL=" ".join(server.url for server in cls.servers),
        )
        cls.redis_settings.enable()

    @classmethod
    def tearDownClass(cls) -> None:
        # Not by a cleanup: the class's own settings, which end here on older Djangos, are outside.
        cls.redis_settings.disable()
        super().tearDownClass()

    def setUp(self) -> None:
        super().setUp()
        for server in self.servers:
            if server.process.poll() is not None:
                server.start()  # The test before has killed it.

    def redis_client(self, server: RedisServer | None = None, **options: Any) -> Any:
        """Return a client of the first server or another one, as other programs may have one."""
        import redis.asyncio

        return redis.asyncio.Redis.from_url((server or self.redis).url, **options)

    @asynccontextmanager
    async def proxy(self, delay: float = 0) -> AsyncIterator[Proxy]:
        """Let a block, the first to use groups in its test, reach Redis through a proxy."""
        async with Proxy(self.redis.port, delay) as proxy:
            with override_settings(WEBSOCKET_REDIS_URL=proxy.url):
                try:
                    yield proxy
                finally:
                    await close_hub()
