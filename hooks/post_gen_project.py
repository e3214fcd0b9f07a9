"""Write the new project's .env, leave out what was not asked for, and say what comes next."""

import os
import secrets
import shlex
import shutil
from pathlib import Path


def write_env(path: Path) -> None:
    """Write settings for development, readable by their owner alone; keep a file that is there."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    with open(file, "w", encoding="utf-8") as env:
        env.write(f"SECRET_KEY={secrets.token_urlsafe(50)}\nDEBUG=true\n")


if __name__ == "__main__":
    write_env(Path(".env"))
    if "{{ cookiecutter.chat_example }}" == "False":
        shutil.rmtree("chat")
    print(f"cd {shlex.quote(os.getcwd())}")
    print(
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[dev]'"
        " && python manage.py migrate"
    )
    print("uvicorn project.asgi:application --reload")
