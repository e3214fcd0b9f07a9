"""Jinja filters that put free text into the rendered files so that it still means the same text."""

import json
import re

from cookiecutter.utils import simple_filter


@simple_filter
def quoted(text: str) -> str:
    """Escape text for the inside of a double-quoted string, of Python and of TOML alike."""
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    # A quote as \u0022 leaves a formatter nothing to prefer; TOML forbids a bare DEL.
    return escaped.replace('\\"', "\\u0022").replace("\x7f", "\\u007f")


@simple_filter
def markdown(text: str) -> str:
    """Escape text for a line of Markdown: one line, every punctuation mark a literal one."""
    line = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))
    # What makes a list only where a line begins with it.
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", line)
