"""Django's runserver with uvicorn in place of wsgiref: it serves sockets too, and reloads."""

import socket
from functools import partial
from typing import Any

import django
import uvicorn
from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands import runserver
from django.db import connections
from django.utils import timezone
from uvicorn.supervisors import ChangeReload


class Command(runserver.Command):
    help = "Starts uvicorn for development: pages, static files and sockets."
    # What Django's handle() makes of the address and the port that are asked for.
    addr: str
    port: str
    _raw_ipv6: bool

    def run(self, **options: Any) -> None:
        """Serve, if need be anew whenever a Python file changes."""
        name, _, attribute = settings.ASGI_APPLICATION.rpartition(".")
        config = uvicorn.Config(
            f"{name}:{attribute}",
            host=self.addr,
            port=int(self.port),
            log_config=None,  # Django's LOGGING is that of uvicorn too.
            reload=options["use_reloader"],
            reload_dirs=[str(settings.BASE_DIR)],
            timeout_graceful_shutdown=2,
        )
        listener = config.bind_socket()
        url = f"http://{f'[{self.addr}]' if self._raw_ipv6 else self.addr}:{self.port}/"
        target = partial(serve, config, url, options.get("skip_checks", False))
        if config.should_reload:
            ChangeReload(config, target=target, sockets=[listener]).run()
        else:
            target([listener])

    def begin(self, url: str, skip_checks: bool) -> None:
        """Check the project and print the banner, as Django's runserver does."""
        if not skip_checks:
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True)
        self.check_migrations()
        connections.close_all()
        self.stdout.write(
            f"{timezone.localtime():%B %d, %Y - %X}\n"
            f"Django version {self.get_version()}, using settings {settings.SETTINGS_MODULE!r}\n"
            f"Starting uvicorn {uvicorn.__version__} development server at {url}\n"
            "Quit the server with CONTROL-C.\n"
        )
        self.stdout.flush()


def serve(
    config: uvicorn.Config, url: str, skip_checks: bool, sockets: list[socket.socket] | None
) -> None:
    """Check and serve the project: with reload in a new process, each time the code changes."""
    django.setup()
    command = Command()
    try:
        command.begin(url, skip_checks)
    except CommandError as error:
        if not config.should_reload:
            raise
        # The next change of the code may mend it.
        command.stderr.write(str(error))
        return
    uvicorn.Server(config).run(sockets)
