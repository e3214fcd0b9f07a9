"""Counters of this process's sockets since it started, for monitoring."""

from __future__ import annotations

from collections import Counter

from websocket import admission, sweep
from websocket.counters import counters as counted
from websocket.counters import lock
from websocket.lookout import Lookout
from websocket.threads import get_threads

_NAMES = {
    "messages_in": ("messages_in_total", "Messages received by views."),
    "messages_out": ("messages_out_total", "Messages sent to clients."),
    "waited": ("handshakes_waited_total", "Handshakes that had to wait for their turn."),
    "joins": ("group_joins_total", "Sockets that joined a group."),
    "deliveries": ("group_deliveries_total", "Messages handed to members of groups."),
    "unread": ("messages_unread_total", "Messages dropped because their view only pushes."),
    "dropped": ("group_dropped_total", "Messages dropped because their client was too slow."),
    "flooded": ("flooding_clients_dropped_total", "Clients dropped because they do not read."),
    "closed": ("slow_clients_closed_total", "Clients closed because they were too slow."),
}


def count() -> Counter[str]:
    """Return the counters, including the messages of the sockets that are open."""
    with lock:
        counters = Counter(counted)
        for item in sweep.everything():
            if isinstance(item, Lookout):
                counters["open"] += 1
                counters["messages_in"] += item.connection.messages_in
                counters["messages_out"] += item.connection.messages_out
    return counters


def prometheus() -> str:
    """Return the counters in Prometheus' text format."""
    counters = count()
    lines = _metric("open", "gauge", "Open sockets.", {"": counters["open"]})
    statuses = {
        '{status="' + key.removeprefix("handshake ") + '"}': number
        for key, number in sorted(counters.items())
        if key.startswith("handshake ")
    }
    lines += _metric("handshakes_total", "counter", "Handshakes, by response status.", statuses)
    waiting = {"": admission.count_waiting()}
    lines += _metric("handshakes_waiting", "gauge", "Handshakes that wait now.", waiting)
    lines += _metric(
        "stuck_threads",
        "gauge",
        "Threads that one job has held for 20 seconds.",
        {"": get_threads().count_stuck()},
    )
    for key, (name, text) in _NAMES.items():
        lines += _metric(name, "counter", text, {"": counters[key]})
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, values: dict[str, int]) -> list[str]:
    return [
        f"# HELP websocket_{name} {text}",
        f"# TYPE websocket_{name} {kind}",
        *(f"websocket_{name}{labels} {value}" for labels, value in values.items()),
    ]
