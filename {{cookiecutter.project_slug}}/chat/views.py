"""The chat's pages, and the socket that a room's page talks to."""

from typing import Any, cast

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.db import IntegrityError
from django.db.models import OuterRef, QuerySet, Subquery
from django.shortcuts import get_object_or_404
from django.views.generic import DetailView, ListView

from chat.forms import MessageForm
from chat.models import Message, Room
from users.models import User
from websocket.connection import InvalidMessage, WebSocket
from websocket.groups import PublishError, amembers, apublish, publish


class RoomsView(LoginRequiredMixin, ListView):
    """The rooms, each with what was said last."""

    template_name = "chat/rooms.html"

    def get_queryset(self) -> QuerySet[Room]:
        last = Message.objects.filter(room=OuterRef("pk")).order_by("-id")
        return Room.objects.annotate(
            last_text=Subquery(last.values("text")[:1]),
            last_user=Subquery(last.values("user__username")[:1]),
            last_sent_at=Subquery(last.values("sent_at")[:1]),
        )


class RoomView(LoginRequiredMixin, DetailView):
    model = Room
    template_name = "chat/room.html"


@login_required
async def room_socket(socket: WebSocket, slug: str) -> None:
    """Send the room's state to a page that does not have it, and handle what the page sends."""
    room = await sync_to_async(get_object_or_404)(Room, slug=slug)
    await socket.accept()
    try:
        await socket.join(room.people, presence={"name": socket.user.get_username()})
        # First join, then load: what happens in between comes as an event, and may be in the state
        # too. A page that comes back needs no messages if the history of the group has them all.
        is_complete = await socket.join(room.group)
        messages = None if is_complete else await sync_to_async(room.last_messages)()
        here = await amembers(room.people)
        await socket.send_json({"type": "state", "here": here, "messages": messages})
        async for data in socket.iter_json():
            await handle(socket, room, data)
    except PublishError:  # Redis is away, and the log says so. The page will connect again.
        await socket.close(1013, "Try again later.")


async def handle(socket: WebSocket, room: Room, data: Any) -> None:
    """Store and tell what the user says, or tell the others that the user is typing."""
    user = cast(User, socket.user)  # @login_required lets nobody else in.
    match data:
        case {"type": "say", "text": str(), "key": str()}:
            try:
                if errors := await store(room, user, data):
                    await socket.send_json({"type": "errors", "key": data["key"], "errors": errors})
            except Room.DoesNotExist:
                await socket.close(1008, "This room is gone.")
            except User.DoesNotExist:
                await socket.close(1012, "Connect again.")
        case {"type": "typing"}:
            hint = {"type": "typing", "user": user.get_username(), "user_id": user.pk}
            await apublish(room.people, hint, exclude=socket)
        case _:
            raise InvalidMessage("Expected something to say, or a typing hint.")


@sync_to_async
def store(room: Room, user: User, data: dict[str, Any]) -> dict[str, Any]:
    """Store a message and tell the room, or return the form's errors.

    Both happen in one job of the thread, which runs to its end even if the client leaves and the
    view is cancelled meanwhile. Raises `DoesNotExist` if the room or the user was deleted.
    """
    user.refresh_from_db()  # The name may have changed since the handshake.
    form = MessageForm(data, instance=Message(room=room, user=user))
    try:
        if form.is_valid():
            message = form.save()
            publish(room.group, message.as_event())
    except PublishError:
        message.delete()  # The page sends it again.
        raise
    except IntegrityError:
        # Meanwhile the room or the user was deleted, or another connection has stored the key.
        room.refresh_from_db()
        user.refresh_from_db()
        form = MessageForm(data, instance=Message(room=room, user=user))
        if form.is_valid():
            raise
    return form.errors.get_json_data()
