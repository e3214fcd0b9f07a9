"""Make a user, log it in, and print the cookie with which a browser would come back."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "contenders.settings")

import django

django.setup()

from importlib import import_module

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model

user, _ = get_user_model().objects.get_or_create(username="visitor")
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.save()
print(f"{settings.SESSION_COOKIE_NAME}={session.session_key}")
