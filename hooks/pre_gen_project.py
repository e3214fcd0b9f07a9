"""Refuse a project_slug that cannot name a distribution, before anything is rendered."""

import re
import sys

# What `pip install -e '.[dev,fast,postgres,redis]'` installs, and the packages of the project:
# a distribution with one of these names would take its place. So would one named websocket-client:
# Selenium and others need that beside the project.
TAKEN = """
aiofastnet anyio asgiref ast-serialize asyncpg certifi channels chat click colorama coverage daphne
django django-environ django-stubs django-stubs-ext environ h11 hiredis httptools idna iniconfig
librt multidict mypy mypy-extensions packaging pathspec picows pip pluggy project prometheus-client
psycopg psycopg-binary psycopg-pool pygments pytest pytest-django python-dotenv python-socks pyyaml
redis ruff servestatic setuptools sqlparse types-pyyaml typing-extensions tzdata users uv uvicorn
uvloop watchfiles websocket websocket-client websockets wheel whitenoise
"""


def refusal(slug: str) -> str | None:
    """Return the rule that the slug breaks, or None where it keeps them all."""
    if not re.fullmatch(r"[a-z]([a-z0-9_-]{0,48}[a-z0-9])?", slug):
        return (
            "use lower-case ASCII letters, digits, - and _, a letter first, "
            "a letter or a digit last, 50 characters at the most"
        )
    if re.sub(r"[-_]+", "-", slug) in TAKEN.split():
        return "the project installs or contains a package of that name, so choose another"
    return None


if __name__ == "__main__":
    slug = "{{ cookiecutter.project_slug | quoted }}"
    if rule := refusal(slug):
        sys.exit(f"project_slug {slug!r} is refused: {rule}.")
