"""The rendered project's settings, with the rooms' URLs; a test chooses the rest."""

import json
import os

from project.settings import *  # noqa: F403

LOGIN_URL = "/log-in/"
ROOT_URLCONF = "groupsite.urls"

for name in ("DISCONNECT_GRACE", "REDIS_TIMEOUT", "SLOW_CLIENT"):
    if value := os.environ.get(f"WEBSOCKET_{name}"):
        globals()[f"WEBSOCKET_{name}"] = json.loads(value)
