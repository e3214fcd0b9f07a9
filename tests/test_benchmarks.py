"""The benchmarks still run: not what they measure is looked at, only that they measure it.

These are some of them. CI runs all, after the tests.
"""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import clean_environment, make_venv, run

EXPECTED = {
    "echo_32": {"raw", "ours"},
    "redis": {"ours", "ours_history"},
    "idle": {"raw", "ours"},
    "publish_redis": {"ours", "ours_history"},
    "resume_20_redis": {"ours", "ours_history"},
    "presence_redis": {"ours", "ours_presence"},
    "large_1k": {"raw", "ours", "ours_history"},
    "sockets_1k": {"ours", "ours_all"},
    "deploy": {"ours", "ours_history"},
    "replace": {"ours_drain"},
}


# Figures of which no ratio can be made, and none at all.
WRITE_NOTHINGS = """
import sys
from pathlib import Path
from benchmarks import report
from benchmarks.scenarios import SMOKE
results = {
    "idle": {"raw": [{"memory_kib": 0.0}], "ours": [{"memory_kib": 0.0}]},
    "uvicorn_idle": {"raw": [{"memory_kib": -1.0}], "raw_asyncio": [{"memory_kib": -2.0}]},
    "echo_32": {"raw": [{}]},
}
report.write(report.document(results, SMOKE, 0.0), Path(sys.argv[1]))
"""


# Write the tables of a run into the page again.
WRITE_PAGE = """
import json
import sys
from pathlib import Path
from benchmarks import planning, report
document = json.loads(Path("docs/benchmarks.json").read_text())
planning.update(Path(sys.argv[1]), document, report.headline(document))
"""

# A run in which each figure is one of two.
PLAN = """
from benchmarks import planning
scenarios = {}
for one in planning.MEASURED:
    for name in one.scenarios:
        for contender in one.contenders:
            found = scenarios.setdefault(name, {"contenders": {}})["contenders"]
            rounds = found.setdefault(contender, {"rounds": [{}, {}]})["rounds"]
            rounds[0][one.figure], rounds[1][one.figure] = 10.0, 20.0
print(planning.tables({"scenarios": scenarios}))
"""


@pytest.fixture(scope="module")
def python(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has what the benchmarks ask for."""
    requirements = template / "benchmarks" / "requirements.txt"
    return make_venv(tmp_path_factory.mktemp("benchmarks") / "venv", "-r", requirements)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks ask Linux for CPU times")
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server")
@pytest.mark.skipif(shutil.which("nginx") is None, reason="there is no nginx")
def test_the_benchmarks_measure_each_contender(
    python: Path, template: Path, tmp_path: Path
) -> None:
    contenders = sorted(set().union(*EXPECTED.values()))
    run(
        *(python, "-m", "benchmarks", "--smoke", "--output", tmp_path / "results"),
        *("--only", ",".join(EXPECTED), "--contenders", ",".join(contenders)),
        cwd=template,
        env=clean_environment(HOME=str(tmp_path)),
    )

    scenarios = json.loads((tmp_path / "results" / "benchmarks.json").read_text())["scenarios"]
    assert {name: set(found["contenders"]) for name, found in scenarios.items()} == EXPECTED
    for scenario in scenarios.values():
        for contender in scenario["contenders"].values():
            (figures,) = contender["rounds"]
            assert figures
            assert all(math.isfinite(figure) for figure in figures.values())
    for name, contender in {"deploy": "ours_history", "replace": "ours_drain"}.items():
        (figures,) = scenarios[name]["contenders"][contender]["rounds"]
        assert figures["missed"] == 0
    for name in ("benchmarks.md", "benchmarks.png", "benchmarks.svg"):
        assert (tmp_path / "results" / name).stat().st_size > 0


def test_the_benchmarks_write_no_ratio_to_nothing(
    python: Path, template: Path, tmp_path: Path
) -> None:
    env = clean_environment(HOME=str(tmp_path))
    run(python, "-c", WRITE_NOTHINGS, tmp_path / "results", cwd=template, env=env)
    scenarios = json.loads((tmp_path / "results" / "benchmarks.json").read_text())["scenarios"]
    assert not any("ratio" in found for found in scenarios["idle"]["contenders"].values())
    tables = (tmp_path / "results" / "benchmarks.md").read_text()
    assert re.search(r"^\| this project +\| +0\.0 \|$", tables, re.MULTILINE)


def test_the_page_on_capacity_has_the_figures_of_the_benchmarks(
    python: Path, template: Path, tmp_path: Path
) -> None:
    page = template / "docs" / "capacity.md"
    copy = Path(shutil.copy(page, tmp_path))
    env = clean_environment(HOME=str(tmp_path))
    run(python, "-c", WRITE_PAGE, copy, cwd=template, env=env)
    assert copy.read_text() == page.read_text()


def test_a_range_of_figures_becomes_a_range_of_what_follows(
    python: Path, template: Path, tmp_path: Path
) -> None:
    env = clean_environment(HOME=str(tmp_path))
    tables = run(python, "-c", PLAN, cwd=template, env=env).stdout
    assert "| D | CPU of a delivery to a member of a group | `fanout` | 10–20 µs |" in tables
    assert re.search(r"^\| deliveries a second, .* \| 25,000–50,000 \|$", tables, re.MULTILINE)
    titles = re.findall(r"^\| a million sockets: .* cores \|$", tables, re.MULTILINE)
    assert len(titles) == 3
