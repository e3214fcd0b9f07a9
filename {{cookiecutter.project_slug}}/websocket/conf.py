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

#: Threads, and so database connections, that the sockets of one process share.
THREADS: int = 8

_DEFAULTS = {name: value for name, value in globals().items() if name.isupper()}


def _read_settings(**kwargs: Any) -> None:
    for name, default in _DEFAULTS.items():
        globals()[name] = getattr(settings, f"WEBSOCKET_{name}", default)


_read_settings()
setting_changed.connect(_read_settings)
