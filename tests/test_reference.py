"""The rendered docs/reference.md is what the docstrings say, and has what the documents import."""

import re
from collections.abc import Callable
from pathlib import Path

import reference
from conftest import TEMPLATE

IMPORT = re.compile(r"^\s*from (websocket(?:\.\w+)*) import ([\w, ]+)$", re.MULTILINE)


def test_the_reference_is_what_the_docstrings_say(render: Callable[..., Path]) -> None:
    page = reference.page()
    if reference.PAGE.read_text(encoding="utf-8") != page:
        raise AssertionError("docs/reference.md is out of date: run `python tests/reference.py`.")
    # Nothing in it means something to Jinja.
    assert (render() / "docs" / "reference.md").read_text(encoding="utf-8") == page


def test_each_name_that_the_documents_import_is_in_the_reference() -> None:
    folder = TEMPLATE / "{{cookiecutter.project_slug}}"
    modules = {
        f"websocket.{name}": reference.Module(f"websocket.{name}").public
        for name in reference.MODULES
    }
    missing = {
        f"{path.name}: {module}.{name}"
        for path in (folder / "README.md", *folder.glob("docs/*.md"))
        for module, names in IMPORT.findall(path.read_text(encoding="utf-8"))
        for name in names.split(", ")
        if name not in modules.get(module, ())
    }
    assert not missing, (
        f"The documents import {missing}: add the names to their modules' __all__, and the modules "
        "to MODULES in tests/reference.py."
    )
