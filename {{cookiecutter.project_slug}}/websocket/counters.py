"""Counters of events since the process started, for monitors, and the last refusals."""

from __future__ import annotations

import threading
from collections import Counter, deque

#: The events of this process, by name; `websocket.metrics` shows most of them.
counters: Counter[str] = Counter()

#: Held while a number moves from an open socket to the counters, so that no reader misses it.
lock = threading.Lock()

#: The last refused handshakes: a number that only rises, the path and the status.
refusals: deque[tuple[int, str, int]] = deque([(0, "", 0)], maxlen=100)


def count_refusal(path: str, status: int) -> None:
    """Count a refused handshake."""
    counters[f"handshake {status}"] += 1
    refusals.append((refusals[-1][0] + 1, path, status))
