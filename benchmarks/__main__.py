"""Measure the rendered project beside its peers: `make bench`, or `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from asyncio.subprocess import Process
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop

from benchmarks import report
from benchmarks.load import Figures, Load
from benchmarks.scenarios import (
    NOT_QUICK,
    QUICK,
    SCENARIOS,
    SMOKE,
    OneByOne,
    Plan,
    Scenario,
    SideBySide,
    Stage,
)
from benchmarks.servers import (
    CONTENDERS,
    LOAD_CORE,
    ServerFailed,
    environment,
    serve,
    serve_redis,
)

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE.parent


def render(template: Path, folder: Path, name: str) -> Path:
    """Render a template into a folder, and return the project."""
    command = [sys.executable, "-m", "cookiecutter", "--default-config", "--no-input"]
    command += ["--output-dir", str(folder), str(template), f"project_slug={name}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    # Where `manage.py collectstatic` would put what no contender serves.
    (folder / name / "staticfiles").mkdir()
    return folder / name


def copy_template(folder: Path) -> Path:
    """Return a copy of the template without what tools leave behind, for they are rendered too."""
    leftovers = shutil.ignore_patterns("*_cache", ".git", ".venv", "__pycache__", "demo")
    return Path(shutil.copytree(TEMPLATE, folder / "template", ignore=leftovers))


def copy_revision(folder: Path, revision: str) -> Path:
    """Return a copy of the template as it was at a revision."""
    template = folder / "template-before"
    template.mkdir()
    command = ["git", "archive", revision]
    archive = subprocess.run(command, check=True, cwd=TEMPLATE, stdout=subprocess.PIPE)
    subprocess.run(["tar", "--extract"], check=True, cwd=template, input=archive.stdout)
    return template


def install(project: Path) -> None:
    """Install what the rendered project depends on."""
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    wanted = [*metadata["dependencies"], *metadata["optional-dependencies"]["redis"]]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--quiet", *wanted]
    subprocess.run(command, check=True)


def run_in(project: Path, *arguments: str, **env: str) -> str:
    """Run Python in the rendered project, and return what it printed."""
    return subprocess.run(
        [sys.executable, *arguments],
        check=True,
        cwd=project,
        env=environment(project, env),
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()


class Run:
    """One run of scenarios: what is measured of whom, how much of it, and what came out."""

    def __init__(self, plan: Plan, contenders: list[str], projects: dict[str, Path]) -> None:
        self.plan = plan
        self.contenders = contenders
        self.projects = projects
        self.started = time.monotonic()
        self.results: report.Results = {}
        self.failures: list[str] = []
        #: Of users who are logged in, by the engine of their sessions.
        self.cookies: dict[str, list[str]] = {}

    async def measure(self, names: list[str]) -> None:
        for position, name in enumerate(names, 1):
            scenario = SCENARIOS[name]
            names_here = [c for c in scenario.contenders if self.takes_part(c)]
            rounds = self.plan.rounds
            if isinstance(scenario, OneByOne):
                rounds = min(rounds, scenario.rounds)
            if not names_here:
                continue
            self.say(f"[{position}/{len(names)}] {scenario.title}")
            results = self.results[name] = {contender: [] for contender in names_here}
            for number in range(1, rounds + 1):
                if isinstance(scenario, SideBySide):
                    await self.measure_side_by_side(scenario, results)
                elif isinstance(scenario, OneByOne):
                    await self.measure_one_by_one(scenario, results)
                for of_contender in results.values():
                    # Who failed has no figures in this round.
                    of_contender += [{}] * (number - len(of_contender))
                self.say(f"  round {number} of {rounds}: {report.line(scenario, results)}")

    async def measure_side_by_side(
        self, scenario: SideBySide, results: dict[str, list[Figures]]
    ) -> None:
        """Measure contenders in turns, all with new servers; who fails is left out."""
        plan = self.plan
        (cookie,) = self.login(scenario, 1)
        loads: dict[str, Load] = {}
        async with AsyncExitStack() as stack:
            for name in results:
                with self.noting_failure(scenario, name):
                    stage = await self.start(stack, scenario, name)
                    load = scenario.load(stage.servers, cookie)
                    load.redis = stage.redis
                    stack.callback(load.close)
                    await load.open()
                    await load.run(plan.warm_up)
                    load.reset()
                    loads[name] = load
            order = list(loads)
            for turn in range(plan.turns):
                # Nobody always comes after the same other one.
                for name in [c for c in order if c in loads][:: 1 if turn % 2 else -1]:
                    with self.noting_failure(scenario, name):
                        load = loads.pop(name)
                        await load.run(plan.seconds / plan.turns)
                        loads[name] = load
            for name, load in loads.items():
                results[name].append(load.figures())

    async def measure_one_by_one(
        self, scenario: OneByOne, results: dict[str, list[Figures]]
    ) -> None:
        """Measure contenders one after the other; who fails is left out."""
        for name in results:
            with self.noting_failure(scenario, name):
                async with AsyncExitStack() as stack:
                    stage = await self.start(stack, scenario, name)
                    results[name].append(await scenario.measure(stage))

    def takes_part(self, name: str) -> bool:
        return name in self.contenders and (name != "before" or name in self.projects)

    async def start(self, stack: AsyncExitStack, scenario: Scenario, name: str) -> Stage:
        """Start a contender's servers."""
        env = {**CONTENDERS[name].env, **scenario.env}
        project = self.project(name)
        redis = None
        if scenario.redis:
            redis = await stack.enter_async_context(serve_redis(project))
            env["REDIS_URL"] = f"redis://127.0.0.1:{redis.port}/0"
        servers = [
            await stack.enter_async_context(serve(CONTENDERS[name], project, env))
            for _ in range(scenario.servers)
        ]
        publisher, login = partial(self.publish, name, env), partial(self.login, scenario)
        return Stage(self.plan, name, servers, redis, publisher, login)

    async def publish(self, name: str, env: dict[str, str], *numbers: int) -> Process:
        """Start a process that publishes, beside the load."""
        project = self.project(name)
        arguments = ["-m", "contenders.burst", name, *map(str, numbers)]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            cwd=project,
            env=environment(project, env),
            stdout=asyncio.subprocess.PIPE,
        )

    def login(self, scenario: Scenario, number: int) -> list[str]:
        """Return the cookies of so many users who are logged in."""
        cookies = self.cookies.setdefault(scenario.env.get("SESSION_ENGINE", ""), [])
        if len(cookies) < number:
            arguments = ["-m", "contenders.login", str(number)]
            cookies[:] = run_in(self.projects["ours"], *arguments, **scenario.env).split("\n")
        return cookies[:number]

    def project(self, name: str) -> Path:
        return self.projects.get(name, self.projects["ours"])

    @contextmanager
    def noting_failure(self, scenario: Scenario, name: str) -> Iterator[None]:
        try:
            yield
        except ServerFailed as error:
            self.failures.append(f"{scenario.title}, {CONTENDERS[name].title}: {error}")
            self.say(f"{CONTENDERS[name].title} failed: {error}")

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        print(f"{minutes:3}:{seconds:02}  {text}", file=sys.stderr, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", metavar="SCENARIOS", help=f"of these, with commas: {', '.join(SCENARIOS)}"
    )
    parser.add_argument(
        "--contenders", metavar="NAMES", help=f"of these, with commas: {', '.join(CONTENDERS)}"
    )
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, help="of each contender in a round")
    parser.add_argument("--quick", action="store_true", help="most, in three minutes, less exact")
    parser.add_argument("--smoke", action="store_true", help="all in seconds, without meaning")
    parser.add_argument(
        "--against", metavar="REVISION", help="measure the template as of a git revision as well"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", default=HERE / "results", help="%(default)s"
    )
    parser.add_argument(
        "--redraw", type=Path, metavar="JSON", help="only write a run's tables and plots again"
    )
    options = parser.parse_args()
    every = [name for name in SCENARIOS if not (options.quick and name in NOT_QUICK)]
    options.only = choose(parser, options.only or ",".join(every), SCENARIOS)
    options.contenders = choose(parser, options.contenders, CONTENDERS)
    return options


def choose(parser: argparse.ArgumentParser, chosen: str | None, known: Iterable[str]) -> list[str]:
    """Return the chosen names in their own order, or all."""
    names = chosen.split(",") if chosen else list(known)
    if unknown := set(names) - set(known):
        parser.error(f"There is no {', '.join(sorted(unknown))}: choose of {', '.join(known)}.")
    return [name for name in known if name in names]


def main() -> None:
    options = parse_arguments()
    if options.redraw:
        report.write(json.loads(options.redraw.read_text()), options.output)
        return

    plan = SMOKE if options.smoke else QUICK if options.quick else Plan()
    is_complete = plan == Plan() and not (options.rounds or options.seconds)
    is_complete &= (options.only, options.contenders) == (list(SCENARIOS), list(CONTENDERS))
    plan = replace(
        plan, rounds=options.rounds or plan.rounds, seconds=options.seconds or plan.seconds
    )

    # One file for each connection.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = Path(name)
        template = copy_template(folder)
        start = time.perf_counter()
        projects = {"ours": render(template, folder, "ours")}
        rendering = time.perf_counter() - start
        if options.against:
            template = copy_revision(folder, options.against)
            projects["before"] = render(template, folder, "before")
        install(projects["ours"])
        run_in(projects["ours"], "manage.py", "migrate", "--verbosity", "0")
        os.sched_setaffinity(0, {LOAD_CORE})
        run = Run(plan, options.contenders, projects)
        uvloop.run(run.measure(options.only))

    document = report.document(run.results, plan, rendering, options.against)
    report.write(document, options.output)
    if is_complete and not run.failures:
        report.write(document, TEMPLATE / "docs")
    print(report.tables(document))
    sys.exit("\n".join(run.failures) or 0)


if __name__ == "__main__":
    main()
