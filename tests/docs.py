"""The code in the rendered project's documents, which name the file that each block belongs in."""

import re

from markdown_it import MarkdownIt

# The first line of a block names the file that the block is to be added to.
FILE = re.compile(r"(?:# |// |<!-- |/\* )(?P<path>[a-z_./]+\.(?:py|js|html|css))(?: -->| \*/)?\n")


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
