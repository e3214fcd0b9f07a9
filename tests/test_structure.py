"""The rendered `websocket/`: which module imports which, how long they are, and the page on it."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import run

CONTRACTS = Path(__file__).with_name("imports.ini")

# Lines, docstrings and comments included.
LONGEST_MODULE = 350
LONGEST_FUNCTION = 45


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
