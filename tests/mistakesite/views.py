"""A mistake in each view, named after it."""

from django.http import HttpResponse
from websocket.connection import InvalidMessage
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


async def sends_a_str(socket):
    await socket.accept()
    await socket.send("hello")


async def sends_a_dict_as_text(socket):
    await socket.accept()
    await socket.send_text({"text": "hello"})


async def sends_bytes_as_text(socket):
    await socket.accept()
    await socket.send_text(b"hello")


async def sends_a_dict_as_bytes(socket):
    await socket.accept()
    await socket.send_bytes({"text": "hello"})


async def forgets_to_accept(socket):
    await socket.send_text("hello")


async def forgets_to_accept_and_receives(socket):
    async for message in socket:
        await socket.send_message(message)


async def forgets_to_await_the_accept(socket):
    socket.accept()
    await socket.send_text("hello")


async def joins_before_the_accept(socket):
    await socket.join("group")
    await socket.accept()


async def returns_without_an_accept(socket):
    pass


async def returns_a_response_after_the_accept(socket):
    await socket.accept()
    return HttpResponse(status=403)


async def starts_a_function(socket):
    async def tick():
        pass

    await socket.accept()
    socket.start(tick)
    await socket.receive_text()


async def accepts_another_subprotocol(socket):
    await socket.accept("chat")


async def closes_with_a_reason_alone(socket):
    await socket.accept()
    await socket.close("Good bye.")


async def closes_with_a_status(socket):
    await socket.accept()
    await socket.close(403)


class InvalidMessageWithoutAFrame(WebSocketView):
    async def receive(self, message):
        raise InvalidMessage("Not that.", code=1005)
