"""The oldest Django and the newest: the rendered project's own tests pass on both."""

import json
import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import clean_environment, run

UV = (sys.executable, "-m", "uv")
VERSION = "import json, sys; print(json.dumps(sys.version_info))"


def pythons() -> dict[tuple[int, int], str]:
    """Return the machine's released Pythons, by version."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [str(path) for path in pyenv.glob("versions/*/bin/python3")]
    for folder in os.environ["PATH"].split(os.pathsep):
        candidates += [str(path) for path in Path(folder).glob("python3.*")]
    listed = run(*UV, "python", "list", "--only-installed", "--output-format", "json")
    candidates += [python["path"] for python in json.loads(listed.stdout)]
    found = {}
    for candidate in candidates:
        if re.search(r"/python3(\.\d+)?$", candidate):
            # A shim of pyenv may stand for a Python that is not there.
            result = run(candidate, "-c", VERSION, check=False)
            version = json.loads(result.stdout) if result.returncode == 0 else [0, 0, 0, "none"]
            if version[3] == "final":
                found.setdefault(tuple(version[:2]), candidate)
    return {sys.version_info[:2]: sys.executable} | found


def own_tests(project: Path, python: str, packages: list[str], venv: Path) -> str:
    """Run the project's own tests on a Python with these packages; return what they print.

    They run in two processes, and in a random order: `--randomly-seed=`, whose value is printed
    where they fail, repeats it.
    """
    run(*UV, "venv", "--python", python, venv)
    install = (*UV, "pip", "install", "--quiet", "--python", venv)
    run(*install, *packages, "pytest-randomly", "pytest-xdist", cwd=project)
    environment = clean_environment(PATH=f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}")
    command = (venv / "bin" / "python", "-m", "pytest", "--numprocesses", "2")
    return run(*command, cwd=project, env=environment).stdout


@pytest.mark.slow
def test_the_projects_own_tests_pass_with_the_oldest_django(
    render: Callable[..., Path], tmp_path: Path
) -> None:
    python = pythons().get((3, 11))
    if python is None:
        pytest.skip("Django 3.1 is tried on Python 3.11, which is not on this machine")
    project = render()
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    extras = table["optional-dependencies"]
    asked_for = table["dependencies"] + extras["dev"] + extras["redis"]
    # Not the project itself, which asks for a Django that is still supported.
    others = [name for name in asked_for if not re.match(r"Django|django-stubs|mypy|ruff", name)]
    printed = own_tests(project, python, ["Django~=3.1.0", *others], tmp_path / "venv")
    assert "django: version: 3.1." in printed
    assert " passed" in printed


@pytest.mark.slow
def test_the_projects_own_tests_pass_with_the_newest_django_on_the_newest_python(
    render: Callable[..., Path], tmp_path: Path
) -> None:
    version, python = max(pythons().items())
    printed = own_tests(render(), python, ["--upgrade", "-e", ".[dev,redis]"], tmp_path / "venv")
    newest = {True: r"([6-9]|\d\d)", False: "5.2"}[version >= (3, 12)]
    assert re.search(rf"django: version: {newest}\.", printed)
    assert f"Python {version[0]}.{version[1]}." in printed
    assert " passed" in printed
