"""What came out: the tables, the JSON, and the plots."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import planning
from benchmarks.load import Figures
from benchmarks.scenarios import SCENARIOS, Plan, Scenario, SideBySide
from benchmarks.servers import CONTENDERS

#: By scenario and contender: the figures of each round.
Results = dict[str, dict[str, list[Figures]]]


def _microseconds(us: float) -> str:
    return f"{us:.1f}" if us < 100 else f"{us:,.0f}"


#: What figures are called, and how they are written.
FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "back_percent": ("back within 20 s", "{:.1f} %".format),
    "base_mib": ("process, MiB", "{:.0f}".format),
    "cpu_us": ("CPU, µs", _microseconds),
    "down_s": ("process gone, s", "{:.1f}".format),
    "echo_p50_ms": ("echo p50, ms", "{:.1f}".format),
    "echo_p99_ms": ("echo p99, ms", "{:.1f}".format),
    "gone": ("stalled client gone", lambda gone: "yes" if gone else "no"),
    "idle_us": ("CPU, µs a second", "{:.1f}".format),
    "kernel_kib": ("kernel, KiB", "{:.1f}".format),
    "last_ms": ("until the last has it, ms", "{:.1f}".format),
    "lost_percent": ("lost", "{:.1f} %".format),
    "memory_kib": ("memory, KiB", "{:.1f}".format),
    "memory_mib": ("memory at most, MiB", "{:+.1f}".format),
    "messages": ("messages that the others got", "{:,.0f}".format),
    "missed": ("missed", "{:,.0f}".format),
    "moved": ("moved", "{:,.0f}".format),
    "p50_ms": ("p50, ms", "{:.2f}".format),
    "p99_ms": ("p99, ms", "{:.2f}".format),
    "p50_s": ("away p50, s", "{:.1f}".format),
    "p99_s": ("away p99, s", "{:.1f}".format),
    "per_second": ("per second", "{:,.0f}".format),
    "pss_kib": ("PSS, KiB", "{:.1f}".format),
    "redis_us": ("CPU of Redis, µs", _microseconds),
    "rss_kib": ("RSS, KiB", "{:.1f}".format),
    "seconds": ("seconds", "{:.1f}".format),
    "sockets": ("sockets", "{:,.0f}".format),
    "stalled": ("group stalled", lambda stalled: "yes" if stalled else "no"),
}

PACKAGES = (
    *("Django", "channels", "channels_redis", "daphne", "picows", "redis", "starlette"),
    *("uvicorn", "uvloop", "websockets", "wsproto"),
)


#: The figures that are told as multiples of a base.
RATIOS = ("cpu_us", "last_ms", "memory_kib", "rss_kib")

#: The columns of the table of ratios.
COMPARED = ("raw", "ours", "starlette", "channels", "daphne")

INK = "#7d8590"
OURS = "#2f81f7"
COLOURS = {"raw": "#8b949e"}
OTHERS = "#d29922"

#: Of a panel: where there are fewer, they are as thick as elsewhere.
MOST_BARS = 5


def document(
    results: Results, plan: Plan, rendering: float, before: str | None = None
) -> dict[str, Any]:
    """Return all that is known of a run, as JSON can hold it."""
    return {
        "before": before,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "processor": processor(),
            "python": platform.python_version(),
        },
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "plan": asdict(plan),
        "rendering_seconds": rendering,
        "scenarios": {
            name: {
                "title": SCENARIOS[name].title,
                "contenders": {
                    contender: {
                        "rounds": rounds,
                        **summary(SCENARIOS[name], rounds, of_all.get(SCENARIOS[name].base, [])),
                    }
                    for contender, rounds in of_all.items()
                    if any(rounds)
                },
            }
            for name, of_all in results.items()
        },
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def summary(scenario: Scenario, rounds: list[Figures], base: list[Figures]) -> dict[str, Any]:
    """Return the medians of a contender's rounds, and its ratio to the base in the same ones."""
    good = [figures for figures in rounds if figures]
    median = {key: statistics.median(figures[key] for figures in good) for key in good[0]}
    main = scenario.figures[0]
    pairs = [(a[main], b[main]) for a, b in zip(rounds, base, strict=False) if a and b]
    # Nothing is a multiple of nothing: the memory of few connections may not grow at all.
    ratios = [figure / of_base for figure, of_base in pairs if of_base > 0]
    if main not in RATIOS or not ratios:
        return {"median": median}
    return {
        "median": median,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def line(scenario: Scenario, results: dict[str, list[Figures]]) -> str:
    """Return the main figure of each contender in its last round."""
    main = scenario.figures[0]
    latest = {name: rounds[-1][main] for name, rounds in results.items() if rounds[-1]}
    return ", ".join(f"{name} {written(main, value)}" for name, value in latest.items())


# Tables


def tables(document: dict[str, Any]) -> str:
    """Return all figures as Markdown: first the ratios of CPU, then each scenario's own table."""
    parts = [
        f"Measured on {headline(document)}.",
        f"Rendering the template took {document['rendering_seconds']:.1f} s.",
    ]
    if document.get("before"):
        parts.append(f"This project, before: as of {document['before']}.")
    if rows := ratio_rows(document):
        titles = [CONTENDERS[name].title for name in COMPARED]
        parts.append(
            "The server's CPU time: of raw ASGI in microseconds, of the others as a multiple of it."
        )
        parts.append(table(["work", *titles], rows))
    for name, found in document["scenarios"].items():
        parts += [f"### {found['title']}", scenario_table(SCENARIOS[name], found["contenders"])]
    return "\n\n".join(parts) + "\n"


def scenario_table(scenario: Scenario, contenders: dict[str, Any]) -> str:
    head = ["", *(heading(scenario, figure) for figure in scenario.figures)]
    rows = [
        [
            CONTENDERS[name].title,
            *(written(figure, figures["median"][figure]) for figure in scenario.figures),
        ]
        for name, figures in contenders.items()
    ]
    if any("ratio" in figures for figures in contenders.values()):
        head.append(f"multiple of {CONTENDERS[scenario.base].title}")
        for row, figures in zip(rows, contenders.values(), strict=True):
            row.append(ratio(figures))
    return table(head, rows)


def headline(document: dict[str, Any]) -> str:
    machine, packages = document["machine"], document["packages"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    return (
        f"{document['date'][:10]}, {machine['processor']}, Linux {machine['kernel']}, "
        f"Python {machine['python']}, {versions}; medians of {document['plan']['rounds']} rounds"
    )


def ratio_rows(document: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, found in document["scenarios"].items():
        scenario, contenders = SCENARIOS[name], found["contenders"]
        if not isinstance(scenario, SideBySide) or name.startswith("uvicorn"):
            continue
        if scenario.base != "raw" or "raw" not in contenders:
            continue
        raw = written("cpu_us", contenders["raw"]["median"]["cpu_us"])
        others = (contenders.get(other, {}).get("ratio") for other in COMPARED[1:])
        rows.append([found["title"], raw, *("–" if x is None else f"{x:.2f}" for x in others)])
    return rows


def heading(scenario: Scenario, figure: str) -> str:
    name = FIGURES[figure][0]
    if figure in ("cpu_us", "redis_us") and scenario.per:
        return f"{name} a {scenario.per}"
    return name


def written(figure: str, value: float) -> str:
    return FIGURES[figure][1](value)


def ratio(figures: dict[str, Any]) -> str:
    if "ratio" not in figures:
        return "–"
    lowest, highest = figures["ratio_range"]
    if len(figures["rounds"]) == 1:
        return f"{figures['ratio']:.2f}"
    return f"{figures['ratio']:.2f} ({lowest:.2f}–{highest:.2f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    first, *others = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * first, *("-" * (width - 1) + ":" for width in others)]
    return "\n".join(
        "| " + " | ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) + " |"
        for row in [head, rule, *rows]
    )


# Files


def write(document: dict[str, Any], folder: Path) -> None:
    """Write the JSON, the tables and the plots into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.json").write_text(json.dumps(document, indent=2) + "\n")
    (folder / "benchmarks.md").write_text(tables(document))
    if (page := folder / "capacity.md").exists():
        planning.update(page, document, headline(document))
    uvicorn = [name for name in document["scenarios"] if name.startswith("uvicorn")]
    others = [name for name in document["scenarios"] if not name.startswith("uvicorn")]
    for stem, names in {"benchmarks": others, "benchmarks-uvicorn": uvicorn}.items():
        if names:
            draw(document, names, folder / stem)


def draw(document: dict[str, Any], names: list[str], path: Path) -> None:
    """Draw a panel of bars for each scenario, in SVG and PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Transparent, in colours that stand out from white and from black.
    style: Any = {
        "axes.spines.bottom": False,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "font.size": 9,
        "savefig.transparent": True,
        "svg.fonttype": "none",
        "svg.hashsalt": "benchmarks",
        "text.color": INK,
        "xtick.bottom": False,
        "xtick.labelbottom": False,
        "ytick.color": INK,
        "ytick.left": False,
    }
    with pyplot.rc_context(style):
        lines = -(-len(names) // 2)
        figure, panels = pyplot.subplots(lines, 2, figsize=(10, 1.7 * lines), squeeze=False)
        for panel, name in zip(panels.flat, names, strict=False):
            draw_panel(panel, SCENARIOS[name], document["scenarios"][name])
        for panel in panels.flat[len(names) :]:
            panel.set_axis_off()
        figure.tight_layout(h_pad=1.5)
        # What is wider than its panel is not cut off.
        figure.savefig(path.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), bbox_inches="tight", dpi=160)
        pyplot.close(figure)


def draw_panel(panel: Any, scenario: Scenario, found: dict[str, Any]) -> None:
    main = scenario.figures[0]
    contenders = found["contenders"]
    values = [figures["median"][main] for figures in contenders.values()]
    bars = panel.barh(
        [CONTENDERS[name].title for name in contenders],
        values,
        color=[
            COLOURS.get(name, OURS if name.startswith("ours") else OTHERS) for name in contenders
        ],
        height=0.65,
    )
    labels = [
        written(main, value) + (f"  ×{figures['ratio']:.2f}" if "ratio" in figures else "")
        for value, figures in zip(values, contenders.values(), strict=True)
    ]
    panel.bar_label(bars, labels, padding=4, color=INK)
    panel.set_xlim(0, max([0, *values]) * 1.35 or 1)
    panel.set_ylim(max(MOST_BARS, len(values)) - 0.5, -0.5)
    panel.set_title(f"{found['title']}\n{heading(scenario, main)}", fontsize=9, loc="left")
