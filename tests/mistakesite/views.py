"""A mistake in each view, named after it."""

import asyncio
import time
from contextlib import suppress

from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpResponse, JsonResponse
from django.utils.translation import gettext_lazy
from users.models import User
from websocket.connection import InvalidMessage
from websocket.groups import aposition, apublish, publish
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


# --- await -------------------------------------------------------------------------------------


async def forgets_to_await_a_send(socket):
    await socket.accept()
    socket.send_text("hello")


async def forgets_to_await_a_join(socket):
    await socket.accept()
    socket.join("group")


async def forgets_to_await_apublish(socket):
    await socket.accept()
    apublish("group", "hello")


async def forgets_to_await_what_it_sends(socket):
    await socket.accept()
    await socket.send_text(socket.receive_text())


async def forgets_to_await_what_it_sends_as_json(socket):
    await socket.accept()
    await socket.send_json({"said": socket.receive_json()})


async def awaits_publish(socket):
    await socket.accept()
    await publish("group", "hello")


async def awaits_a_loop(socket):
    await socket.accept()
    async for text in await socket.iter_text():
        await socket.send_text(text)


async def loops_without_async(socket):
    await socket.accept()
    for message in socket:
        await socket.send_message(message)


async def loops_over_one_message(socket):
    await socket.accept()
    async for text in socket.receive_text():
        await socket.send_text(text)


class HasASyncReceive(WebSocketView):
    def receive(self, message):
        pass


async def calls_async_code_as_if_it_were_sync(socket):
    await socket.accept()
    async_to_sync(apublish)("group", "hello")


async def sleeps(socket):
    await socket.accept()
    time.sleep(2.5)


# --- the database ------------------------------------------------------------------------------


async def queries(socket):
    await socket.accept()
    await socket.send_json(User.objects.count())


async def loops_over_a_queryset(socket):
    await socket.accept()
    for user in User.objects.all():
        await socket.send_text(user.username)


async def awaits_a_queryset(socket):
    await socket.accept()
    await socket.send_json(await User.objects.all())


async def saves_the_session(socket):
    await socket.accept()
    socket.session.save()


async def counts_users(socket):
    await socket.accept()
    await socket.send_json(await sync_to_async(User.objects.count)())


# --- what is sent and received -----------------------------------------------------------------


async def sends_a_model_instance(socket):
    await socket.accept()
    await socket.send_json({"user": User(username="anna")})


async def sends_a_queryset(socket):
    await socket.accept()
    await socket.send_json({"users": User.objects.none()})


async def publishes_a_model_instance(socket):
    await socket.accept()
    await apublish("group", User(username="anna"))


async def is_present_as_a_model_instance(socket):
    await socket.accept()
    await socket.join("group", presence=User(username="anna"))


async def sends_a_lazy_string(socket):
    await socket.accept()
    await socket.send_text(gettext_lazy("hello"))


async def sends_a_number_as_text(socket):
    await socket.accept()
    await socket.send_text(7)


async def sends_as_with_channels(socket):
    await socket.accept()
    await socket.send(text_data="hello")


async def expects_json(socket):
    await socket.accept()
    await socket.receive_json()


async def expects_bytes(socket):
    await socket.accept()
    await socket.receive_bytes()


async def reads_a_form(socket):
    await socket.accept()
    await socket.send_text(socket.POST["text"])


async def prints_the_socket(socket):
    await socket.accept()
    print(socket, flush=True)


# --- groups ------------------------------------------------------------------------------------


async def names_a_group_with_a_space(socket):
    await socket.accept()
    await socket.join("the room")


async def names_a_group_by_a_number(socket):
    await socket.accept()
    await socket.join(7)


async def swaps_the_group_and_the_message(socket):
    await socket.accept()
    await apublish({"text": "hello"}, "group")


async def asks_for_a_position_without_a_history(socket):
    await socket.accept()
    await aposition("group")


# --- the view and its end ----------------------------------------------------------------------


async def takes_no_socket():
    pass


async def takes_an_argument_that_its_route_lacks(socket, name):
    await socket.accept()


async def accepts_twice(socket):
    await socket.accept()
    await socket.accept()


async def rejects_after_the_accept(socket):
    await socket.accept()
    await socket.reject(3003)


async def returns_a_dict_as_a_message(socket):
    await socket.accept()
    return {"text": "hello"}


async def returns_a_json_response_as_a_message(socket):
    return JsonResponse({"text": "hello"})


async def returns_a_str(socket):
    return "hello"


async def starts_a_task_and_returns(socket):
    await socket.accept()
    socket.start(tick(socket))


async def creates_a_task(socket):
    await socket.accept()
    asyncio.create_task(tick(socket))  # noqa: RUF006


async def tick(socket):
    while True:
        await socket.send_text("tick")
        await asyncio.sleep(0.01)


async def catches_every_exception(socket):
    await socket.accept()
    while True:
        with suppress(Exception):
            await socket.receive_text()
