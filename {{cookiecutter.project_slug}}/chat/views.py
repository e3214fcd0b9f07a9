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

# The number of messages on the page at first, and the most that one event of the socket holds.
HISTORY = 100

# Of two messages sent at the same time, the one with the higher id may be stored first. So the
# messages that a page has missed are looked for from this many ids before its last one.
OVERLAP = 20

# A page that comes back is told which of its newest messages are still there: this many at most,
# because it names the range itself, and must not be able to ask for the whole table at once.
KEPT = 10_000


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
    """Send who is here, and the room's messages; store the client's own and tell the room."""
    room = await sync_to_async(get_object_or_404)(Room, slug=slug)
    await socket.accept()
    try:
        # First join, then load: a message that is stored in between comes twice, and the page
        # drops the second. The other way round, it would not come at all.
        await socket.join(room.group, presence={"name": socket.user.get_username()})
        await socket.send_json({"type": "here", "members": await amembers(room.group)})
        await send_history(socket, room)
        async for data in socket.iter_json():
            await handle(socket, room, data)
    except PublishError:  # Redis is away, and the log says so. The page will connect again.
        await socket.close(1013, "Try again later.")


async def handle(socket: WebSocket, room: Room, data: Any) -> None:
    """Handle one of the page's events."""
    match data:
        case {"type": "say", "text": str(), "key": str()}:
            await say(socket, room, data)
        case {"type": "typing"}:
            user = socket.user
            hint = {"type": "typing", "user": user.get_username(), "user_id": user.pk}
            await apublish(room.group, hint, exclude=socket)
        case _:
            raise InvalidMessage("Expected something to say, or a typing hint.")


async def send_history(socket: WebSocket, room: Room) -> None:
    """Send the room's last messages, or to a page that comes back, all those that it missed.

    Such a page says which messages it has: `?first=<id>&after=<id>`.
    """
    first, after = (read_id(socket, name) for name in ("first", "after"))
    if after is None:
        await socket.send_json({"type": "history", "messages": await last(room), "more": False})
        return
    if first is not None:
        await socket.send_json({"type": "kept", "ids": await kept(room, first, after)})
    after -= OVERLAP
    more = True
    while more:
        messages = await since(room, after)
        more = len(messages) == HISTORY
        await socket.send_json({"type": "history", "messages": messages, "more": more})
        if more:
            after = messages[-1]["id"]


def read_id(socket: WebSocket, name: str) -> int | None:
    value = socket.query_params.get(name, "")
    return int(value) if value.isdecimal() and len(value) < 19 else None


async def say(socket: WebSocket, room: Room, data: dict[str, Any]) -> None:
    """Store a message and tell the room; or tell the client why not, in the form's own words."""
    user = cast(User, socket.user)  # @login_required lets nobody else in.
    try:
        errors = await store(room, user, data)
    except Room.DoesNotExist:
        await socket.close(1008, "This room is gone.")
    except User.DoesNotExist:
        await socket.close(1012, "Connect again.")
    else:
        if errors:
            await socket.send_json({"type": "errors", "key": data["key"], "errors": errors})


# Functions that use the database, each in one hop to the socket's thread


@sync_to_async
def last(room: Room) -> list[dict[str, Any]]:
    messages = room.messages.select_related("user").order_by("-id")[:HISTORY]
    return [message.as_event() for message in reversed(messages)]


@sync_to_async
def since(room: Room, after: int) -> list[dict[str, Any]]:
    messages = room.messages.select_related("user").filter(id__gt=after)[:HISTORY]
    return [message.as_event() for message in messages]


@sync_to_async
def kept(room: Room, first: int, after: int) -> list[int]:
    """Return which of the messages that a page has are still there."""
    ids = room.messages.filter(id__range=(first, after)).values_list("id", flat=True)
    return list(reversed(ids.order_by("-id")[:KEPT]))


@sync_to_async
def store(room: Room, user: User, data: dict[str, Any]) -> dict[str, Any]:
    """Store a message and tell the room, or return the form's errors.

    Both happen in one job of the thread, which runs to its end even if the client leaves and the
    view is cancelled meanwhile: what is stored is published. Raises `Room.DoesNotExist` or
    `User.DoesNotExist` if one was deleted.
    """
    user = User.objects.get(pk=user.pk)  # The name may have changed since the handshake.
    form = MessageForm(data, instance=Message(room=room, user=user))
    try:
        if form.is_valid():
            publish(room.group, form.save().as_event())
    except IntegrityError:
        # Meanwhile the room or the user was deleted, or another connection has stored the key.
        room.refresh_from_db()
        user.refresh_from_db()
        form = MessageForm(data, instance=Message(room=room, user=user))
        if form.is_valid():
            raise
    errors: dict[str, Any] = form.errors.get_json_data()
    return errors
