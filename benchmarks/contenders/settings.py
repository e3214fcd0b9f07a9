"""The rendered project's settings, for both contenders on Django, and what scenarios vary."""

from project.settings import *  # noqa: F403
from project.settings import LOGGING, MIDDLEWARE, env

# Nobody logs connections here: uvicorn's log, which the others' are in, is off too.
LOGGING["loggers"]["django"]["level"] = "WARNING"
MIDDLEWARE = env.list("MIDDLEWARE", default=MIDDLEWARE)
ROOT_URLCONF = "contenders.ours"
SESSION_ENGINE = env.str("SESSION_ENGINE", default="django.contrib.sessions.backends.db")

# What a variant of this project uses: see ours.py.
VARIANT = env.str("VARIANT", default="")
if VARIANT in ("history", "all"):
    WEBSOCKET_HISTORY = {"room": 100}
if handshakes := env.int("HANDSHAKES", default=0):
    WEBSOCKET_HANDSHAKES = handshakes

# Only where a scenario has groups: without a layer, a consumer has less to do.
CHANNEL_LAYERS = {}
if backend := env.str("CHANNEL_LAYER", default=""):
    CHANNEL_LAYERS["default"] = {"BACKEND": backend}
    if url := env.str("REDIS_URL", default=""):
        # channels_redis waits for 5 seconds at a time, after which redis-py 8 gives up by default.
        host = {"address": url, "socket_timeout": None}
        CHANNEL_LAYERS["default"]["CONFIG"] = {"hosts": [host]}
