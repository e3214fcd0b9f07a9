"""Who may listen can end: sockets of who logs out, is deactivated or changes the password close.

This holds for sockets whose view, or a decorator on it, has looked at `socket.user`, and for those
of a `WebSocketView`.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.utils.crypto import salted_hmac

from websocket import groups

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

    from websocket.connection import WebSocket

logger = logging.getLogger("django.websocket")

# The group in which every process listens for whom to disconnect; no other can have this name.
GROUP = "@auth"


def disconnect(who: AbstractBaseUser | str) -> None:
    """Close a user's sockets, or those of the session with this key, with 3000, in all processes.

    From sync code. The user may connect again, if the session still allows it. Raises
    `PublishError` as `publish` does.
    """
    _publish(f"session {_digest(who)}" if isinstance(who, str) else f"user - {who.pk}")


class Listener:
    """A socket's membership in the group, which closes it when it is meant."""

    id = ""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket

    def push(self, message: groups.Message) -> None:
        kind, _, rest = message.event["text"].partition(" ")
        if self.session == rest if kind == "session" else self.is_of_user(rest):
            self.socket.close_soon(3000, "Logged out.")

    def missed(self) -> None:
        """Nothing yet."""

    @cached_property
    def session(self) -> str | None:
        """What recognises the session; worked out once, for every logout asks every socket."""
        session = getattr(self.socket.request, "session", None)
        return _digest(session.session_key) if session and session.session_key else None

    def is_of_user(self, rest: str) -> bool:
        """Tell whether the socket is the user's and, where a password is told, has another."""
        user: Any = self.socket.request.user
        digest, _, pk = rest.partition(" ")
        return str(user.pk) == pk and digest != _digest(user.get_session_auth_hash())


def _digest(secret: str) -> str:
    """Session keys and hashes are secrets: what goes over Redis only recognises one."""
    return salted_hmac(GROUP, secret, algorithm="sha256").hexdigest()


def _publish(text: str) -> None:
    groups.publish_message(GROUP, groups.Message.encode(text))


# The receivers of Django's signals; websocket.apps connects them


def on_logout(request: Any, **kwargs: Any) -> None:
    """Close the sockets of a session that ends."""
    session_key = getattr(getattr(request, "session", None), "session_key", None)
    if session_key:
        _tell(f"session {_digest(session_key)}")


def on_save(instance: Any, created: bool, update_fields: Any, using: str, **kwargs: Any) -> None:
    """Close the sockets of a user who is no longer active, or has another password by now."""
    if created or (update_fields and not {"is_active", "password"} & set(update_fields)):
        return
    digest = _digest(instance.get_session_auth_hash()) if instance.is_active else "-"
    _tell(f"user {digest} {instance.pk}", using)


def on_delete(instance: Any, using: str, **kwargs: Any) -> None:
    """Close the sockets of a user who is no more."""
    _tell(f"user - {instance.pk}", using)


def _tell(text: str, using: str | None = None) -> None:
    """Publish once the change is committed; a Redis that is away must not undo it."""

    def publish() -> None:
        try:
            _publish(text)
        except groups.PublishError as error:
            logger.error("Sockets that should be closed stay open: %s", error)

    transaction.on_commit(publish, using=using)


def connect_receivers() -> None:
    if not apps.is_installed("django.contrib.auth"):
        return
    user_model = get_user_model()
    user_logged_out.connect(on_logout)
    post_save.connect(on_save, sender=user_model)
    post_delete.connect(on_delete, sender=user_model)
