"""The app's settings: WEBSOCKET_ and the name in Django's settings, or the default given here.

They are read once, not on every message; a test that overrides one is heard all the same.
"""

from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

#: Seconds that a view may go on after its connection ended, before it is cancelled.
DISCONNECT_GRACE: float = 2.0

#: Bytes that one message of a client may have; a larger one closes the connection with 1009.
#: Also what is kept, in all, for a view that is busy while its client sends.
MAX_MESSAGE_SIZE: int = 1024 * 1024

#: Bytes of its groups' messages that are kept for one client that is slow to read them.
OUTBOX_SIZE: int = 1024 * 1024

#: Put before the names of Redis channels, so that projects can share a server.
REDIS_PREFIX: str = "websocket:"

#: Seconds to wait for Redis: for its answer, and for a connection to it.
REDIS_TIMEOUT: float = 2.0

#: Where groups live: a Redis server, or the memory of one process where this is empty.
REDIS_URL: str = ""

#: What happens to a client for which OUTBOX_SIZE is not enough: "close" closes its connection with
#: 1013, "drop" keeps it and drops the oldest messages.
SLOW_CLIENT: str = "close"

#: Threads, and so database connections, that the sockets of one process share.
THREADS: int = 8

_DEFAULTS = {name: value for name, value in globals().items() if name.isupper()}


def _read_settings(**kwargs: Any) -> None:
    for name, default in _DEFAULTS.items():
        globals()[name] = getattr(settings, f"WEBSOCKET_{name}", default)


_read_settings()
setting_changed.connect(_read_settings)
