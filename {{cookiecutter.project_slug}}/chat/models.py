"""Rooms, and the messages in them."""

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.urls import reverse

# The number of messages on a page at first.
LAST = 200


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
        """The group for messages. Its history has what a page misses: see WEBSOCKET_HISTORY."""
        return f"chat.room.{self.pk}"

    @property
    def people(self) -> str:
        """The group for who is here and who types, which is of no interest later."""
        return f"chat.people.{self.pk}"

    def last_messages(self) -> list[dict[str, Any]]:
        """Return the events of the room's last messages."""
        messages = self.messages.select_related("user").order_by("-id")[:LAST]
        return [message.as_event() for message in reversed(messages)]


class Message(models.Model):
    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    text = models.CharField(max_length=500)
    # The page creates it, to recognize its own message when that comes back. Because it is unique,
    # a message that is sent again after a lost connection is not stored twice.
    key = models.UUIDField(default=uuid.uuid4, unique=True)
    sent_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        # A room's last messages are those with the highest ids.
        indexes = [models.Index(fields=["room", "id"], name="chat_message_room_id")]
        ordering = ["id"]

    def __str__(self) -> str:
        return self.text

    def as_event(self) -> dict[str, Any]:
        """Return the event that tells the pages about this message."""
        return {
            "type": "message",
            "id": self.pk,
            "key": self.key.hex,
            "user": self.user.get_username(),
            "user_id": self.user_id,
            "text": self.text,
            "sent_at": self.sent_at,
        }
