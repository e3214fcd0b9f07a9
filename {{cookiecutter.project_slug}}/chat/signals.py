"""Tell every open page of a room who comes and goes, and which messages are deleted."""

import logging
from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

from chat.models import Message
from websocket.groups import PublishError, presence_changed, publish

logger = logging.getLogger(__name__)


@receiver(post_delete, sender=Message)
def take_off_pages(instance: Message, **kwargs: Any) -> None:
    group, event = f"chat.room.{instance.room_id}", {"type": "removed", "id": instance.pk}

    def tell() -> None:
        try:
            publish(group, event)
        except PublishError as error:  # The message is deleted all the same.
            logger.error("Open pages keep a deleted message: %s", error)

    transaction.on_commit(tell)


@receiver(presence_changed)
def tell_who_is_here(group: str, key: str, info: Any, joined: bool, **kwargs: Any) -> None:
    if group.startswith("chat.people."):
        publish(group, {"type": "joined" if joined else "left", "user_id": key, **info})
