"""Publish a burst from outside of the servers, as a task queue would: python -m ... ours 10000."""

import logging
import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "contenders.settings")

import django

django.setup()

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from websocket.groups import publish


def ours(message: str) -> None:
    publish("room", message)


def channels(message: str) -> None:
    event = {"type": "room.message", "message": message}
    async_to_sync(get_channel_layer().group_send)("room", event)


if __name__ == "__main__":
    # Channels logs each message that a member did not get.
    logging.disable(logging.INFO)
    send = channels if sys.argv[1].startswith("channels") else ours
    for number in range(int(sys.argv[2])):
        send(f"message {number}")
