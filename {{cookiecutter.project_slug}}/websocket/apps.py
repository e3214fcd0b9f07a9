"""WebSockets for Django: a socket is an async view in the URLconf."""

import sys

from django.apps import AppConfig


class WebSocketConfig(AppConfig):
    name = "websocket"

    def ready(self) -> None:
        from websocket import auth, checks, hints  # noqa: F401

        auth.connect_receivers()
        if "sentry_sdk" in sys.modules:
            from websocket import sentry  # noqa: F401
