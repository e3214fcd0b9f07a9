"""A mistake in each view, named after it."""

from django.http import HttpResponse
from websocket.views import WebSocketView


async def mounted_with_path(socket):
    await socket.accept()


class ClassMountedWithPath(WebSocketView):
    pass


def page(request):
    return HttpResponse("Hello.")


async def async_page(request):
    return HttpResponse("Hello.")


def page_with_a_form(request):
    return HttpResponse(request.POST["name"])


def not_async(socket):
    return None
