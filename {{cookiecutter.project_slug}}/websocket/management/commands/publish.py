"""Publish to a group from the shell: `manage.py publish room.lobby '{"text": "Back in five."}'`."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from websocket import groups


class Command(BaseCommand):
    help = "Publish a message to a group: to all sockets that have joined it, in all processes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("group", help="the name that sockets join")
        parser.add_argument("message", help="JSON, or else text")
        parser.add_argument(
            "--text", action="store_true", help="publish text, even if the message is JSON"
        )

    def handle(self, *args: Any, group: str, message: str, text: bool, **options: Any) -> None:
        try:
            groups.check_name(group)
            if not groups.can_publish():
                raise CommandError(
                    "Nobody can be reached: groups live in the memory of the server's process "
                    "until REDIS_URL is set, for the server and for this command."
                )
            groups.publish(group, message if text else parse(message))
        except (ValueError, groups.PublishError) as error:
            raise CommandError(str(error)) from error


def parse(message: str) -> Any:
    """Return the value of a message that is JSON, or the message itself."""
    try:
        return json.loads(message)
    except ValueError as error:
        if message.lstrip().startswith(("{", "[")):
            raise CommandError(
                f"This message begins like JSON, but is not ({error}): correct it, or add --text."
            ) from error
        return message
