"""Close sockets when their user logs out, is deactivated or deleted, or changes the password.

This applies to sockets whose view, or a decorator on it, has read `socket.user`, and to those of a
`WebSocketView`.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.db import router, transaction
from django.db.models.signals import class_prepared, post_delete, post_save
from django.utils.crypto import get_random_string

from websocket import groups
from websocket.logins import GROUP, NAME, digest_of, digest_password, name_of

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

logger = logging.getLogger("django.websocket")


def disconnect(who: AbstractBaseUser | str) -> None:
    """Close the sockets of a user, or of the session with this key, with 3000 in all processes.

    Call it from sync code. The user may connect again, if the session still allows it. Raises
    `PublishError` as `publish` does.
    """
    if isinstance(who, str):
        session = import_module(settings.SESSION_ENGINE).SessionStore(who)
        _publish(f"session {digest_of(name_of(session) or who)} ")
    else:
        _publish(f"user - {who.pk}")


def _publish(text: str) -> None:
    groups.publish_message(GROUP, groups.Message.encode(text))


# The receivers of Django's signals; websocket.apps connects them


def on_login(request: Any, **kwargs: Any) -> None:
    """Close the sockets of a session that the login has replaced, and give the new one a name."""
    session = getattr(request, "session", None)
    if session is None or SESSION_KEY not in session:
        return  # A login without a session, such as by token.
    old_key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if old_key and session.session_key is None:
        # login() has flushed another user's session, for which there is no signal.
        old = type(session)(old_key)
        _tell_ended(old, name_of(old) or old_key, "")
    if isinstance(session, CookieStore):
        session.setdefault(NAME, get_random_string(22))


def on_logout(request: Any, user: Any, **kwargs: Any) -> None:
    """Close the sockets of a session once Django has flushed it.

    The signal comes before that, while a client whose socket is closed could still connect again.
    """
    session = getattr(request, "session", None)
    name = name_of(session)
    if session is None or name is None:
        return
    pk = session.get(SESSION_KEY) or getattr(user, "pk", None)
    flush = session.flush

    def flush_and_tell() -> None:
        flush()
        _tell_ended(session, name, pk)

    if pk is not None:
        session.flush = flush_and_tell
        # One job in a thread: a view that is cancelled does both or neither.
        session.aflush = sync_to_async(flush_and_tell)


def on_save(instance: Any, created: bool, update_fields: Any, using: str, **kwargs: Any) -> None:
    """Close the sockets of a user who was deactivated or has a new password."""
    if created or (update_fields and not {"is_active", "password"} & set(update_fields)):
        return
    _tell(f"user {digest_password(instance) if instance.is_active else '-'} {instance.pk}", using)


def on_delete(instance: Any, using: str, **kwargs: Any) -> None:
    """Close the sockets of a deleted user."""
    _tell(f"user - {instance.pk}", using)


def _tell_ended(session: Any, name: str, pk: Any) -> None:
    model = getattr(session, "model", None)  # Cached sessions are in no transaction.
    _tell(f"ended {digest_of(name)} {pk}", model and router.db_for_write(model))


def _tell(text: str, using: str | None) -> None:
    """Publish after the database commit; an unreachable Redis does not undo the change."""

    def publish() -> None:
        try:
            _publish(text)
        except groups.PublishError as error:
            logger.error("Sockets that should be closed stay open: %s", error)

    if using is None:
        publish()
    else:
        transaction.on_commit(publish, using=using)


def connect_receivers() -> None:
    if not apps.is_installed("django.contrib.auth"):
        return
    user_logged_in.connect(on_login)
    user_logged_out.connect(on_logout)
    for model in apps.get_models():
        connect_model(model)
    class_prepared.connect(connect_model)


def connect_model(sender: Any, **kwargs: Any) -> None:
    """Connect a model's signals if it is the user model, or its proxy, parent or child.

    Django does not send a model's signals to the receivers for its proxies, parents and children.
    """
    user_model: Any = get_user_model()._meta.concrete_model
    model = sender._meta.concrete_model
    if issubclass(model, user_model) or issubclass(user_model, model):
        post_delete.connect(on_delete, sender=sender)
        if hasattr(model, "get_session_auth_hash"):
            post_save.connect(on_save, sender=sender)
