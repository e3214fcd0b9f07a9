"""The code in the rendered project's documents, which name the file that each block belongs in."""

import re
from pathlib import Path

from markdown_it import MarkdownIt

# The README and the pages that continue it, in the order in which a reader pastes their blocks.
PAGES = (
    "README.md",
    "docs/views.md",
    "docs/handshake.md",
    "docs/groups.md",
    "docs/threads.md",
    "docs/browser.md",
    "docs/testing.md",
    "docs/production.md",
)

# The first line of a block names the file that the block is to be added to.
FILE = re.compile(r"(?:# |// |<!-- |/\* )(?P<path>[a-z_./]+\.(?:py|js|html|css))(?: -->| \*/)?\n")


def guide(project: Path) -> str:
    """Return the README of a rendered project, and the pages that continue it."""
    return "\n".join((project / page).read_text(encoding="utf-8") for page in PAGES)


def blocks(page: str, *languages: str) -> list[str]:
    """Return the code blocks in some languages."""
    tokens = MarkdownIt().parse(page)
    return [token.content for token in tokens if token.type == "fence" and token.info in languages]


def block(page: str, start: str) -> str:
    """Return the one code block that starts so."""
    (found,) = (
        token.content
        for token in MarkdownIt().parse(page)
        if token.type == "fence" and token.content.startswith(start)
    )
    return found
