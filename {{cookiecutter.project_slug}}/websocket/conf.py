"""The app's settings: WEBSOCKET_<name> in Django's settings, or the default given here.

They are read once, not for every message, and read again when a test overrides one.
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from websocket import redis_url

#: Seconds that a view may go on after its connection has ended; then it is cancelled.
DISCONNECT_GRACE: float = 2.0

#: Seconds over which uvicorn, at SIGTERM, closes the sockets with 1012, one after the other, before
#: it stops. Another SIGTERM closes the rest at once. 0 closes all of them at once.
DRAIN_SECONDS: float = 0.0

#: Whether a browser whose handshake is refused with 401, 403 or a redirect to the login is told so
#: by a close with 3000 or 3003: browsers hide the response from their pages.
EXPLAIN_REFUSALS: bool = True

#: The number of handshakes that one process starts at a time; the others wait for their turn, in
#: order. While these take long, another starts every 5 ms, up to four times WEBSOCKET_THREADS.
HANDSHAKES: int = 4

#: The number of handshakes that may wait. The next ones are refused with 503 and `Retry-After`.
HANDSHAKE_QUEUE: int = 5000

#: The groups that keep their last messages, by prefix of their names, and how many they keep:
#: {"room.": 100}. The longest prefix that fits counts. All processes need the same.
HISTORY: dict[str, int] = {}

#: Seconds for which a group keeps its messages after the last one.
HISTORY_TTL: float = 300.0

#: Seconds after which a socket is closed with 1012, so that its page connects again and the
#: handshake checks everything anew. The time is up to 10 % shorter at random, so that clients do
#: not come back together. 0 disables this.
MAX_AGE: float = 0.0

#: The most bytes that a client's message may have: a larger one closes the connection with 1009.
MAX_MESSAGE_SIZE: int = 1024 * 1024

#: Bytes of group messages that are kept for each client that is slow to read.
OUTBOX_SIZE: int = 1024 * 1024

#: The prefix of Redis channel names, so that projects can share a server.
REDIS_PREFIX: str = "websocket:"

#: Seconds to wait for a connection to Redis, and for each of its answers.
REDIS_TIMEOUT: float = 2.0

#: The Redis servers that the groups use, with spaces between them: each group lives on one of them,
#: so all processes need the same. If this is empty, groups live in the memory of one process.
REDIS_URL: str = ""

#: The action if a client exceeds OUTBOX_SIZE: "close" closes its connection with 1013, "drop" drops
#: the oldest messages.
SLOW_CLIENT: str = "close"

#: The number of threads that the sockets of one process share. Its handshakes have threads of
#: their own: as many, and up to four times as many while some are slow. Each thread has its own
#: database connections.
THREADS: int = 8

DEFAULTS = {name: value for name, value in globals().items() if name.isupper()}


def _read_settings(**kwargs: Any) -> None:
    for name, default in DEFAULTS.items():
        globals()[name] = getattr(settings, f"WEBSOCKET_{name}", default)
    history_length.cache_clear()


@lru_cache(maxsize=1024)
def history_length(group: str) -> int:
    """Return the number of messages that a group keeps, 0 for none."""
    starts = [start for start in HISTORY if group.startswith(start)]
    return HISTORY[max(starts, key=len)] if starts else 0


def redis_key(group: str, kind: str) -> str:
    """Return a key in Redis; the braces mark the part by which a cluster places keys."""
    return REDIS_PREFIX + "{" + group + "}:" + kind


_read_settings()
setting_changed.connect(_read_settings)


#: The setting, and what it comes from in a project of the template.
_REDIS_URL = "WEBSOCKET_REDIS_URL (REDIS_URL in the environment)"


def errors() -> list[str]:
    """Return an error message for each setting with an invalid value."""
    wanted = {
        "DISCONNECT_GRACE": (_is_number(DISCONNECT_GRACE), "a number of seconds, 0 or more"),
        "DRAIN_SECONDS": (_is_number(DRAIN_SECONDS), "a number of seconds, 0 or more"),
        "EXPLAIN_REFUSALS": (isinstance(EXPLAIN_REFUSALS, bool), "True or False"),
        "HANDSHAKES": (_is_whole(HANDSHAKES), "a whole number, 1 or more"),
        "HANDSHAKE_QUEUE": (_is_whole(HANDSHAKE_QUEUE), "a whole number, 1 or more"),
        "HISTORY": (
            _is_history(HISTORY),
            'a dict of starts of names and whole numbers, 1 or more, such as {"room.": 100}',
        ),
        "HISTORY_TTL": (_is_number(HISTORY_TTL), "a number of seconds, 0 or more"),
        "MAX_AGE": (_is_number(MAX_AGE), "a number of seconds, 0 or more"),
        "MAX_MESSAGE_SIZE": (_is_whole(MAX_MESSAGE_SIZE), "a whole number of bytes, 1 or more"),
        "OUTBOX_SIZE": (_is_whole(OUTBOX_SIZE), "a whole number of bytes, 1 or more"),
        "REDIS_PREFIX": (isinstance(REDIS_PREFIX, str), "a string"),
        "REDIS_TIMEOUT": (
            _is_number(REDIS_TIMEOUT) and REDIS_TIMEOUT > 0,
            "a number of seconds, more than 0",
        ),
        "SLOW_CLIENT": (SLOW_CLIENT in ("close", "drop"), '"close" or "drop"'),
        "THREADS": (_is_whole(THREADS), "a whole number, 1 or more"),
    }
    found = [
        f"WEBSOCKET_{name} is {globals()[name]!r}: it has to be {kind}."
        for name, (is_valid, kind) in wanted.items()
        if not is_valid
    ]
    if REDIS_URL and (problem := redis_url.problem(str(REDIS_URL))):
        found.append(f"{_REDIS_URL} is {problem}.")
    elif REDIS_URL and find_spec("redis") is None:
        found.append(
            f"{_REDIS_URL} is set, but the package redis is not installed: "
            "pip install -e '.[redis]'"
        )
    return found


def _is_a(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)  # True is an int to Python.


def _is_number(value: Any) -> bool:
    return _is_a(value, int, float) and 0 <= value < float("inf")


def _is_history(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(start, str) and _is_whole(length) for start, length in value.items()
    )


def _is_whole(value: Any) -> bool:
    return _is_a(value, int) and value >= 1
