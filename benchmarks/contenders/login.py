"""Make users, log them in, and print the cookies with which their browsers would come back."""

import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "contenders.settings")

import django

django.setup()

from importlib import import_module

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.db import transaction

SessionStore = import_module(settings.SESSION_ENGINE).SessionStore


@transaction.atomic
def login(number: int) -> None:
    users = get_user_model().objects
    names = [f"visitor{position}" for position in range(number)]
    users.bulk_create([users.model(username=name) for name in names], ignore_conflicts=True)
    for user in users.filter(username__in=names):
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        print(f"{settings.SESSION_COOKIE_NAME}={session.session_key}")


login(int(sys.argv[1]))
