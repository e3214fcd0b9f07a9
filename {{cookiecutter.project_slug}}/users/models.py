"""The project's own user model, so that a field can be added the day one is needed."""

from django.contrib.auth.models import AbstractUser


class User(AbstractUser):
    pass
