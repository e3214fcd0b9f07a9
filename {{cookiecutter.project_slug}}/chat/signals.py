"""Remove deleted messages from every open page, wherever they are deleted."""

import logging
from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

from chat.models import Message
from websocket.groups import PublishError, publish

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
