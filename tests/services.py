"""The real servers that a site needs or meets: PostgreSQL, Redis, proxies."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE, free_port

# Debian keeps these where only root looks.
PATH = f"{os.environ['PATH']}:/usr/sbin"


def need(program: str) -> str:
    found = shutil.which(program, path=PATH)
    if found is None:
        pytest.skip(f"{program} is not on this machine")
    return found


@contextlib.contextmanager
def running(
    *command: str | Path, port: int, **options: object
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for a block, which begins once the program's port is open."""
    process = subprocess.Popen([str(part) for part in command], **options)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert process.poll() is None, f"{command} has ended"
            assert time.monotonic() < deadline, f"{command} does not listen"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


class Redis:
    """A Redis of the tests' own, which keeps nothing."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.stack = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        address = ("--bind", "127.0.0.1", "--port", str(self.port))
        nothing_kept = ("--appendonly", "no", "--save", "")
        command = (need("redis-server"), *address, *nothing_kept)
        options = {"port": self.port, "stdout": subprocess.DEVNULL}
        self.process = self.stack.enter_context(running(*command, **options))

    def kill(self) -> None:
        """Take it away without a word to its clients."""
        self.stack.close()


@contextlib.contextmanager
def running_redis() -> Iterator[Redis]:
    redis = Redis()
    try:
        yield redis
    finally:
        redis.kill()


class Postgres:
    """A PostgreSQL server of the tests' own."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.data = Path(tempfile.mkdtemp(prefix="postgres-"))
        if getpass.getuser() == "root":  # PostgreSQL refuses to run as root.
            shutil.chown(self.data, "postgres")
        self.run("initdb", "--auth=trust", "--no-sync", "--username=postgres", "--encoding=UTF8")

    def run(self, program: str, *args: str) -> str:
        command = [str(self.programs / program), *args]
        if program != "psql":
            command += ["--pgdata", str(self.data)]
        if getpass.getuser() == "root":
            command = ["runuser", "-u", "postgres", "--", *command]
        # A server holds on to the files that it was started with.
        output = subprocess.DEVNULL if "start" in args else subprocess.PIPE
        result = subprocess.run(command, cwd="/", stdout=output, stderr=output, encoding="utf-8")
        assert result.returncode == 0, f"{command}:\n{result.stdout}\n{result.stderr}"
        return result.stdout

    @property
    def url(self) -> str:
        return f"postgres://site@127.0.0.1:{self.port}/site"

    def start(self) -> None:
        """Start on a port that is free."""
        for _ in range(10):
            self.port = free_port()
            self.options = f"-p {self.port} -c fsync=off -c unix_socket_directories="
            with contextlib.suppress(AssertionError):
                self.run("pg_ctl", "start", "--wait", "-o", self.options)
                return
        pytest.fail((self.data / "log").read_text(), pytrace=False)

    def restart(self) -> None:
        """Restart, as for an update: what is connected is thrown out."""
        self.run("pg_ctl", "stop", "--wait", "--mode=fast")
        self.run("pg_ctl", "start", "--wait", "-o", self.options)

    def query(self, sql: str) -> str:
        address = ("--host=127.0.0.1", f"--port={self.port}", "--username=postgres")
        return self.run("psql", *address, "--no-align", "--tuples-only", "--command", sql).strip()

    def ask_for_password(self, user: str) -> None:
        """Let this user in only with the password, as PostgreSQL's image does over TCP."""
        access = self.data / "pg_hba.conf"
        rule = f"host all {user} 127.0.0.1/32 scram-sha-256\n"
        access.write_text(rule + access.read_text())
        self.query("SELECT pg_reload_conf()")

    def connections(self, user: str = "site") -> int:
        """Return how many connections the site, or another user, has."""
        return int(self.query(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'"))


@contextlib.contextmanager
def running_postgres(role: str = "") -> Iterator[Postgres]:
    """Run PostgreSQL for a block, with a database `site` and its owner of that name."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not versions:
        pytest.skip("PostgreSQL is not on this machine")
    server = Postgres(versions[-1])
    try:
        server.start()
        server.query(f"CREATE ROLE site LOGIN {role}")
        server.query("CREATE DATABASE site OWNER site")
        yield server
    finally:
        with contextlib.suppress(AssertionError):
            server.run("pg_ctl", "stop", "--wait", "--mode=immediate")
        shutil.rmtree(server.data)


class Wire:
    """What lies between a program and a server, and can fail or be slow: a proxy for TCP."""

    def __init__(self, target: int) -> None:
        self.target = target
        #: Seconds that it takes whatever is sent.
        self.delay = 0.0
        self.is_mended = True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        self.cut = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                if not self.is_mended:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    args = (*pair, self.cut)
                    threading.Thread(target=self.forward, args=args, daemon=True).start()

    def forward(self, source: socket.socket, target: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                time.sleep(self.delay)
                if not cut.is_set():
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def fall_silent(self) -> None:
        """Lose all that is sent over the connections of now; new ones work."""
        self.cut.set()
        self.cut = threading.Event()

    def tear(self) -> None:
        """End the connections of now, and let no others through until it is mended."""
        self.is_mended = False
        self.hang_up()

    def mend(self) -> None:
        self.is_mended = True

    def hang_up(self) -> None:
        """End the connections of now."""
        sockets, self.sockets = self.sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self.listener.close()
        self.hang_up()
