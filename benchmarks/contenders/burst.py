"""Publish from outside of the servers, as a task queue would: python -m contenders.burst ours ...

With a number of messages, as fast as it can: `ours 10000`. With a number of rooms and of messages a
second, to one room after the other until it is told to end, and then it prints how many messages
there were: `ours 100 50`.
"""

import logging
import os
import signal
import sys
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "contenders.settings")

import django

django.setup()

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from websocket.groups import publish


def channels(room: str, message: str) -> None:
    event = {"type": "room.message", "message": message}
    async_to_sync(get_channel_layer().group_send)(room, event)


def burst(messages: int) -> None:
    for number in range(messages):
        send("room", f"message {number}")


def stream(rooms: int, per_second: int) -> None:
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *args: ended.append(1))
    number = 0
    while not ended:
        send(f"room.{number % rooms}", str(number))
        number += 1
        time.sleep(1 / per_second)
    print(number)


if __name__ == "__main__":
    # Channels logs each message that a member did not get.
    logging.disable(logging.INFO)
    send = channels if sys.argv[1].startswith("channels") else publish
    numbers = [int(argument) for argument in sys.argv[2:]]
    stream(*numbers) if numbers[1:] else burst(*numbers)
