"""The tables of docs/capacity.md: what a run has measured, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: A lowest and a highest figure.
Range = tuple[float, float]

BEGIN = "<!-- The tables are written by `make bench`. -->\n"
END = "<!-- The end of the tables. -->\n"

EXISTING = ("sockets_1k", "sockets_10k", "sockets_most")
DIFFERENT = ("ours", "ours_login", "ours_group", "ours_all")


@dataclass(frozen=True)
class Measured:
    """A figure of all rounds of some scenarios, for some contenders."""

    symbol: str
    title: str
    unit: str
    figure: str
    scenarios: tuple[str, ...]
    contenders: tuple[str, ...] = ("ours",)


@dataclass(frozen=True)
class Calculated:
    """What follows from measured figures, by their symbols."""

    title: str
    formula: str
    unit: str
    calculate: Callable[[Mapping[str, float]], float]


MEASURED = (
    Measured("B", "memory of a process without sockets", "MiB", "base_mib", EXISTING, DIFFERENT),
    Measured("M", "memory of a socket that is only open", "KiB", "rss_kib", EXISTING, ("ours",)),
    Measured(
        *("F", "the same, logged in, in a group with history and presence", "KiB", "rss_kib"),
        *(EXISTING, ("ours_all",)),
    ),
    Measured("K", "the kernel's memory for a socket", "KiB", "kernel_kib", EXISTING[1:], DIFFERENT),
    Measured("I", "CPU of an idle socket, a second", "µs", "idle_us", EXISTING[1:], DIFFERENT),
    Measured("H", "CPU of a handshake with a login", "µs", "cpu_us", ("connect_default",)),
    Measured(
        *("C", "CPU of a client that comes back after a deploy, into its group", "µs", "cpu_us"),
        *(("deploy",), ("ours", "ours_history")),
    ),
    Measured("E", "CPU of a message that is answered", "µs", "cpu_us", ("echo_32",)),
    Measured("D", "CPU of a delivery to a member of a group", "µs", "cpu_us", ("fanout",)),
    Measured(
        *("P", "CPU of a message that goes through Redis to one member", "µs", "cpu_us"),
        ("publish_redis",),
    ),
    Measured("R", "CPU of Redis for this message", "µs", "redis_us", ("publish_redis",)),
    Measured(
        *("S", "CPU of Redis for a message that is kept", "µs", "redis_us"),
        *(("publish_redis",), ("ours_history",)),
    ),
    Measured(
        "L", "until the last of 10,000 members has a message", "ms", "last_ms", ("large_10k",)
    ),
)

CALCULATED = (
    Calculated(
        *("memory of a process with 10,000 sockets", "B + 10,000 × (F + K)", "GiB"),
        lambda v: v["B"] / 1024 + 10_000 * (v["F"] + v["K"]) / 2**20,
    ),
    Calculated("its CPU while nothing happens", "10,000 × I", "% of a core", lambda v: v["I"]),
    Calculated(
        "its handshakes after a deploy, on one core", "10,000 × C", "s", lambda v: v["C"] / 100
    ),
    Calculated(
        *("messages a second that it answers, on half a core", "0.5 s / E", ""),
        lambda v: 5e5 / v["E"],
    ),
    Calculated(
        *("deliveries a second, on half a core", "0.5 s / D", ""),
        lambda v: 5e5 / v["D"],
    ),
    Calculated(
        *("messages a second through one Redis, on half of its core", "0.5 s / R", ""),
        lambda v: 5e5 / v["R"],
    ),
    Calculated(
        *("messages a second that one Redis keeps, on half of its core", "0.5 s / S", ""),
        lambda v: 5e5 / v["S"],
    ),
    Calculated(
        *("a million sockets: memory of 100 processes", "100 × B + 1,000,000 × (F + K)", "GiB"),
        lambda v: v["B"] / 10.24 + 1e6 * (v["F"] + v["K"]) / 2**20,
    ),
    Calculated(
        *("a million sockets: CPU while nothing happens", "1,000,000 × I", "cores"),
        lambda v: v["I"],
    ),
    Calculated(
        *("a million sockets: CPU if all come back within 5 minutes", "1,000,000 × C / 300 s"),
        *("cores", lambda v: v["C"] / 300),
    ),
    Calculated(
        *("a million sockets: CPU if each gets a message a second", "1,000,000 × D", "cores"),
        lambda v: v["D"],
    ),
)


def measured(document: dict[str, Any]) -> dict[str, Range]:
    """Return the range of each figure that the run has, by its symbol."""
    found = {}
    for one in MEASURED:
        figures = [
            figures[one.figure]
            for name in one.scenarios
            for contender in one.contenders
            for figures in rounds(document, name, contender)
            if one.figure in figures
        ]
        if figures:
            found[one.symbol] = min(figures), max(figures)
    return found


def rounds(document: dict[str, Any], scenario: str, contender: str) -> list[dict[str, float]]:
    contenders = document["scenarios"].get(scenario, {}).get("contenders", {})
    return contenders.get(contender, {}).get("rounds", [])


def calculated(ranges: dict[str, Range]) -> dict[str, Range]:
    """Return what follows, by its title; what needs a figure that the run lacks is left out."""
    found = {}
    for one in CALCULATED:
        try:
            ends = [
                one.calculate({name: ends[end] for name, ends in ranges.items()}) for end in (0, 1)
            ]
        except KeyError:
            continue
        found[one.title] = min(ends), max(ends)
    return found


def tables(document: dict[str, Any]) -> str:
    """Return both tables as Markdown."""
    ranges = measured(document)
    results = calculated(ranges)
    lines = ["| | measured | scenarios | |", "| --- | --- | --- | ---: |"]
    for one in MEASURED:
        if one.symbol in ranges:
            names = ", ".join(f"`{name}`" for name in one.scenarios)
            value = written(ranges[one.symbol], one.unit)
            lines.append(f"| {one.symbol} | {one.title} | {names} | {value} |")
    lines += ["", "| calculated | formula | |", "| --- | --- | ---: |"]
    for result in CALCULATED:
        if result.title in results:
            value = written(results[result.title], result.unit)
            lines.append(f"| {result.title} | {result.formula} | {value} |")
    return "\n".join(lines) + "\n"


def written(ends: Range, unit: str) -> str:
    """Return a range with two digits that mean something: 27–36 KiB."""
    low, high = (f"{end:,.1f}" if end < 10 else f"{float(f'{end:.2g}'):,.0f}" for end in ends)
    return f"{low if low == high else f'{low}–{high}'} {unit}".strip()


def update(page: Path, document: dict[str, Any], headline: str) -> None:
    """Write the tables of a run into a page, in place of those between the two comments."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no place for the tables: {BEGIN!r} to {END!r}.")
    text = f"\nMeasured on {headline}.\n\n{tables(document)}\n"
    page.write_text(before + begin + text + end + after)
