"""A message that is deleted, wherever that happens, disappears from every open page."""

from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

from chat.models import Message
from websocket.groups import publish


@receiver(post_delete, sender=Message)
def take_off_pages(instance: Message, **kwargs: Any) -> None:
    group, event = f"chat.room.{instance.room_id}", {"type": "removed", "id": instance.pk}
    transaction.on_commit(lambda: publish(group, event))
