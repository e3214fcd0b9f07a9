"""`manage.py runserver` of the rendered project: uvicorn, with reload."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import Project, Server, edit
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

STARTED = "Application startup complete."


class Runserver(Server):
    """`manage.py runserver`, watched as any server is."""

    def command(self) -> list[str]:
        return [str(self.project.python), "manage.py", "runserver", *self.args, str(self.port)]


@contextmanager
def runserver(project: Project, *args: str) -> Iterator[Runserver]:
    server = Runserver(project, args, {})
    try:
        yield server
        server.stop()
    finally:
        server.kill()


def test_it_serves_pages_static_files_and_sockets_and_says_where(workshop: Project) -> None:
    with runserver(workshop, "--noreload") as server:
        log = server.log()
        assert "System check identified no issues (0 silenced)." in log
        assert f"development server at http://127.0.0.1:{server.port}/" in log
        assert "Quit the server with CONTROL-C." in log
        for path in ("/", "/static/websocket/site.css", "/static/admin/css/base.css"):
            with urllib.request.urlopen(server.url + path, timeout=10) as response:
                assert response.status == 200
        # A browser sends localhost the cookies of all its ports.
        cookies = {"Cookie": f"other={'x' * 9000}"}
        with connect(f"{server.ws}/ws/", additional_headers=cookies) as client:
            client.send("hello")
            assert client.recv(timeout=10) == "hello"


def test_it_reloads_when_code_changes_and_tells_open_sockets(workshop: Project) -> None:
    views = workshop.path / "users" / "views.py"
    with runserver(workshop) as server, connect(f"{server.ws}/ws/") as client:
        edit(views, views.read_text().replace("send_message(message)", 'send_text("new")'))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=60)
        assert closed.value.rcvd.code == 1012
        server.wait_for(STARTED, times=2)
        assert server.log().count("Performing system checks...") == 2
        with connect(f"{server.ws}/ws/") as again:
            again.send("hello")
            assert again.recv(timeout=10) == "new"


def test_it_waits_for_the_mistake_to_be_corrected(workshop: Project) -> None:
    urls = workshop.path / "project" / "urls.py"
    correct = urls.read_text()
    with runserver(workshop) as server:
        edit(urls, correct + "\noh no\n")
        server.wait_for("SyntaxError: invalid syntax")
        edit(urls, correct)
        server.wait_for(STARTED, times=2)
        with urllib.request.urlopen(server.url, timeout=10) as response:
            assert response.status == 200


def test_without_reload_a_failing_check_stops_it(workshop: Project) -> None:
    settings = workshop.path / "project" / "settings.py"
    settings.write_text(settings.read_text() + '\nWEBSOCKET_SLOW_CLIENT = "ignore"\n')
    result = workshop.run("manage.py", "runserver", "--noreload", "0", check=False)
    assert result.returncode == 1
    assert "websocket.E002" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_that_is_taken_is_a_sentence_and_no_traceback(workshop: Project) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        result = workshop.run("manage.py", "runserver", port, check=False)
    assert result.returncode != 0
    assert "ddress already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_django_stops_a_project_without_hosts_as_ever(workshop: Project) -> None:
    env = {**workshop.env, "DEBUG": "false", "ALLOWED_HOSTS": ""}
    result = workshop.run("manage.py", "runserver", check=False, env=env)
    assert "You must set settings.ALLOWED_HOSTS if DEBUG is False." in result.stderr
