"""What the template's tests share: rendered projects, their environments, and real servers."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parent.parent
UV = (sys.executable, "-m", "uv")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# The same without the windows that nobody sees: a page takes less than half as much time.
HEADLESS_SHELL = shutil.which("chromium-headless-shell") or CHROMIUM

# In CI, a test that is left out fails: see below.
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="There is no Chromium here.")

# What would make a rendered project behave otherwise on one machine than on another.
FOREIGN = re.compile(
    r"ALLOWED_HOSTS|CI$|CONN_MAX_AGE|CSRF_|DATABASE_URL|DEBUG|DJANGO_|PYTEST_|PYTHON|REDIS_URL"
    r"|LOG_JSON|METRICS|SECRET_KEY|SECURE_|UVICORN_|VIRTUAL_ENV|WEBSOCKET_"
)


# --- in CI, a test that is skipped is a test that is missing -----------------------------------


def fail_instead_of_skipping(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"In CI every test runs, but this one was to be left out: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    fail_instead_of_skipping(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    fail_instead_of_skipping(report)
    return report


# --- processes ---------------------------------------------------------------------------------


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return two processes more than there are cores: tests wait for a third of their time."""
    return (os.cpu_count() or 1) + 2


# --- commands ----------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin the share of each process with tests that take longest: one at the end would wait."""
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    longest = [
        item for item in items if item.name.endswith("own_tests") or "own_tests_" in item.name
    ]
    others = [item for item in items if item not in longest]
    share = len(items) // processes
    for number, item in enumerate(longest):
        others.insert(number % processes * share + number // processes, item)
    items[:] = others


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without what steers Python, Django or the tests."""
    return {key: value for key, value in os.environ.items() if not FOREIGN.match(key)} | extra


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; where it fails, the test fails with all that it printed."""
    options = {
        "capture_output": True,
        "check": True,
        "encoding": "utf-8",
        "env": clean_environment(),
        "stdin": None if "input" in options else subprocess.DEVNULL,
        **options,
    }
    check = options.pop("check")
    if options["stdin"] is None:
        del options["stdin"]
    result = subprocess.run([str(part) for part in command], **options)
    if check and result.returncode:
        pytest.fail(
            f"{result.args} exited {result.returncode}:\n{result.stdout}\n{result.stderr}",
            pytrace=False,
        )
    return result


def make_venv(path: Path, *packages: str | Path, **options: Any) -> Path:
    """Make a virtual environment with pip and these packages, and return its Python."""
    run(*UV, "venv", "--python", sys.executable, "--seed", path)
    python = path / "bin" / "python"
    run(*UV, "pip", "install", "--quiet", "--python", python, *packages, **options)
    return python


# --- rendering ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a fresh clone has it: without what tools leave behind."""
    leftovers = shutil.ignore_patterns(
        *("*_cache", ".git", ".venv", "__pycache__", "demo", "node_modules")
    )
    path = tmp_path_factory.mktemp("clone") / "template"
    return Path(shutil.copytree(TEMPLATE, path, ignore=leftovers))


@pytest.fixture(scope="session")
def cookiecutter_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that leaves the home directory as it is."""
    home = tmp_path_factory.mktemp("cookiecutter")
    config = home / "config.yaml"
    config.write_text(f"cookiecutters_dir: '{home}'\nreplay_dir: '{home}'\n")
    return config


@pytest.fixture(scope="session")
def render(
    cookiecutter_config: Path, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function that renders the template with the answers given and returns the project."""

    def render(**answers: str | bool) -> Path:
        # An answer that is not typed is itself rendered: a Jinja literal stands for any text.
        literals = {
            name: f"{{{{ {answer!a} }}}}" if isinstance(answer, str) else answer
            for name, answer in answers.items()
        }
        project = cookiecutter(
            str(template),
            no_input=True,
            config_file=str(cookiecutter_config),
            extra_context=literals,
            output_dir=str(tmp_path_factory.mktemp("rendered")),
        )
        return Path(project)

    return render


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all of pytest's processes share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Project:
    """A rendered project and the virtual environment that it is installed in."""

    path: Path
    python: Path

    @property
    def env(self) -> dict[str, str]:
        paths = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        return clean_environment(PATH=paths, VIRTUAL_ENV=str(self.python.parent.parent))

    def run(self, *args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the project's Python in the project's folder."""
        return run(self.python, *args, **{"cwd": self.path, "env": self.env, **options})

    def copy(self, path: Path) -> "Project":
        """Return the same project in another folder, for a test that edits it."""
        # Other tests use the project meanwhile: their caches come and go, and what pip builds.
        passing = shutil.ignore_patterns("*_cache", "*.egg-info", "*.pyc.*", "build")
        return Project(shutil.copytree(self.path, path, ignore=passing), self.python)


@pytest.fixture(scope="session")
def project(render: Callable[..., Path], shared: Path) -> Project:
    """The project of the default answers, installed and migrated; no test changes it.

    It is made once, by the first of pytest's processes that needs it.
    """
    project = Project(shared / "my_project", shared / "venv" / "bin" / "python")
    with locked(shared / "project.lock"):
        if not (shared / "project.made").exists():
            shutil.copytree(render(), project.path)
            packages = ("-e", ".[dev,fast,postgres,redis]", "pytest-xdist")
            make_venv(shared / "venv", "--compile-bytecode", *packages, cwd=project.path)
            project.run("manage.py", "migrate")
            (shared / "project.made").touch()
    return project


@pytest.fixture(scope="session")
def neighbours(project: Project, shared: Path) -> Project:
    """The project in an environment that has the packages of neighbours.txt as well."""
    python = shared / "neighbours" / "bin" / "python"
    with locked(shared / "neighbours.lock"):
        if not (shared / "neighbours.made").exists():
            packages = ("-r", TEMPLATE / "tests" / "neighbours.txt", "-e", ".[dev,fast,redis]")
            make_venv(shared / "neighbours", *packages, cwd=project.path)
            (shared / "neighbours.made").touch()
    return Project(project.path, python)


@pytest.fixture(scope="session")
def mypy(
    project: Project, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """A function that checks the types of a project; what it imports is read once for all."""

    def mypy(path: Path, *, check: bool = True) -> str:
        with locked(shared / "mypy.lock"):
            if not (shared / "mypy.made").exists():
                project.run("-m", "mypy", "--cache-dir", shared / "mypy", ".", check=False)
                (shared / "mypy.made").touch()
        # A copy each, so that nobody waits for a check of another project.
        cache = shutil.copytree(shared / "mypy", tmp_path_factory.mktemp("mypy") / "cache")
        return project.run("-m", "mypy", "--cache-dir", cache, ".", cwd=path, check=check).stdout

    return mypy


@pytest.fixture
def workshop(project: Project, tmp_path: Path) -> Project:
    """A copy of the project, free to be edited."""
    return project.copy(tmp_path / "workshop")


# --- servers -----------------------------------------------------------------------------------

# Seconds for what is sure to happen: nobody waits so long, unless it is a slow machine's fault.
PATIENCE = 60.0


def wait_until(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    """Ask again and again until it is so; where it never is, the test fails with this text."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.01)


def free_port() -> int:
    """Return a port that nobody has, outside the range from which the system gives clients theirs.

    There, a port could be taken by a client while its server restarts.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def edit(path: Path, text: str) -> None:
    """Write a file as an editor does: a reloading server never sees half of it."""
    written = path.with_name(f"{path.name}.new")
    written.write_text(text, encoding="utf-8")
    written.replace(path)


def trusting(certificate: Path) -> ssl.SSLContext:
    """Return what a client needs to trust a certificate that a test has made.

    Not for TLS 1.3, whose servers send tickets once the handshake is over: the sync client of
    websockets reads these in one thread while it sends its request in another, which OpenSSL does
    not allow. With a load on both cores, one in some hundred handshakes was never answered.
    """
    context = ssl.create_default_context(cafile=str(certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


# The protocol class of all servers: .ci/run runs the tests of sockets again with websocket.fast.
WS = {name: value for name, value in os.environ.items() if name == "UVICORN_WS"}
IS_FAST = WS == {"UVICORN_WS": "websocket.fast:Protocol"}


class Server:
    """A real uvicorn, its log, and the ways in which a server can go away."""

    def __init__(self, project: Project, args: tuple[str, ...], env: dict[str, str]) -> None:
        self.project = project
        self.args = args
        self.env = {**project.env, "PYTHONUNBUFFERED": "1", **WS, **env}
        self.lines: list[str] = []
        self.news = threading.Condition()
        self.port = free_port()
        try:
            while not self.start():
                self.port = free_port()
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return what starts it on its port."""
        uvicorn = [str(self.project.python), "-m", "uvicorn", "project.asgi:application"]
        return [*uvicorn, "--port", str(self.port), *self.args]

    def start(self) -> bool:
        """Return once the server answers, and watches if it reloads; False: its port was taken."""
        before = len(self.lines)
        self.process = subprocess.Popen(
            self.command(),
            cwd=self.project.path,
            encoding="utf-8",
            env=self.env,
            start_new_session=True,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self.reader = threading.Thread(target=self.read_log, args=[self.process], daemon=True)
        self.reader.start()
        # Which of the two lines is the last depends on what binds the socket.
        self.wait_for("Uvicorn running on", "ddress already in use", since=before)
        if "ddress already in use" in "".join(self.lines[before:]):
            self.kill()
            self.lines.clear()
            return False
        self.wait_for("Application startup complete.", since=before)
        wait_until(self.listens, self.log)
        if "Started reloader process" in self.log():
            wait_until(self.watches, self.log)
        return True

    def listens(self) -> bool:
        """Tell whether the port is open: where a parent process has bound it, that comes last."""
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            return True
        return False

    def watches(self) -> bool:
        """Tell whether the reloader watches each folder: of an earlier edit it hears nothing."""
        descriptors = Path(f"/proc/{self.process.pid}/fdinfo")
        if not descriptors.is_dir():
            return True  # Only Linux tells.
        watched = 0
        for descriptor in descriptors.iterdir():
            with contextlib.suppress(FileNotFoundError):
                watched += descriptor.read_text().count("inotify wd:")
        return watched > sum(path.is_dir() for path in self.project.path.rglob("*"))

    def read_log(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout:
            with self.news:
                self.lines.append(line)
                self.news.notify_all()
        with self.news:
            self.news.notify_all()

    def log(self) -> str:
        return "".join(self.lines)

    def wait_for(
        self, *texts: str, times: int = 1, timeout: float = PATIENCE, since: int = 0
    ) -> None:
        """Wait until one of the texts has been logged so many times, since a line of the log."""

        def logged() -> bool:
            log = "".join(self.lines[since:])
            return any(log.count(text) >= times for text in texts)

        with self.news:
            self.news.wait_for(lambda: logged() or not self.reader.is_alive(), timeout)
        assert logged(), f"{texts} not logged {times} times within {timeout} s:\n{self.log()}"

    def stop(self, timeout: float = 20) -> None:
        """Ask the server to stop, as a process manager does, and see it gone within seconds."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"still there {timeout} s after SIGTERM:\n{self.log()}", pytrace=False)
        self.reader.join(timeout)

    def kill(self) -> None:
        """Take the server away without a word to its clients."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(5)

    def restart(self) -> None:
        """Serve again on the same port."""
        if self.process.poll() is None:
            self.stop()
        assert self.start(), f"port {self.port} was taken meanwhile"


@contextlib.contextmanager
def servers_of(project: Project) -> Iterator[Callable[..., Server]]:
    """Give a function that serves a project with uvicorn; no server's log may show a traceback."""
    servers: list[Server] = []

    def serve(*args: str, env: dict[str, str] | None = None, path: Path | None = None) -> Server:
        server = Server(Project(path or project.path, project.python), args, env or {})
        servers.append(server)
        return server

    try:
        yield serve
        for server in servers:
            if server.process.poll() is None:
                server.stop()
    finally:
        for server in servers:
            server.kill()
    for server in servers:
        assert "Traceback" not in server.log(), server.log()


@pytest.fixture
def serve(project: Project) -> Iterator[Callable[..., Server]]:
    """A function that serves the project, or an edited copy, for this test alone."""
    with servers_of(project) as serve:
        yield serve
