"""Announce something on every open page of a room: `manage.py announce lobby "Back in five"`."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from chat.models import Room
from websocket import groups


class Command(BaseCommand):
    help = "Announce something on every open page of a room, without storing it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("room", help="the slug of the room")
        parser.add_argument("text")

    def handle(self, *args: Any, room: str, text: str, **options: Any) -> None:
        if not groups.can_publish():
            raise CommandError(
                "This command runs in another process than the sockets: set REDIS_URL, for both, "
                "so that it can reach them."
            )
        try:
            group = Room.objects.get(slug=room).group
        except Room.DoesNotExist:
            raise CommandError(f"There is no room {room!r}.") from None
        try:
            groups.publish(group, {"type": "announcement", "text": text})
        except groups.PublishError as error:
            raise CommandError(str(error)) from error
