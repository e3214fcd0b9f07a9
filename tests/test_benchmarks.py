"""The benchmarks still run: not what they measure is looked at, only that they measure it."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from conftest import clean_environment, run

EXPECTED = {
    "echo_32": {"raw", "ours", "channels"},
    "connect_default": {"raw", "ours", "channels"},
    "redis": {"ours", "channels_pubsub"},
    "burst": {"ours", "channels_pubsub"},
    "idle": {"raw", "ours", "channels"},
}


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks ask Linux for CPU times")
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server")
def test_the_benchmarks_measure_each_contender(template: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    install = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python)
    run(*install, "-r", template / "benchmarks" / "requirements.txt")

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
    for name in ("benchmarks.md", "benchmarks.png", "benchmarks.svg"):
        assert (tmp_path / "results" / name).stat().st_size > 0
