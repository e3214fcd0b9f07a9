"""What is measured: each scenario, who takes part in it, and its load."""

from __future__ import annotations

from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.capacity import large, most_sockets, sockets
from benchmarks.deploy import deploy, replace
from benchmarks.guarantees import Resumes
from benchmarks.load import (
    Echo,
    Figures,
    Group,
    Handshakes,
    Load,
    burst,
    idle,
    stalled,
)
from benchmarks.servers import IN_MEMORY, Server

#: The rendered project as it is, and as it was where the command line names a revision.
OURS = ("ours", "before")
#: websocket.fast in place of uvicorn's default protocol class.
FAST = ("raw_fast", "ours_fast")
EVERYBODY = ("raw", *OURS, "starlette", "channels", "daphne", *FAST)
ON_DJANGO = ("raw", *OURS, "channels", "daphne")
OVER_REDIS = (*OURS, "channels_core", "channels_pubsub")
#: This project without and with a history, and with more.
WITH_HISTORY = ("ours", "ours_history")
LARGE = ("raw", *WITH_HISTORY)
ONE_MEMBER = (*WITH_HISTORY, "ours_own")
UVICORNS = ("raw", "raw_websockets", "raw_wsproto", "raw_asyncio", "raw_deflate")

DATABASE_SESSIONS = {
    "MIDDLEWARE": "django.contrib.sessions.middleware.SessionMiddleware,"
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "SESSION_ENGINE": "django.contrib.sessions.backends.db",
}
COOKIE_SESSIONS = {
    **DATABASE_SESSIONS,
    "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
}

#: What is written of a load that also costs Redis something.
WITH_REDIS = ("cpu_us", "redis_us", "p50_ms", "p99_ms", "per_second")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    #: Of every contender in a round, in how many turns, and after which warm-up.
    seconds: float = 1.8
    turns: int = 6
    warm_up: float = 0.3
    idle_connections: int = 5_000
    burst_messages: int = 5_000
    burst_seconds: float = 30
    stalled_messages: int = 6_000
    #: Large, for these fill the buffers of the one who does not read soon.
    stalled_size: int = 8192
    stalled_seconds: float = 40
    #: After which the stalled client ought to be gone.
    gone_seconds: float = 45
    deploy_clients: int = 5_000
    #: After which all clients ought to be back.
    deploy_seconds: float = 180
    #: Members of a small and of a large group, and for how long to publish to each.
    groups: tuple[int, int] = (1_000, 10_000)
    group_seconds: float = 3
    #: How many sockets only exist: some, and many; and most, where None is what may be open.
    sockets: tuple[int, int, int | None] = (1_000, 10_000, None)
    #: Long enough for a ping (every 20 s) and a look at the session (every 45 s) of each.
    sockets_seconds: float = 45


QUICK = Plan(
    rounds=1,
    seconds=0.4,
    turns=2,
    warm_up=0.1,
    idle_connections=500,
    burst_messages=500,
    burst_seconds=4,
    stalled_messages=700,
    stalled_seconds=3,
    gone_seconds=2,
    deploy_clients=300,
    deploy_seconds=60,
    groups=(100, 1_000),
    group_seconds=0.3,
    sockets=(100, 500, 1_000),
    sockets_seconds=1,
)

#: To see that all works; the figures mean nothing.
SMOKE = Plan(
    rounds=1,
    seconds=0.02,
    turns=1,
    warm_up=0.01,
    idle_connections=20,
    burst_messages=10,
    burst_seconds=8,
    stalled_messages=100,
    stalled_seconds=4,
    gone_seconds=0.1,
    deploy_clients=20,
    deploy_seconds=60,
    groups=(10, 20),
    group_seconds=0.1,
    sockets=(10, 20, 30),
    sockets_seconds=0.1,
)


@dataclass(frozen=True)
class Stage:
    """A contender's servers, and who else takes part."""

    plan: Plan
    contender: str
    servers: Sequence[Server]
    redis: Server | None
    publisher: Callable[..., Awaitable[Process]]
    #: Returns the cookies of so many users who are logged in.
    login: Callable[[int], list[str]]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What contenders are asked to do, and what is written of it."""

    title: str
    contenders: tuple[str, ...]
    #: The figures, the most important one first; see report.FIGURES.
    figures: tuple[str, ...]
    #: The contender that others are given as a multiple of.
    base: str = "raw"
    env: dict[str, str] = field(default_factory=dict)
    servers: int = 1
    redis: bool = False
    #: What the CPU time is of.
    per: str = ""


@dataclass(frozen=True, kw_only=True)
class SideBySide(Scenario):
    """All contenders serve at the same time, and work in turns."""

    #: Makes the load, for a contender's servers and the cookie of somebody who is logged in.
    load: Callable[[Sequence[Server], str], Load]
    figures: tuple[str, ...] = ("cpu_us", "p50_ms", "p99_ms", "per_second")


@dataclass(frozen=True, kw_only=True)
class OneByOne(Scenario):
    """Contenders serve one after the other, for what takes the whole machine."""

    measure: Callable[[Stage], Awaitable[Figures]]
    #: Rounds at the most.
    rounds: int


def echo(clients: int, size: int, in_flight: int = 1, deflate: bool = False) -> Callable[..., Load]:
    return lambda servers, cookie: Echo(servers[0], clients, size, in_flight, deflate)


def large_group(members: str, size: int, contenders: tuple[str, ...], rounds: int) -> OneByOne:
    return OneByOne(
        title=f"A message to {members} members, and echoes meanwhile",
        per="delivery",
        contenders=contenders,
        figures=("last_ms", "echo_p50_ms", "echo_p99_ms", "cpu_us"),
        # The handshakes are not what is measured, and without middleware they take less long.
        env={"MIDDLEWARE": "", **IN_MEMORY},
        measure=lambda stage: large(
            stage.servers[0], stage.plan.groups[size], stage.plan.group_seconds
        ),
        rounds=rounds,
    )


def existing(number: str, size: int, contenders: tuple[str, ...]) -> OneByOne:
    async def measure(stage: Stage) -> Figures:
        visitors = stage.plan.sockets[size] or most_sockets()
        is_login = stage.contender in ("ours_login", "ours_all")
        cookies = stage.login(visitors) if is_login else [""] * visitors
        resume = stage.contender == "ours_all"
        return await sockets(stage.servers[0], cookies, stage.plan.sockets_seconds, resume)

    return OneByOne(
        title=f"Sockets that only exist: {number}",
        contenders=contenders,
        figures=("rss_kib", "pss_kib", "kernel_kib", "idle_us", "base_mib", "sockets"),
        base="ours",
        measure=measure,
        rounds=1,
    )


#: What takes longer than it tells in a quick run.
NOT_QUICK = (
    *("connect_default", "burst", "stalled", "resume", "large_1k", "replace"),
    *("sockets_1k", "sockets_10k", "sockets_most"),
    *("uvicorn_32", "uvicorn_4k", "uvicorn_idle"),
)

SCENARIOS: dict[str, Scenario] = {
    "echo_32": SideBySide(
        title="Echo: 50 clients, 32 B, one in flight",
        per="message",
        contenders=EVERYBODY,
        load=echo(50, 32),
    ),
    "echo_32_deep": SideBySide(
        title="Echo: 50 clients, 32 B, 16 in flight",
        per="message",
        contenders=EVERYBODY,
        load=echo(50, 32, in_flight=16),
    ),
    "echo_4k": SideBySide(
        title="Echo: 500 clients, 4 KiB, one in flight",
        per="message",
        contenders=EVERYBODY,
        load=echo(500, 4096),
    ),
    "connect": SideBySide(
        title="Connect and close: no middleware",
        per="connection",
        contenders=EVERYBODY,
        load=lambda servers, cookie: Handshakes(servers[0]),
        env={"MIDDLEWARE": ""},
    ),
    "connect_anonymous": SideBySide(
        title="Connect and close: the default middleware, nobody logged in",
        per="connection",
        contenders=ON_DJANGO,
        load=lambda servers, cookie: Handshakes(servers[0]),
    ),
    "connect_default": SideBySide(
        title="Connect and close: the default middleware",
        per="connection",
        contenders=ON_DJANGO,
        load=lambda servers, cookie: Handshakes(servers[0], cookie),
    ),
    "connect_database": SideBySide(
        title="Connect and close: session, user in the database",
        per="connection",
        contenders=ON_DJANGO,
        load=lambda servers, cookie: Handshakes(servers[0], cookie),
        env=DATABASE_SESSIONS,
    ),
    "connect_cookies": SideBySide(
        title="Connect and close: session in a cookie",
        per="connection",
        contenders=ON_DJANGO,
        load=lambda servers, cookie: Handshakes(servers[0], cookie),
        env=COOKIE_SESSIONS,
    ),
    "fanout": SideBySide(
        title="Group: 100 members in one process",
        per="delivery",
        contenders=(*EVERYBODY, "ours_history"),
        load=lambda servers, cookie: Group(servers, 100),
        env=IN_MEMORY,
    ),
    "redis": SideBySide(
        title="Group: 100 members in two processes, over Redis",
        per="delivery",
        contenders=(*OVER_REDIS, "ours_history"),
        base="channels_core",
        load=lambda servers, cookie: Group(servers, 100),
        servers=2,
        redis=True,
    ),
    "burst": OneByOne(
        title="Group: a burst from outside to the same",
        contenders=OVER_REDIS,
        figures=("lost_percent", "seconds", "cpu_us"),
        base="channels_core",
        per="delivery",
        measure=lambda stage: burst(
            stage.servers,
            100,
            stage.plan.burst_messages,
            partial(stage.publisher, stage.plan.burst_messages),
            stage.plan.burst_seconds,
        ),
        rounds=1,
        servers=2,
        redis=True,
    ),
    "stalled": OneByOne(
        title="Group: 50 members, one of whom stops reading",
        contenders=("raw", "ours", "starlette", "channels", "daphne", "ours_fast"),
        figures=("messages", "stalled", "gone", "p99_ms", "memory_mib"),
        env=IN_MEMORY,
        measure=lambda stage: stalled(
            stage.servers[0],
            50,
            stage.plan.stalled_messages,
            stage.plan.stalled_size,
            stage.plan.stalled_seconds,
            stage.plan.gone_seconds,
        ),
        rounds=1,
    ),
    "idle": OneByOne(
        title="Memory of an idle connection",
        contenders=EVERYBODY,
        figures=("memory_kib",),
        measure=lambda stage: idle(stage.servers[0], stage.plan.idle_connections),
        rounds=1,
    ),
    "publish": SideBySide(
        title="Publish to one member, 16 in flight, in memory",
        per="message",
        contenders=ONE_MEMBER,
        base="ours",
        load=lambda servers, cookie: Group(servers, 1, 200, in_flight=16, publishers=16),
    ),
    "publish_redis": SideBySide(
        title="Publish to one member, 16 in flight, over Redis",
        per="message",
        contenders=ONE_MEMBER,
        base="ours",
        figures=WITH_REDIS,
        load=lambda servers, cookie: Group(servers, 1, 200, in_flight=16, publishers=16),
        redis=True,
    ),
    "resume": SideBySide(
        title="Come back to a group, having missed nothing",
        per="client",
        contenders=WITH_HISTORY,
        base="ours",
        load=lambda servers, cookie: Resumes(servers[0], cookie, 0),
    ),
    "resume_20": SideBySide(
        title="Come back to a group, having missed 20 messages",
        per="client",
        contenders=WITH_HISTORY,
        base="ours",
        load=lambda servers, cookie: Resumes(servers[0], cookie, 20),
    ),
    "resume_20_redis": SideBySide(
        title="Come back to a group, having missed 20 messages, over Redis",
        per="client",
        contenders=WITH_HISTORY,
        base="ours",
        figures=WITH_REDIS,
        load=lambda servers, cookie: Resumes(servers[0], cookie, 20),
        redis=True,
    ),
    "presence": SideBySide(
        title="Connect, join a group, and leave",
        per="client",
        contenders=("ours", "ours_presence"),
        base="ours",
        load=lambda servers, cookie: Handshakes(servers[0], path="/join/", messages=1),
    ),
    "presence_redis": SideBySide(
        title="Connect, join a group, and leave, over Redis",
        per="client",
        contenders=("ours", "ours_presence"),
        base="ours",
        figures=WITH_REDIS,
        load=lambda servers, cookie: Handshakes(servers[0], path="/join/", messages=1),
        redis=True,
    ),
    "large_1k": large_group("1,000", 0, (*LARGE, "channels"), rounds=2),
    # Channels takes more than a minute for a message, and then has failed.
    "large_10k": large_group("10,000", 1, LARGE, rounds=1),
    "sockets_1k": existing("1,000", 0, ("ours", "ours_all")),
    "sockets_10k": existing("10,000", 1, ("ours", "ours_login", "ours_group", "ours_all")),
    "sockets_most": existing("as many as a process may have", 2, ("ours", "ours_all")),
    "deploy": OneByOne(
        title="A restart under 5,000 clients in groups, over Redis",
        per="client",
        contenders=("ours", "ours_history", "channels_core"),
        base="ours",
        figures=("seconds", "down_s", "p50_s", "p99_s", "missed", "cpu_us"),
        measure=lambda stage: deploy(
            stage.servers[0],
            stage.login(stage.plan.deploy_clients),
            stage.publisher,
            stage.plan.deploy_seconds,
        ),
        rounds=1,
        redis=True,
    ),
    "replace": OneByOne(
        title="One of two processes is replaced under 5,000 clients, behind nginx, over Redis",
        contenders=("ours_unpaced", "ours_drain"),
        base="ours_unpaced",
        figures=(
            *("echo_p99_ms", "echo_p50_ms", "seconds", "back_percent", "down_s", "moved"),
            *("p50_s", "p99_s", "missed"),
        ),
        measure=lambda stage: replace(
            stage.servers,
            stage.login(stage.plan.deploy_clients),
            stage.publisher,
            stage.plan.deploy_seconds,
        ),
        rounds=1,
        servers=2,
        redis=True,
    ),
    "uvicorn_32": SideBySide(
        title="uvicorn itself, echo: 50 clients, 32 B, one in flight",
        per="message",
        contenders=UVICORNS,
        load=echo(50, 32, deflate=True),
    ),
    "uvicorn_4k": SideBySide(
        title="uvicorn itself, echo: 500 clients, 4 KiB, one in flight",
        per="message",
        contenders=UVICORNS,
        load=echo(500, 4096, deflate=True),
    ),
    "uvicorn_idle": OneByOne(
        title="uvicorn itself, memory of an idle connection",
        contenders=UVICORNS,
        figures=("memory_kib",),
        measure=lambda stage: idle(stage.servers[0], stage.plan.idle_connections, deflate=True),
        rounds=1,
    ),
}
