"""What load balancers and monitors ask a process: does it live, can it serve, what has it done."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.conf import settings
from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.decorators import sync_and_async_middleware

from websocket import groups, metrics

logger = logging.getLogger(__name__)

#: Seconds that the database and Redis each have to answer.
TIMEOUT = 2.0


async def live() -> HttpResponse:
    """Answer while the event loop turns: who gets no answer may restart the process."""
    return HttpResponse("ok", content_type="text/plain")


async def ready() -> HttpResponse:
    """Tell whether what requests need is there: 503 asks to send them elsewhere for now."""
    checks = {"database": ask_database}
    if settings.WEBSOCKET_REDIS_URL:
        checks["redis"] = ask_redis
    results = dict(zip(checks, await asyncio.gather(*map(answers, checks.values())), strict=True))
    return JsonResponse(results, status=200 if all(results.values()) else 503)


async def show_metrics() -> HttpResponse:
    """Show this process's counters in Prometheus' text format, and those of its client library."""
    text = metrics.prometheus()
    try:
        from prometheus_client import generate_latest
    except ImportError:
        pass
    else:
        text += generate_latest().decode()
    return HttpResponse(text, content_type="text/plain; version=0.0.4; charset=utf-8")


def ask_database() -> None:
    with closing(connections["default"]) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def ask_redis() -> None:
    groups.ping()


# A server that does not answer holds up one of these threads, and nothing else.
threads = {ask: ThreadPoolExecutor(1, "health") for ask in (ask_database, ask_redis)}


async def answers(ask: Callable[[], None]) -> bool:
    """Tell whether what is asked answers in time."""
    try:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wrap_future(threads[ask].submit(ask))
    except Exception as error:
        logger.error("%s failed: %s", ask.__name__, str(error) or type(error).__name__)
        return False
    return True


def view_for(request: HttpRequest) -> Callable[[], Awaitable[HttpResponse]] | None:
    views = {"/health/live": live, "/health/ready": ready}
    if settings.METRICS:
        views["/health/metrics"] = show_metrics
    return views.get(request.path_info)


@sync_and_async_middleware
def health(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Answer at /health/, before other middleware asks for a host, TLS or a session."""

    def middleware(request: HttpRequest) -> HttpResponse:
        view = view_for(request)
        return async_to_sync(view)() if view else get_response(request)

    async def async_middleware(request: HttpRequest) -> HttpResponse:
        view = view_for(request)
        return await view() if view else await get_response(request)

    return async_middleware if iscoroutinefunction(get_response) else middleware
