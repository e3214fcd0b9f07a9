"""Rooms, and what was said in them."""

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.urls import reverse


class Room(models.Model):
    name = models.CharField(max_length=80, unique=True)
    slug = models.SlugField(max_length=80, unique=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("chat:room", args=[self.slug])

    @property
    def group(self) -> str:
        """The group that the sockets of everybody in the room join."""
        return f"chat.room.{self.pk}"


class Message(models.Model):
    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    text = models.CharField(max_length=500)
    # Made by the page, which knows its own message by it. One that is sent again, because the
    # connection was lost before the answer came, is refused for it, and so never stored twice.
    key = models.UUIDField(default=uuid.uuid4, unique=True)
    sent_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        # Ids only rise, and an index of the room's messages by id is what the socket asks for.
        indexes = [models.Index(fields=["room", "id"], name="chat_message_room_id")]
        ordering = ["id"]

    def __str__(self) -> str:
        return self.text

    def as_event(self) -> dict[str, Any]:
        """Return what the page gets to know."""
        return {
            "type": "message",
            "id": self.pk,
            "key": self.key.hex,
            "user": self.user.get_username(),
            "user_id": self.user_id,
            "text": self.text,
            "sent_at": self.sent_at,
        }
