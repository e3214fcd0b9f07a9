"""The GitHub workflows and Dependabot, the template's and the rendered project's."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TEMPLATE, Project, run

# A tag can be moved to other code, a commit cannot.
CONFIG = """
rules:
  unpinned-uses:
    config:
      policies:
        "*": hash-pin
"""

USES = re.compile(r"uses: (\S+  # v[0-9.]+)$", re.MULTILINE)


@pytest.fixture(params=["template", "project"])
def workflows(request: pytest.FixtureRequest, project: Project) -> list[Path]:
    root = TEMPLATE if request.param == "template" else project.path
    return sorted([*root.glob(".github/workflows/*.yml"), *root.glob(".github/dependabot.yml")])


def test_zizmor_finds_nothing(workflows: list[Path], tmp_path: Path) -> None:
    assert len(workflows) == 2
    config = tmp_path / "zizmor.yml"
    config.write_text(CONFIG)
    zizmor = Path(sys.executable).with_name("zizmor")
    run(zizmor, "--offline", "--no-progress", "--config", config, *workflows)


def test_the_projects_workflow_tests_on_postgresql_and_redis(project: Project) -> None:
    workflow = yaml.safe_load((project.path / ".github/workflows/tests.yml").read_text())
    job = workflow["jobs"]["test"]
    assert set(job["services"]) == {"postgres"}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    # Nothing is left out: tests start Redis servers of their own, and one needs picows.
    assert any("apt-get install --yes redis-server" in command for command in commands)
    assert "pip install -e '.[dev,fast,postgres,redis]'" in commands
    environments = [step.get("env", {}) for step in job["steps"] if step.get("run") == "pytest"]
    assert [sorted(env) for env in environments] == [[], ["DATABASE_URL", "REDIS_URL"]]


def test_the_project_uses_the_same_actions_as_the_template(project: Project) -> None:
    # Dependabot looks at the template's workflow only.
    ours, theirs = (
        USES.findall((root / ".github/workflows" / name).read_text())
        for root, name in ((TEMPLATE, "ci.yml"), (project.path, "tests.yml"))
    )
    assert ours == theirs != []
