"""The site's settings: what differs from machine to machine comes from the environment or .env."""

from pathlib import Path

import django
import environ
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(BASE_DIR / ".env")

PROJECT_NAME = "{{ cookiecutter.project_name | quoted }}"

DEBUG = env.bool("DEBUG", default=False)

# Everybody knows a default: where DEBUG is off, there is none.
SECRET_KEY = env.str("SECRET_KEY", default="") or ("insecure-for-development" if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set, and DEBUG is off: to develop, write DEBUG=true to the file .env; "
        "to deploy, set SECRET_KEY in the environment (.env.example has the rest)."
    )

# What serves the site, and how a request finds its view.
ASGI_APPLICATION = "project.asgi.application"
INSTALLED_APPS = [
    # Before Django's apps: its runserver and its templates take the place of theirs.
    "project",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    # jinja: if cookiecutter.chat_example
    "chat",
    # jinja: endif
    "users",
    # By its class: Django 3.1 does not look for one.
    "websocket.apps.WebSocketConfig",
]
MIDDLEWARE = [
    # First: load balancers ask without TLS, and by whichever host.
    "project.health.health",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "project.urls"
TEMPLATE_LOADERS = [
    "django.template.loaders.filesystem.Loader",
    "django.template.loaders.app_directories.Loader",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            # uvicorn --reload does not watch templates: while DEBUG is on, none is cached.
            "loaders": TEMPLATE_LOADERS
            if DEBUG
            else [("django.template.loaders.cached.Loader", TEMPLATE_LOADERS)],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Users
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
# jinja: if cookiecutter.chat_example
LOGIN_REDIRECT_URL = "chat:rooms"
LOGIN_URL = "chat:login"
# jinja: else
# The admin has a login page, until the site has one of its own.
LOGIN_REDIRECT_URL = "index"
LOGIN_URL = "admin:login"
# jinja: endif
AUTH_USER_MODEL = "users.User"

# Database
DATABASE = env.db("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}")
# A server may be restarted under a connection; a file is just there.
DATABASE["CONN_HEALTH_CHECKS"] = DATABASE["ENGINE"] != "django.db.backends.sqlite3"
if DATABASE["ENGINE"] == "django.db.backends.postgresql":
    DATABASE["OPTIONS"] = {
        # Under ASGI each request has a thread of its own, and no use for a connection that another
        # left open: with CONN_MAX_AGE the server soon has too many. With a pool, 20 clients at a
        # time got 257 pages a second; with a connection for each request, 171. Where all 16 are in
        # use, the next request waits for so many seconds, and then fails.
        "pool": {"min_size": 1, "max_size": 16, "timeout": 5},
        # A server that went silent, or a network that forgot the connection, holds up a thread for
        # 9 seconds at the most (measured); with the system's own values, it takes many minutes.
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": 8000,
        # DATABASE_URL may set any of these: postgres://...?connect_timeout=10
        **DATABASE.get("OPTIONS", {}),
    }
elif DATABASE["ENGINE"] == "django.db.backends.sqlite3":
    # To open the file anew for each request takes longer than most queries, and nobody else waits
    # for a connection.
    DATABASE["CONN_MAX_AGE"] = 60
DATABASES = {"default": DATABASE}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Language and time
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

# Hosts and origins
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# Logging: one line an event to the console, or one object of JSON.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "no_mail_for_visitors": {"()": "project.logging.NoMailForVisitors"},
        "one_line_for_visitors": {"()": "project.logging.OneLineForVisitors"},
        "query": {"()": "project.logging.WithoutQueryStrings"},
    },
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
        "json": {"()": "project.logging.JSONFormatter"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "filters": ["one_line_for_visitors"],
            "formatter": "json" if env.bool("LOG_JSON", default=False) else "line",
        },
        "mail": {
            "class": "django.utils.log.AdminEmailHandler",
            "filters": ["no_mail_for_visitors"],
            "level": "ERROR",
        },
    },
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        # What went wrong also goes to ADMINS by mail, as it does without these settings.
        "django": {"level": "INFO", "handlers": [] if DEBUG else ["mail"]},
        "uvicorn": {"propagate": True},
        "uvicorn.access": {"filters": ["query"], "propagate": True},
        "uvicorn.error": {"filters": ["query"]},
        "watchfiles": {"level": "WARNING"},
    },
}

# Numbers for Prometheus at /health/metrics. The proxy must not show them to everybody.
METRICS = env.bool("METRICS", default=False)

# What pages may load and connect to. Django 6.0 brought this; an older one leaves it out.
if django.VERSION >= (6, 0):
    MIDDLEWARE.insert(1, "django.middleware.csp.ContentSecurityPolicyMiddleware")
    SECURE_CSP = {
        "default-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
    }

# Static files
STATIC_ROOT = BASE_DIR / "staticfiles"
STATIC_URL = "static/"

# WebSockets: groups live in the memory of one process, or in Redis for any number of them.
# How many messages groups keep, by prefix of the group's name, for pages that connect again.
# jinja: if cookiecutter.chat_example
WEBSOCKET_HISTORY: dict[str, int] = {
    "chat.room.": 100,
}
# jinja: else
WEBSOCKET_HISTORY: dict[str, int] = {}
# jinja: endif
WEBSOCKET_DRAIN_SECONDS = env.float("WEBSOCKET_DRAIN_SECONDS", default=0.0)
WEBSOCKET_REDIS_PREFIX = "{{ cookiecutter.project_slug }}:"
WEBSOCKET_REDIS_URL = env.str("REDIS_URL", default="")

if not DEBUG:
    CSRF_COOKIE_SECURE = True
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=31_536_000)
    SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=True)
    SESSION_COOKIE_SECURE = True
    # Names of static files carry a hash of their content: browsers keep them for ever.
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {
            "BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage",
        },
    }
    # Named only where a proxy sets it: anybody can send the header to a server without one.
    if header := env.str("SECURE_PROXY_SSL_HEADER", default=""):
        SECURE_PROXY_SSL_HEADER = (f"HTTP_{header.upper().replace('-', '_')}", "https")
