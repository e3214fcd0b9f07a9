"""The GitHub workflows, the template's and the rendered project's, have nothing to complain of."""

import sys
from pathlib import Path

import pytest
import yaml
from conftest import TEMPLATE, Project, run

# GitHub's own actions may be named by a version; anybody else's, by a commit.
CONFIG = """
rules:
  unpinned-uses:
    config:
      policies:
        "actions/*": ref-pin
"""


@pytest.fixture(params=["template", "project"])
def workflows(request: pytest.FixtureRequest, project: Project) -> list[Path]:
    root = TEMPLATE if request.param == "template" else project.path
    return sorted(root.glob(".github/workflows/*.yml"))


def test_zizmor_finds_nothing(workflows: list[Path], tmp_path: Path) -> None:
    assert workflows
    config = tmp_path / "zizmor.yml"
    config.write_text(CONFIG)
    zizmor = Path(sys.executable).with_name("zizmor")
    run(zizmor, "--offline", "--no-progress", "--config", config, *workflows)


def test_the_projects_workflow_tests_on_postgresql_and_redis(project: Project) -> None:
    workflow = yaml.safe_load((project.path / ".github/workflows/tests.yml").read_text())
    job = workflow["jobs"]["test"]
    assert set(job["services"]) == {"postgres", "redis"}
    environments = [step.get("env", {}) for step in job["steps"] if step.get("run") == "pytest"]
    assert [sorted(env) for env in environments] == [[], ["DATABASE_URL", "REDIS_URL"]]
