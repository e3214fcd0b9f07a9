"""System checks for mistakes, which `manage.py check` reports."""

from __future__ import annotations

import difflib
import os
from importlib import metadata
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.core.management import get_commands
from django.urls import get_resolver
from django.utils.module_loading import import_string

from websocket import conf
from websocket.console import name_of
from websocket.routes import sockets


@register(Tags.compatibility)
def check_application(**kwargs: Any) -> list[CheckMessage]:
    """Check that ASGI_APPLICATION passes WebSockets on to their views."""
    if conf.errors():
        return []  # The application does not start; check_settings says why.
    path = getattr(settings, "ASGI_APPLICATION", None)
    try:
        application = import_string(path) if path else None
    except ImportError as error:
        return [Error(f"ASGI_APPLICATION is {path!r}: {error}.", id="websocket.E001")]
    if getattr(application, "serves_websockets", False):
        return []
    return [
        Warning(
            f"ASGI_APPLICATION is {path!r}, which is not wrapped with websockets().",
            hint="Write application = websockets(get_asgi_application()) in that module.",
            id="websocket.W001",
        )
    ]


@register(Tags.compatibility)
def check_server(**kwargs: Any) -> list[CheckMessage]:
    """Check that uvicorn, if it is installed, has a WebSocket library and is recent enough."""
    version = _version("uvicorn")
    if version is None:
        return []
    messages: list[CheckMessage] = []
    if not (_version("websockets") or _version("wsproto")):
        messages.append(
            Warning(
                "uvicorn finds no WebSocket library: it treats handshakes as plain requests.",
                hint="pip install 'uvicorn[standard]'",
                id="websocket.W002",
            )
        )
    if version < (0, 52, 4):
        messages.append(
            Warning(
                "This uvicorn loses the last messages before a close; before 0.52.1 it also "
                "buffers without limit for clients that are slow to read.",
                hint="pip install 'uvicorn[standard]>=0.52.4'",
                id="websocket.W003",
            )
        )
    return messages


@register(Tags.compatibility)
def check_runserver(**kwargs: Any) -> list[CheckMessage]:
    """Check that `manage.py runserver` serves sockets, which Django's own does not."""
    if not settings.DEBUG or not get_commands()["runserver"].startswith("django."):
        return []
    path = getattr(settings, "ASGI_APPLICATION", None) or "project.asgi.application"
    module, _, name = path.rpartition(".")
    return [
        Warning(
            "`manage.py runserver` is Django's own, which serves no sockets.",
            hint=f"Run `uvicorn {module}:{name} --reload` instead.",
            id="websocket.W006",
        )
    ]


@register(Tags.compatibility)
def check_name(**kwargs: Any) -> list[CheckMessage]:
    """Check that websocket-client, which has a package of this name, is in another folder."""
    try:
        folder = metadata.distribution("websocket-client").locate_file("websocket")
    except metadata.PackageNotFoundError:
        return []
    if os.path.realpath(str(folder)) != os.path.dirname(os.path.realpath(__file__)):
        return []  # Then both work: see the app's __init__.py.
    return [
        Warning(
            "The package websocket-client is installed into the folder of this project's app "
            "`websocket`: one has overwritten files of the other.",
            hint="Uninstall both, then install the project with `pip install -e .`.",
            id="websocket.W004",
        )
    ]


@register(Tags.compatibility)
def check_middleware(**kwargs: Any) -> list[CheckMessage]:
    """Check that AuthenticationMiddleware has SessionMiddleware before it."""
    names = [path.rpartition(".")[2] for path in settings.MIDDLEWARE]
    if "AuthenticationMiddleware" not in names:
        return []
    before = names[: names.index("AuthenticationMiddleware")]
    if any("Session" in name for name in before):
        return []
    return [
        Warning(
            "MIDDLEWARE has AuthenticationMiddleware without SessionMiddleware before it: "
            "every handshake fails.",
            hint="Put django.contrib.sessions.middleware.SessionMiddleware before it.",
            id="websocket.W005",
        )
    ]


@register(Tags.compatibility)
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check the WEBSOCKET_ settings, as `websockets()` does when the server starts."""
    return [Error(error, id="websocket.E002") for error in conf.errors()]


@register(Tags.urls)
def check_routes(**kwargs: Any) -> list[CheckMessage]:
    """Check that no two sockets have one URL, of which Django finds only the first."""
    views: dict[str, Any] = {}
    messages: list[CheckMessage] = []
    for url, view, _ in sockets(get_resolver(), "/"):
        if url in views:
            messages.append(
                Warning(
                    f"The socket {name_of(view)} is never reached: {url} is that of "
                    f"{name_of(views[url])}.",
                    hint="Give one of them another route.",
                    id="websocket.W008",
                )
            )
        views.setdefault(url, view)
    return messages


@register(Tags.compatibility)
def check_names(**kwargs: Any) -> list[CheckMessage]:
    """Check that settings which begin with WEBSOCKET are those of the app, and not misspelled."""
    known = [f"WEBSOCKET_{name}" for name in conf.DEFAULTS]
    unknown = (name for name in dir(settings) if name.startswith("WEBSOCKET") and name.isupper())
    messages: list[CheckMessage] = []
    for name in unknown:
        if name not in known:
            (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
            messages.append(
                Warning(
                    f"{name} is not a setting of websocket, and has no effect.",
                    hint=f"Did you mean {nearest}? If it is your own, begin its name otherwise.",
                    id="websocket.W007",
                )
            )
    return messages


@register(Tags.compatibility, deploy=True)
def check_processes(**kwargs: Any) -> list[CheckMessage]:
    """Report that groups live in one process, which matters if the site has several."""
    if conf.REDIS_URL:
        return []
    return [
        Info(
            "WEBSOCKET_REDIS_URL is empty: groups live in the memory of one process. Messages "
            "from other processes (workers, commands, a second server) do not reach its sockets.",
            hint="If there are several processes, set REDIS_URL in the environment.",
            id="websocket.I001",
        )
    ]


def _version(distribution: str) -> tuple[int, ...] | None:
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
