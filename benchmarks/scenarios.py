"""What is measured: each scenario, who takes part in it, and its load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.load import Command, Echo, Group, Handshakes, Load, burst, idle, stalled
from benchmarks.servers import IN_MEMORY, Server

#: The rendered project as it is, and as it was where the command line names a revision.
OURS = ("ours", "before")
#: websocket.fast in place of uvicorn's default protocol class.
FAST = ("raw_fast", "ours_fast")
EVERYBODY = ("raw", *OURS, "starlette", "channels", "daphne", *FAST)
ON_DJANGO = ("raw", *OURS, "channels", "daphne")
OVER_REDIS = (*OURS, "channels_core", "channels_pubsub")
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


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    #: Of every contender in a round, in how many turns, and after which warm-up.
    seconds: float = 2.4
    turns: int = 6
    warm_up: float = 0.3
    idle_connections: int = 5_000
    burst_messages: int = 10_000
    burst_seconds: float = 60
    stalled_messages: int = 50_000
    stalled_size: int = 1024
    stalled_seconds: float = 120
    #: After which the stalled client ought to be gone.
    gone_seconds: float = 45


QUICK = Plan(
    rounds=1,
    seconds=0.4,
    turns=2,
    warm_up=0.1,
    idle_connections=500,
    burst_messages=500,
    burst_seconds=4,
    # Larger ones fill the buffers sooner.
    stalled_messages=700,
    stalled_size=8192,
    stalled_seconds=3,
    gone_seconds=2,
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
)


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


@dataclass(frozen=True, kw_only=True)
class SideBySide(Scenario):
    """All contenders serve at the same time, and work in turns."""

    #: What the CPU time is of.
    per: str
    #: Makes the load, for a contender's servers and the cookie of somebody who is logged in.
    load: Callable[[Sequence[Server], str], Load]
    figures: tuple[str, ...] = ("cpu_us", "p50_ms", "p99_ms", "per_second")


@dataclass(frozen=True, kw_only=True)
class OneByOne(Scenario):
    """Contenders serve one after the other, for what takes the whole machine."""

    #: Measures a contender's servers; the command publishes a burst from outside.
    measure: Callable[[Sequence[Server], Plan, Command], Awaitable[dict[str, float]]]
    #: Rounds at the most.
    rounds: int


def echo(clients: int, size: int, in_flight: int = 1, deflate: bool = False) -> Callable[..., Load]:
    return lambda servers, cookie: Echo(servers[0], clients, size, in_flight, deflate)


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
        contenders=EVERYBODY,
        load=lambda servers, cookie: Group(servers, 100),
        env=IN_MEMORY,
    ),
    "redis": SideBySide(
        title="Group: 100 members in two processes, over Redis",
        per="delivery",
        contenders=OVER_REDIS,
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
        measure=lambda servers, plan, publisher: burst(
            servers, 100, plan.burst_messages, publisher, plan.burst_seconds
        ),
        rounds=3,
        servers=2,
        redis=True,
    ),
    "stalled": OneByOne(
        title="Group: 50 members, one of whom stops reading",
        contenders=EVERYBODY,
        figures=("messages", "stalled", "gone", "p99_ms", "memory_mib"),
        env=IN_MEMORY,
        measure=lambda servers, plan, _: stalled(
            servers[0],
            50,
            plan.stalled_messages,
            plan.stalled_size,
            plan.stalled_seconds,
            plan.gone_seconds,
        ),
        rounds=1,
    ),
    "idle": OneByOne(
        title="Memory of an idle connection",
        contenders=EVERYBODY,
        figures=("memory_kib",),
        measure=lambda servers, plan, _: idle(servers[0], plan.idle_connections),
        rounds=3,
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
        measure=lambda servers, plan, _: idle(servers[0], plan.idle_connections, deflate=True),
        rounds=3,
    ),
}
