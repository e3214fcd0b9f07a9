"""What load balancers and monitors ask a process: is it alive, can it serve, what has it done."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.conf import settings
from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.decorators import sync_and_async_middleware
from django.utils.log import log_response

from websocket import drain, groups, metrics
from websocket.threads import get_threads

logger = logging.getLogger(__name__)

#: Seconds that the database and Redis each have to answer.
TIMEOUT = 2.0

#: Threads in which each of them is asked: one that never answers holds up one of them.
ASKING = 4


class Service:
    """A server that this process shares with others: whether it answers, and has ever done so."""

    def __init__(self, name: str, ask: Callable[[], object]) -> None:
        self.name = name
        self.ask = ask
        self.has_answered = False
        self.is_away = False
        self.threads = ThreadPoolExecutor(ASKING, f"health-{name}")
        self.asking: set[Future[object]] = set()

    async def answers(self) -> bool:
        """Tell whether the service answers in time; log when that changes."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.wrap_future(self._submit())
        except Exception as error:
            if not self.is_away:
                logger.error("%s is away: %s", self.name, str(error) or type(error).__name__)
            self.is_away = True
            return False
        if self.is_away:
            logger.warning("%s is back.", self.name)
        self.is_away = False
        self.has_answered = True
        return True

    def _submit(self) -> Future[object]:
        if len(self.asking) >= ASKING:
            raise TimeoutError("It has not answered what it was asked before.")
        future = self.threads.submit(self.ask)
        self.asking.add(future)
        future.add_done_callback(self.asking.discard)
        return future


def ask_database() -> None:
    with closing(connections["default"]) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")


database = Service("The database", ask_database)
redis = Service("Redis", groups.ping)


async def live(request: HttpRequest) -> HttpResponse:
    """Answer while the event loop runs: a process that does not answer may be restarted."""
    return HttpResponse("ok", content_type="text/plain")


async def ready(request: HttpRequest) -> HttpResponse:
    """Tell whether this process can serve, with 200, or with 503 that others should for now.

    A database or a Redis that is away is reported with 200, since it is away for all processes:
    where each of them answered 503, nobody would get even what needs neither. But the database
    must have answered this process once, so that a deploy with a wrong address stops here. Nor is a
    process ready that is stopping, while it closes its sockets.
    """
    services = {"database": database}
    if settings.WEBSOCKET_REDIS_URL:
        services["redis"] = redis
    answers = await asyncio.gather(*(service.answers() for service in services.values()))
    threads = get_threads()
    report = dict(zip(services, answers, strict=True), stuck_threads=threads.count_stuck())
    report["stopping"] = drain.has_begun()
    if database.has_answered and not threads.are_stuck() and not report["stopping"]:
        return JsonResponse(report)
    response = JsonResponse(report, status=503)
    # Django logs a 503 as an error, which goes to ADMINS by mail, each time anew.
    log_response("Not ready: %s", report, response=response, request=request, level="debug")
    return response


async def show_metrics(request: HttpRequest) -> HttpResponse:
    """Show this process's counters in Prometheus' text format, and those of its client library."""
    text = metrics.prometheus()
    try:
        from prometheus_client import generate_latest
    except ImportError:
        pass
    else:
        text += generate_latest().decode()
    return HttpResponse(text, content_type="text/plain; version=0.0.4; charset=utf-8")


def view_for(request: HttpRequest) -> Callable[[HttpRequest], Awaitable[HttpResponse]] | None:
    views = {"/health/live": live, "/health/ready": ready}
    if settings.METRICS:
        views["/health/metrics"] = show_metrics
    return views.get(request.path_info)


@sync_and_async_middleware
def health(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Answer at /health/, before other middleware asks for a host, TLS or a session."""

    def middleware(request: HttpRequest) -> HttpResponse:
        view = view_for(request)
        return async_to_sync(view)(request) if view else get_response(request)

    async def async_middleware(request: HttpRequest) -> HttpResponse:
        view = view_for(request)
        return await view(request) if view else await get_response(request)

    return async_middleware if iscoroutinefunction(get_response) else middleware
