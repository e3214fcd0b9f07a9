"""Third-party style middleware of the three kinds, and a count of how often each ran."""

import time
from collections import Counter

from django.utils.decorators import async_only_middleware, sync_and_async_middleware
from websocket.handshake import Handshake

# Handshakes that each middleware has been entered with, and has been left with.
entered: Counter[str] = Counter()
left: Counter[str] = Counter()


def count(counter, kind, request):
    if isinstance(request, Handshake):
        counter[kind] += 1


class SyncOnly:
    sync_capable = True
    async_capable = False

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        count(entered, "sync", request)
        if isinstance(request, Handshake):
            # As long as a test wants.
            time.sleep(float(request.headers.get("X-Sleep", 0)))
        response = self.get_response(request)
        count(left, "sync", request)
        return response


@async_only_middleware
def async_only(get_response):
    async def middleware(request):
        count(entered, "async", request)
        response = await get_response(request)
        count(left, "async", request)
        return response

    return middleware


@sync_and_async_middleware
def of_both_kinds(get_response):
    from asgiref.sync import iscoroutinefunction

    if iscoroutinefunction(get_response):

        async def middleware(request):
            count(entered, "both", request)
            response = await get_response(request)
            count(left, "both", request)
            return response

    else:

        def middleware(request):
            count(entered, "both", request)
            response = get_response(request)
            count(left, "both", request)
            return response

    return middleware
