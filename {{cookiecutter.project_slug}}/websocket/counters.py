"""Counters of events since the process started, which websocket.metrics shows to monitors."""

from __future__ import annotations

import threading
from collections import Counter

#: The events of this process, by name; `websocket.metrics` shows what each of them counts.
counters: Counter[str] = Counter()

#: Held while a number moves from an open socket to the counters, so that no reader misses it.
lock = threading.Lock()
