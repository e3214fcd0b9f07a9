"""The project's own user model, so that fields can be added later, and the index page's notes."""

from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    pass


class Note(models.Model):
    """A note on the index page's wall."""

    author = models.CharField(max_length=6)
    text = models.CharField(max_length=140)
    posted_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.text

    def as_event(self) -> dict[str, Any]:
        """Return what the pages show of this note."""
        return {
            "id": self.pk,
            "author": self.author,
            "text": self.text,
            "posted_at": self.posted_at,
        }
