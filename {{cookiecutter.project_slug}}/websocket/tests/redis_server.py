"""A real Redis for the tests that need one: `redis-server`, on a port of its own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from importlib.util import find_spec

from django.test import SimpleTestCase, override_settings

COMMAND = shutil.which("redis-server")


class RedisServer:
    """A Redis that keeps nothing, until `stop()`."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = tempfile.TemporaryDirectory()
        self.start()

    def start(self) -> None:
        """Return once it answers."""
        assert COMMAND is not None
        self.process = subprocess.Popen(
            [
                *(COMMAND, "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--appendonly", "no", "--dir", self.folder.name, "--save", ""),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not self.is_up():
            assert self.process.poll() is None, "redis-server ended."
            assert time.monotonic() < deadline, "redis-server does not answer."
            time.sleep(0.01)

    def is_up(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        """Take it away as a machine does that fails."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Let it accept connections, and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        self.kill()
        self.folder.cleanup()


class OnRedis(SimpleTestCase):
    """Test cases whose groups live in Redis."""

    redis: RedisServer
    redis_settings: override_settings

    @classmethod
    def setUpClass(cls) -> None:
        # Not by a decorator: this way, one line of the report tells of all.
        if not (COMMAND and find_spec("redis")):
            raise unittest.SkipTest("needs redis-server on the PATH and pip install -e '.[redis]'")
        super().setUpClass()
        cls.redis = RedisServer()
        cls.addClassCleanup(cls.redis.stop)
        cls.redis_settings = override_settings(WEBSOCKET_REDIS_URL=cls.redis.url)
        cls.redis_settings.enable()

    @classmethod
    def tearDownClass(cls) -> None:
        # Not by a cleanup: the class's own settings, which end here on older Djangos, are outside.
        cls.redis_settings.disable()
        super().tearDownClass()

    def setUp(self) -> None:
        super().setUp()
        if self.redis.process.poll() is not None:
            self.redis.start()  # The test before has killed it.
