"""The rendered project's settings, without the app."""

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS

INSTALLED_APPS.remove("websocket.apps.WebSocketConfig")
