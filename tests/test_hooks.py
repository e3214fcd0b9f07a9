"""What the two hooks refuse, write and say."""

import re
import shlex
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project, run
from cookiecutter.exceptions import FailedHookException

RULE = "use lower-case ASCII letters, digits, - and _"
TAKEN = "the project installs or contains a package of that name"


def cli(template: Path, config: Path, output: Path, *args: str, **options):
    """Run the command that a person types."""
    command = (sys.executable, "-m", "cookiecutter", "--config-file", config, "-o", output)
    return run(*command, template, *args, **options)


@pytest.mark.parametrize("slug", ["a", "s3", "my_site", "my-site", "djangos", "a" * 50])
def test_a_good_slug_names_the_folder_and_the_distribution(
    render: Callable[..., Path], slug: str
) -> None:
    project = render(project_slug=slug)
    assert project.name == slug
    assert f'name = "{slug}"' in (project / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("slug", "rule"),
    [
        ("-site", RULE),
        ("../site", RULE),
        ("3s", RULE),
        ("My_Site", RULE),
        ("_site", RULE),
        ("a" * 51, RULE),
        ("a\nb", RULE),
        ("caf\u00e9", RULE),
        ("it's", RULE),
        ("my site", RULE),
        ("my.site", RULE),
        ("site\n", RULE),
        ("site-", RULE),
        ("site\\", RULE),
        ("\u0441ite", RULE),
        ("\uff53ite", RULE),
        ('"; raise SystemExit("injected"); "', RULE),
        ("{{ 1 }}", RULE),
        ("chat", TAKEN),
        ("django", TAKEN),
        ("django_environ", TAKEN),
        ("mypy-_extensions", TAKEN),
        ("project", TAKEN),
        ("redis", TAKEN),
        ("uvicorn", TAKEN),
        ("websocket", TAKEN),
        ("websocket_client", TAKEN),
    ],
)
def test_a_bad_slug_is_refused_in_one_line_and_leaves_nothing_behind(
    render: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
    slug: str,
    rule: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Less the links with which pytest marks the newest folder of each kind.
    folders = tmp_path_factory.getbasetemp
    before = {path for path in folders().iterdir() if not path.is_symlink()}
    with pytest.raises(FailedHookException, match="exit status: 1"):
        render(project_slug=slug)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"project_slug {slug!r} is refused: {rule}")
    (folder,) = {path for path in folders().iterdir() if not path.is_symlink()} - before
    assert list(folder.iterdir()) == []


def test_the_command_shows_the_refusal_and_exits_1(
    template: Path, cookiecutter_config: Path, tmp_path: Path
) -> None:
    args = ("--no-input", "project_slug=Django")
    result = cli(template, cookiecutter_config, tmp_path, *args, check=False)
    assert result.returncode == 1
    assert "project_slug 'Django' is refused: use lower-case" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_distribution_that_the_project_installs_is_refused(
    template: Path, project: Project
) -> None:
    # The extras that need a service are resolved, not installed.
    extras = ("--all-extras", "--no-header", "--no-annotate", "--quiet")
    uv = (sys.executable, "-m", "uv", "pip", "compile", "--python", project.python)
    resolved = run(*uv, *extras, project.path / "pyproject.toml").stdout
    installed = set(re.findall(r"^[a-z0-9-]+", resolved, re.MULTILINE))
    assert installed >= {"django", "psycopg-binary", "redis", "uvloop"}
    packages = {path.parent.name for path in project.path.glob("*/__init__.py")}
    hook = (template / "hooks" / "pre_gen_project.py").read_text()
    taken = set(hook.split('"""')[3].split())
    assert installed | packages <= taken


@pytest.mark.parametrize(
    ("name", "slug"),
    [("My Shiny-Site 2", "my_shiny_site_2"), ("Caf\u00e9 / Bar", "cafe_bar"), ("It's", "it_s")],
)
def test_the_slug_follows_from_the_name(render: Callable[..., Path], name: str, slug: str) -> None:
    assert render(project_name=name).name == slug


def read_env(project: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (project / ".env").read_text().splitlines())


def test_the_new_env_holds_a_secret_key_of_its_own(render: Callable[..., Path]) -> None:
    first, second = render(), render()
    assert read_env(first).keys() == {"SECRET_KEY", "DEBUG"}
    assert read_env(first)["DEBUG"] == "true"
    # No character that an .env file, a shell or a compose file reads as anything but itself.
    assert re.fullmatch(r"[A-Za-z0-9_-]{50,}", read_env(first)["SECRET_KEY"])
    assert read_env(first)["SECRET_KEY"] != read_env(second)["SECRET_KEY"]
    assert stat.S_IMODE((first / ".env").stat().st_mode) == 0o600


def test_rendering_over_a_project_keeps_its_env(
    template: Path, cookiecutter_config: Path, tmp_path: Path
) -> None:
    cli(template, cookiecutter_config, tmp_path, "--no-input")
    env = tmp_path / "my_project" / ".env"
    env.write_text("SECRET_KEY=kept\n")
    result = cli(template, cookiecutter_config, tmp_path, "--no-input", "--overwrite-if-exists")
    assert env.read_text() == "SECRET_KEY=kept\n"
    assert len(result.stdout.splitlines()) == 3


def test_an_update_with_cruft_keeps_the_env(
    template: Path, cookiecutter_config: Path, tmp_path: Path
) -> None:
    def git(*args: str, cwd: Path) -> None:
        who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        run("git", "-c", "init.defaultBranch=main", *who, *args, cwd=cwd)

    def commit_all(cwd: Path) -> None:
        git("add", "--all", cwd=cwd)
        git("commit", "--quiet", "--message", "All of it", cwd=cwd)

    upstream = Path(shutil.copytree(template, tmp_path / "upstream"))
    git("init", "--quiet", cwd=upstream)
    commit_all(upstream)
    cruft = (sys.executable, "-m", "cruft")
    create = ("create", "--no-input", "--config-file", cookiecutter_config, upstream)
    run(*cruft, *create, cwd=tmp_path)
    project = tmp_path / "my_project"
    git("init", "--quiet", cwd=project)
    commit_all(project)
    env = (project / ".env").read_bytes()

    with (upstream / "{{cookiecutter.project_slug}}" / "manage.py").open("a") as manage:
        manage.write("# Newer.\n")
    commit_all(upstream)
    run(*cruft, "update", "--skip-apply-ask", cwd=project)
    assert (project / "manage.py").read_text().endswith("# Newer.\n")
    assert (project / ".env").read_bytes() == env
    assert not list(project.rglob("*.rej"))


def test_the_next_steps_are_three_lines_that_a_shell_runs(
    template: Path, cookiecutter_config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "it's a folder"
    output.mkdir()
    lines = cli(template, cookiecutter_config, output, "--no-input").stdout.splitlines()
    folder, install, serve = map(shlex.split, lines)
    assert folder == ["cd", str(output / "my_project")]
    assert install[install.index("pip") :] == [
        *("pip", "install", "-e", ".[dev]", "&&", "python", "manage.py", "migrate"),
    ]
    assert serve == ["uvicorn", "project.asgi:application", "--reload"]
