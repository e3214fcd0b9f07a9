"""The rendered `websocket/`: which module imports which, how long they are, and the page on it."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TEMPLATE, run

CONTRACTS = Path(__file__).with_name("imports.ini")

# Lines, docstrings and comments included.
LONGEST_MODULE = 350
LONGEST_FUNCTION = 45
# What one reads on the first evening.
LONGEST_README = 250


@pytest.fixture(scope="module")
def websocket(render: Callable[..., Path]) -> Path:
    return render() / "websocket"


def modules(websocket: Path) -> Iterator[Path]:
    """Yield the modules, less those for tests."""
    for path in websocket.rglob("*.py"):
        if "tests" not in path.parts[len(websocket.parts) :] and path.name != "testing.py":
            yield path


def test_imports_go_down_through_the_layers(websocket: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    run(lint, CONTRACTS, "--no-cache", cwd=websocket.parent)


def test_no_module_and_no_function_is_longer_than_one_reads_in_one_go(websocket: Path) -> None:
    for path in modules(websocket):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= LONGEST_MODULE, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= LONGEST_FUNCTION, f"{path}: {node.name} has {lines} lines"


def test_the_readme_is_short_and_says_how_much_code_there_is(websocket: Path) -> None:
    readme = (websocket.parent / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n") <= LONGEST_README
    tests = websocket / "tests"
    code = [path for path in websocket.rglob("*.py") if not path.is_relative_to(tests)]
    way, names = [], re.search(r"^`(project/asgi\.py` → .*)`$", readme, re.MULTILINE)[1]
    for name in names.split("` → `"):
        folder = websocket if way and name != "websocket/middleware.py" else websocket.parent
        way.append(folder / name)
    assert len(way) == 10
    measured = (
        sum(map(count_lines, code)),
        sum(map(count_code, code)),
        sum(map(count_lines, tests.rglob("*.py"))),
        sum(map(count_lines, way)),
    )
    section = readme.partition("## How much code it is\n")[2].partition("\n## ")[0]
    stated = [int(number.replace(",", "")) for number in re.findall(r"\d+,\d{3}", section)]
    for number, said in zip(measured, stated, strict=True):
        assert abs(number - said) < 0.1 * number, (
            f"The README says {said} where there are {number} lines: correct it."
        )


def count_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def count_code(path: Path) -> int:
    """Count the lines that are no docstring, no comment and not blank."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    docstrings = {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node) is not None
        for number in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    lines = enumerate(source.splitlines(), 1)
    return sum(
        number not in docstrings and bool(line.strip()) and not line.lstrip().startswith("#")
        for number, line in lines
    )


def test_the_changelog_is_by_version_the_newest_first_and_says_what_to_do_by_hand() -> None:
    changelog = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased, *versions = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    assert unreleased.startswith("Unreleased\n")
    heading = re.compile(r"(\d+)\.(\d+)\.(\d+) - (\d{4}-\d\d-\d\d)\n")
    found = [heading.match(version) for version in versions]
    numbers = [tuple(map(int, match.groups()[:3])) for match in found]
    assert numbers == sorted(set(numbers), reverse=True) != []
    days = [match[4] for match in found]
    assert days == sorted(days, reverse=True)
    assert all("\n### By hand\n" in version for version in versions)


def test_the_page_on_the_architecture_names_each_module(websocket: Path) -> None:
    page = (websocket.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, table = page.partition("## The modules")
    table, _, _ = table.partition("## ")
    rows = re.findall(r"^\| [a-z ]+ \| (.+) \|$", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z._]+)`", row)}
    # A folder's empty __init__.py is no module to read.
    files = [path for path in websocket.rglob("*.py") if path.stat().st_size]
    paths = [path.relative_to(websocket).with_suffix("") for path in files]
    there = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    there = {name for name in there if not name.startswith(("__init__", "tests"))}
    assert named == there
