"""The rendered project's settings, with the tests' own URLs, middleware, mail and log."""

import json
import os

import django
from project.settings import *  # noqa: F403
from project.settings import DATABASES, LOGGING, MIDDLEWARE

ROOT_URLCONF = "testsite.urls"
MIDDLEWARE = [
    *MIDDLEWARE,
    "testsite.middleware.SyncOnly",
    "testsite.middleware.async_only",
    "testsite.middleware.of_both_kinds",
]
LOGIN_URL = "/log-in/"

# As in a project without the pool: each of the sockets' threads has its own connection.
pool = DATABASES["default"].get("OPTIONS", {}).pop("pool", None)
DATABASES["default"]["CONN_MAX_AGE"] = int(os.environ.get("CONN_MAX_AGE", 60))

# The same database, with each of the settings that decide how long a connection lives.
if os.environ.get("VARIANTS"):
    variants = {
        "age_0": {"CONN_MAX_AGE": 0},
        "age_60": {"CONN_MAX_AGE": 60},
        "age_none": {"CONN_MAX_AGE": None},
        "checked": {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": True},
        "client_side": {"CONN_MAX_AGE": 0, "DISABLE_SERVER_SIDE_CURSORS": True},
    }
    if pool:
        variants["pool"] = {"CONN_MAX_AGE": 0, "OPTIONS": {"pool": {**pool, "max_size": 1}}}
    for name, variant in variants.items():
        DATABASES[name] = {**DATABASES["default"], "CONN_HEALTH_CHECKS": False, **variant}
        if not pool:
            # A copy: SQLite keeps a closed file open as long as the process reads from it.
            DATABASES[name]["NAME"] += f".{name}.sqlite3"

# A test chooses by the environment.
for name in ("DISCONNECT_GRACE", "HANDSHAKE_QUEUE", "MAX_MESSAGE_SIZE", "THREADS"):
    if value := os.environ.get(f"WEBSOCKET_{name}"):
        globals()[f"WEBSOCKET_{name}"] = json.loads(value)

if engine := os.environ.get("SESSION_ENGINE"):
    SESSION_ENGINE = engine

# Errors go to the console and, where the test wants letters, to files.
ADMINS = ["admin@example.com"] if django.VERSION >= (6,) else [("Admin", "admin@example.com")]
EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = os.environ.get("EMAIL_FILE_PATH")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": LOGGING["filters"],
    "handlers": {
        "console": {"class": "logging.StreamHandler", "filters": ["one_line_for_visitors"]},
        "mail": {"class": "django.utils.log.AdminEmailHandler", "level": "ERROR"},
    },
    "loggers": {
        "django": {"handlers": ["console", "mail"] if EMAIL_FILE_PATH else ["console"]},
        "django.websocket": {"level": "INFO"},
    },
}
