"""Close sockets when their session ends, or their user gets another password or other rights.

They are closed with 1012, which means "connect again": the next handshake decides. This applies to
sockets whose view, or a decorator on it, has read `socket.user`, and to those of a `WebSocketView`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.db import router, transaction
from django.db.models.signals import (
    class_prepared,
    m2m_changed,
    post_delete,
    post_save,
    pre_delete,
)
from django.utils.crypto import get_random_string

from websocket import groups
from websocket.groups.presence import Identity
from websocket.logins import CHANGED, GROUP, NAME, Notice, digest_of, digest_user, log_in, name_of
from websocket.protocol import check_close

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

    from websocket.connection import WebSocket

__all__ = ["disconnect", "login"]

logger = logging.getLogger("django.websocket")

# The fields of a user that decide what the user may do.
FIELDS: Final = {"is_active", "is_staff", "is_superuser", "password"}


def disconnect(who: AbstractBaseUser | str, code: int = 1012, reason: str = "") -> None:
    """Close the sockets of a user, or of the session with this key, in all processes.

    Call it from sync code. With 1012, pages connect again, and the handshake decides; with a code
    such as 3000, they do not. Raises `ValueError` as `close` does, and `PublishError` as `publish`
    does.
    """
    check_close(code, reason)
    if isinstance(who, str):
        session = import_module(settings.SESSION_ENGINE).SessionStore(who)
        digest = digest_of(name_of(session) or who)
        _publish(Notice("session", digest, code=code, reason=reason))
    else:
        _publish(Notice("user", pks=[str(who.pk)], code=code, reason=reason))


async def login(socket: WebSocket, user: AbstractBaseUser) -> None:
    """Make this the socket's user, for a client that proves its identity in its first message.

    From then on, `socket.user`, the log and `disconnect(user)` refer to this user, and the socket
    is closed as if it had been logged in from the start. The session is not changed. Raises
    `ValueError` for a user who is anonymous or not active, and `PublishError` if the socket is
    present in a group and Redis cannot be reached.
    """
    if not (user.is_authenticated and user.is_active):
        raise ValueError(f"login() takes an active user; got {user!r}.")
    connection = socket._connection
    await log_in(connection, user)
    # Only now a change is heard of; one since the user was loaded is not.
    if not await sync_to_async(_is_current)(user):
        await socket.close(1012, CHANGED)
    elif connection.memberships is not None:
        await connection.memberships.become(Identity(str(user.pk), True))


def _is_current(user: Any) -> bool:
    fresh = type(user)._base_manager.filter(pk=user.pk).first()
    return fresh is not None and fresh.is_active and digest_user(fresh) == digest_user(user)


def _publish(notice: Notice) -> None:
    if not groups.can_publish():
        logger.warning(
            "A user or a session has changed, and sockets stay open: this process serves none, and "
            "without REDIS_URL it cannot reach those of the one that does."
        )
        return
    groups.publish_message(GROUP, groups.Message.encode(list(notice)))


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
    """Close the sockets of a user who was deactivated or has a new password or other rights."""
    if created or (update_fields and not FIELDS & set(update_fields)):
        return
    digest = digest_user(instance) if instance.is_active else ""
    _tell(Notice("user", digest, [str(instance.pk)]), using)


def on_delete(instance: Any, using: str, **kwargs: Any) -> None:
    """Close the sockets of a deleted user."""
    _tell(Notice("user", pks=[str(instance.pk)]), using)


def on_rights(
    sender: Any, instance: Any, action: str, reverse: bool, pk_set: Any, using: str, **kwargs: Any
) -> None:
    """Close the sockets of users whose groups or permissions change, or those of their groups."""
    if action == "pre_clear":
        pk_set = None
    elif action not in ("post_add", "post_remove") or not pk_set:
        return
    users: Any = get_user_model()._default_manager.using(using)
    if sender is apps.get_model("auth.Group").permissions.through:
        of_groups = (pk_set or instance.group_set.values("pk")) if reverse else [instance.pk]
        _tell_users(users.filter(groups__in=of_groups).values_list("pk", flat=True), using)
    elif not reverse:
        _tell_users([instance.pk], using)
    else:
        is_group = sender is get_user_model().groups.through
        relation = {"groups" if is_group else "user_permissions": instance}
        _tell_users(pk_set or users.filter(**relation).values_list("pk", flat=True), using)


def on_right_delete(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    """Close the sockets of the users of a group or a permission that is about to be deleted."""
    users: Any = get_user_model()._default_manager.using(using)
    if sender._meta.concrete_model is apps.get_model("auth.Group"):
        _tell_users(users.filter(groups=instance).values_list("pk", flat=True), using)
    else:
        pks = users.filter(user_permissions=instance).values_list("pk", flat=True)
        of_groups = users.filter(groups__permissions=instance).values_list("pk", flat=True)
        _tell_users({*pks, *of_groups}, using)


def _tell_users(pks: Iterable[Any], using: str) -> None:
    every = [str(pk) for pk in pks]
    for start in range(0, len(every), 1000):
        _tell(Notice("user", pks=every[start : start + 1000]), using)


def _tell_ended(session: Any, name: str, pk: Any) -> None:
    model = getattr(session, "model", None)  # Cached sessions are in no transaction.
    notice = Notice("ended", digest_of(name), [str(pk)] if pk else [])
    _tell(notice, model and router.db_for_write(model))


def _tell(notice: Notice, using: str | None) -> None:
    """Publish after the database commit; an unreachable Redis does not undo the change."""

    def publish() -> None:
        try:
            _publish(notice)
        except groups.PublishError as error:
            logger.error("Sockets that should be closed stay open until Redis is back: %s", error)

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
    user_model: Any = get_user_model()
    group_model: Any = apps.get_model("auth.Group")
    relations = [getattr(user_model, name, None) for name in ("groups", "user_permissions")]
    if all(getattr(getattr(one, "field", None), "many_to_many", False) for one in relations):
        for relation in (*relations, group_model.permissions):
            m2m_changed.connect(on_rights, sender=relation.through)
        rights = {group_model, apps.get_model("auth.Permission")}
        for model in apps.get_models():
            if model._meta.concrete_model in rights:
                pre_delete.connect(on_right_delete, sender=model)


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
