"""What `manage.py check` can see is wrong."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.core.management import get_commands
from django.utils.module_loading import import_string

from websocket import conf


@register(Tags.compatibility)
def check_application(**kwargs: Any) -> list[CheckMessage]:
    """Check that sockets reach their views."""
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
            hint="application = websockets(get_asgi_application()), in the module it names.",
            id="websocket.W001",
        )
    ]


@register(Tags.compatibility)
def check_server(**kwargs: Any) -> list[CheckMessage]:
    """Check that uvicorn, where it is the server, can do WebSockets, and does them well."""
    version = _version("uvicorn")
    if version is None:
        return []
    messages: list[CheckMessage] = []
    if not (_version("websockets") or _version("wsproto")):
        messages.append(
            Warning(
                "uvicorn finds no WebSocket library: it answers every handshake with 404.",
                hint="pip install 'uvicorn[standard]'",
                id="websocket.W002",
            )
        )
    if version < (0, 52, 4):
        messages.append(
            Warning(
                "This uvicorn loses what was sent last before a close, and before 0.52.1 it "
                "buffers without limit for clients that are slow to read.",
                hint="pip install 'uvicorn[standard]>=0.52.4'",
                id="websocket.W003",
            )
        )
    return messages


@register(Tags.compatibility)
def check_runserver(**kwargs: Any) -> list[CheckMessage]:
    """Check that the command for development serves sockets too: Django's own does not."""
    if not settings.DEBUG or not get_commands()["runserver"].startswith("django."):
        return []
    path = getattr(settings, "ASGI_APPLICATION", None) or "project.asgi.application"
    module, _, name = path.rpartition(".")
    return [
        Warning(
            "`manage.py runserver` is Django's own, which serves no sockets.",
            hint=f"Run `uvicorn {module}:{name} --reload` in its place.",
            id="websocket.W006",
        )
    ]


@register(Tags.compatibility)
def check_name(**kwargs: Any) -> list[CheckMessage]:
    """Check that no other distribution's module is named as this app is."""
    if _version("websocket-client") is None:
        return []
    return [
        Warning(
            "The package websocket-client is installed, whose module `websocket` this project's "
            "app of that name hides.",
            hint="Uninstall it, or whatever needs it will import this app in its place.",
            id="websocket.W004",
        )
    ]


@register(Tags.compatibility)
def check_middleware(**kwargs: Any) -> list[CheckMessage]:
    """Check that what authentication reads is there before it."""
    names = [path.rpartition(".")[2] for path in settings.MIDDLEWARE]
    if "AuthenticationMiddleware" not in names:
        return []
    before = names[: names.index("AuthenticationMiddleware")]
    if any("Session" in name for name in before):
        return []
    return [
        Warning(
            "MIDDLEWARE has AuthenticationMiddleware without SessionMiddleware before it: "
            "every handshake ends in an error.",
            hint="Put django.contrib.sessions.middleware.SessionMiddleware before it.",
            id="websocket.W005",
        )
    ]


@register(Tags.compatibility)
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check the WEBSOCKET_ settings: with one that cannot work, `websockets()` raises too."""
    return [Error(error, id="websocket.E002") for error in conf.errors()]


@register(Tags.compatibility, deploy=True)
def check_processes(**kwargs: Any) -> list[CheckMessage]:
    """Tell where groups live: it matters where the site is more than one process."""
    if conf.REDIS_URL:
        return []
    return [
        Info(
            "WEBSOCKET_REDIS_URL is empty: groups live in the memory of one process. What other "
            "processes publish (workers, commands, a second server) does not reach its sockets.",
            hint="Set it where there is more than one: here, by REDIS_URL in the environment.",
            id="websocket.I001",
        )
    ]


def _version(distribution: str) -> tuple[int, ...] | None:
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
