"""Users who log out, are deactivated or deleted, or change the password lose their sockets."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import types
from collections.abc import Callable
from typing import Any
from unittest import skipIf

import django
from asgiref.sync import sync_to_async
from django.contrib import auth
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import PermissionRequiredMixin
from django.contrib.auth.models import AnonymousUser, Group, Permission, update_last_login
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, TransactionTestCase, modify_settings, override_settings
from django.urls import path

from websocket import groups
from websocket.auth import disconnect, login
from websocket.connection import WebSocket, WebSocketDisconnect
from websocket.groups import PublishError
from websocket.handshake import get_handler
from websocket.logins import RECENT, Notice, get_watcher
from websocket.testing import ClientSocket, HandshakeRefused, connect
from websocket.tests.redis_server import OnRedis, impatient
from websocket.tests.wire import serving
from websocket.urls import websocket
from websocket.views import WebSocketView


async def anybody(socket: WebSocket) -> None:
    """Echo, and never look at the user."""
    await socket.accept()
    # Over Redis, who is in one group is in all that were joined before.
    await socket.join("ready")
    await socket.leave("ready")
    await socket.send_text("ready")
    async for message in socket:
        await socket.send_message(message)


async def greet(socket: WebSocket) -> None:
    """Echo, for a user whose name the view has asked for."""
    assert socket.user.get_username() is not None
    await anybody(socket)


class Permitted(PermissionRequiredMixin, WebSocketView):  # type: ignore[misc]
    """Echo, for a user for whom only a mixin has asked, and not the socket but the request."""

    permission_required = ()

    async def connect(self) -> None:
        await super().connect()
        await self.socket.send_text("ready")

    async def receive(self, message: str | bytes) -> None:
        await self.socket.send_message(message)


async def look_later(socket: WebSocket) -> None:
    """Look at the user when the client says so, and then tell a secret."""
    await socket.accept()
    await socket.join("ready")
    await socket.leave("ready")
    await socket.send_text("ready")
    async for message in socket:
        if message == "look":
            assert socket.user
            message = "secret"
        elif message == "look in a thread":
            await sync_to_async(lambda: socket.user)()
            message = "secret"
        await socket.send_message(message)


async def log_in_later(socket: WebSocket) -> None:
    """Log in with the first message, as a client does that has a token."""
    await socket.accept()
    await socket.join("ready")
    await socket.leave("ready")
    name = await socket.receive_text()
    users: Any = get_user_model().objects
    socket.request.user = await sync_to_async(users.get)(username=name)
    assert socket.user.is_authenticated
    await socket.send_text("ready")
    async for message in socket:
        await socket.send_message(message)


async def log_out_here(socket: WebSocket) -> None:
    """Log out when the client says so."""
    assert socket.user.is_authenticated
    await socket.accept()
    await socket.join("ready")
    await socket.leave("ready")
    await socket.send_text("ready")
    async for _ in socket:
        await sync_to_async(auth.logout)(socket.request)


async def log_in_by_message(socket: WebSocket) -> None:
    await socket.accept()
    users: Any = get_user_model()
    user: Any
    async for name in socket:
        if name == "anonymous":
            user = AnonymousUser()
        elif name == "inactive":
            user = users(username="inactive", is_active=False)
        else:
            user = await sync_to_async(users.objects.get)(username=name)
        try:
            await login(socket, user)
        except ValueError:
            await socket.send_text("ValueError")
        else:
            await socket.send_text(socket.user.get_username())
            break
    await socket.join("ready")
    await socket.leave("ready")
    await socket.send_text("ready")
    async for message in socket:
        await socket.send_message(message)


def change_password(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    user.set_password("another")
    user.save()
    auth.update_session_auth_hash(request, user)
    return HttpResponse()


# What happens between a handshake's look at its session and the start of its view.
meanwhile: list[Callable[[], Any]] = []


def slow(view: Any) -> Any:
    """Decorate a view with one that takes a while, in the handshake's thread."""

    @functools.wraps(view)
    def wrapper(socket: WebSocket) -> Any:
        while meanwhile:
            meanwhile.pop()()
        return view(socket)

    return wrapper


def log_in(request: HttpRequest, name: str) -> HttpResponse:
    user = get_user_model().objects.get(username=name)
    auth.login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse()


def visit(request: HttpRequest) -> HttpResponse:
    """Leave something in the session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse()


def log_out(request: HttpRequest) -> HttpResponse:
    auth.logout(request)
    return HttpResponse()


async def log_out_async(request: HttpRequest) -> HttpResponse:
    await auth.alogout(request)
    return HttpResponse()


@types.coroutine
def cancelled_at(number: int, coroutine: Any) -> Any:
    """Run a coroutine, and cancel its task when it waits for this time."""
    step = coroutine.__await__()
    try:
        future = next(step)
        for count in itertools.count():
            if count == number:
                asyncio.current_task().cancel()  # type: ignore[union-attr]
            try:
                result = yield future
            except BaseException as error:
                future = step.throw(error)
            else:
                future = step.send(result)
    except StopIteration:
        return


async def log_out_cancelled(request: HttpRequest, number: int) -> HttpResponse:
    """Be cancelled while logging out, as a view is whose client leaves; tell whether it was."""

    async def log_out() -> None:
        await cancelled_at(number, auth.alogout(request))

    task = asyncio.ensure_future(log_out())
    await asyncio.wait([task])
    await sync_to_async(int)()  # After what still runs in the thread.
    return HttpResponse(str(task.cancelled()))


# A database that takes its time to end a session.
ending, may_end = threading.Event(), threading.Event()


class SessionStore(DatabaseStore):
    def delete(self, session_key: str | None = None) -> None:
        ending.set()
        assert may_end.wait(5)
        super().delete(session_key)


class Proxy(get_user_model()):  # type: ignore[misc]
    class Meta:
        app_label = get_user_model()._meta.app_label
        proxy = True


FAST_HASHER = "django.contrib.auth.hashers.MD5PasswordHasher"

ENGINES = [
    f"django.contrib.sessions.backends.{name}"
    for name in ("db", "cached_db", "cache", "file", "signed_cookies")
]

urlpatterns = [
    path("log-in/<name>/", log_in),
    path("log-out/", log_out),
    path("log-out-async/", log_out_async),
    path("log-out-cancelled/<int:number>/", log_out_cancelled),
    path("change-password/", change_password),
    path("visit/", visit),
    websocket("anybody/", anybody),
    websocket("greet/", greet),
    websocket("here/", log_out_here),
    websocket("later/", look_later),
    websocket("log-in/", log_in_by_message),
    websocket("slow/", login_required(slow(anybody))),
    websocket("slow-anybody/", slow(look_later)),
    websocket("token/", log_in_later),
    websocket("permitted/", Permitted.as_view()),
    websocket("members/", login_required(anybody)),  # type: ignore[type-var]
]


class Disconnecting:
    def setUp(self: Any) -> None:
        super().setUp()  # type: ignore[misc]
        users: Any = get_user_model()
        create = users.objects.create_user
        self.ada = create("ada", password="pass")
        self.bob = create("bob", password="pass")
        self.last = create("last", password="pass")

    async def connected(self: Any, socket: ClientSocket) -> None:
        """Wait until a socket hears whom to disconnect."""
        self.assertEqual(await socket.receive(), "ready")

    async def assert_open(self: Any, *sockets: ClientSocket) -> None:
        """Fail where a socket is closed by what has been published so far."""
        # What is published later arrives later: with this, all before it has arrived.
        async with connect("/greet/", user=self.last) as last:
            await self.connected(last)
            await sync_to_async(disconnect)(self.last)
            await self.assert_closed(last, reason="")
        for socket in sockets:
            await socket.send_text("still here")
            self.assertEqual(await socket.receive(), "still here")

    async def assert_closed(
        self: Any, *sockets: ClientSocket, reason: str = "The login has changed."
    ) -> None:
        for socket in sockets:
            self.assertEqual(await socket.wait_closed(), 1012)
            self.assertEqual(socket.close_reason, reason)

    async def test_logging_out_closes_the_sockets_of_the_session_and_no_others(self: Any) -> None:
        phone, laptop = AsyncClient(), AsyncClient()
        async with (
            connect("/greet/", client=phone, user=self.ada) as one,
            connect("/members/", client=phone) as two,
            connect("/permitted/", client=phone) as three,
            connect("/greet/", client=laptop, user=self.ada) as other_session,
            connect("/greet/", user=self.bob) as other_user,
        ):
            for socket in (one, two, three, other_session, other_user):
                await self.connected(socket)
            await sync_to_async(phone.logout)()
            await self.assert_closed(one, two, three)
            await self.assert_open(other_session, other_user)

    async def test_sockets_that_never_looked_at_the_user_stay(self: Any) -> None:
        client = AsyncClient()
        async with (
            connect("/anybody/", client=client, user=self.ada) as socket,
            connect("/greet/", client=client) as other,
        ):
            await self.connected(socket)
            await self.connected(other)
            await sync_to_async(client.logout)()
            await self.assert_closed(other)
            await self.assert_open(socket)

    async def test_sockets_of_nobody_in_particular_stay(self: Any) -> None:
        async with connect("/greet/") as socket:
            await self.connected(socket)
            await sync_to_async(self.ada.delete)()
            await self.assert_open(socket)

    async def assert_closes(self: Any, change: Any, reason: str = "The login has changed.") -> None:
        """Make a change to Ada, and see her sockets closed, and nobody else's."""
        async with (
            connect("/greet/", user=self.ada) as one,
            connect("/members/", user=self.ada) as two,
            connect("/greet/", user=self.bob) as other_user,
        ):
            for socket in (one, two, other_user):
                await self.connected(socket)
            await sync_to_async(change)()
            await self.assert_closed(one, two, reason=reason)
            await self.assert_open(other_user)

    async def assert_closes_nothing(self: Any, change: Any) -> None:
        async with connect("/greet/", user=self.ada) as socket:
            await self.connected(socket)
            await sync_to_async(change)()
            await self.assert_open(socket)

    async def test_deactivating_a_user_closes_the_users_sockets(self: Any) -> None:
        def deactivate() -> None:
            self.ada.is_active = False
            self.ada.save()

        await self.assert_closes(deactivate)

    async def test_changing_the_password_closes_the_users_sockets(self: Any) -> None:
        def change() -> None:
            self.ada.set_password("another")
            self.ada.save()

        await self.assert_closes(change)

    async def test_changing_nothing_but_the_password_closes_the_users_sockets(self: Any) -> None:
        def change() -> None:
            self.ada.set_password("another")
            self.ada.save(update_fields=["password"])

        await self.assert_closes(change)

    async def test_deleting_a_user_closes_the_users_sockets(self: Any) -> None:
        await self.assert_closes(self.ada.delete)

    async def test_logging_in_closes_nothing(self: Any) -> None:
        await self.assert_closes_nothing(lambda: update_last_login(type(self.ada), self.ada))

    async def test_changing_anything_else_closes_nothing(self: Any) -> None:
        def rename() -> None:
            self.ada.first_name = "Ada"
            self.ada.save()
            self.ada.last_name = "Lovelace"
            self.ada.save(update_fields=["last_name"])

        await self.assert_closes_nothing(rename)

    async def test_a_change_that_is_rolled_back_closes_nothing(self: Any) -> None:
        def change_and_regret() -> None:
            with transaction.atomic():
                self.ada.is_active = False
                self.ada.save()
                transaction.set_rollback(True)

        await self.assert_closes_nothing(change_and_regret)

    async def test_a_user_can_be_disconnected(self: Any) -> None:
        await self.assert_closes(lambda: disconnect(self.ada), reason="")

    async def test_a_session_can_be_disconnected(self: Any) -> None:
        client = AsyncClient()
        async with (
            connect("/greet/", client=client, user=self.ada) as socket,
            connect("/greet/", user=self.ada) as other_session,
        ):
            await self.connected(socket)
            await self.connected(other_session)
            await sync_to_async(disconnect)(client.cookies["sessionid"].value)
            await self.assert_closed(socket, reason="")
            await self.assert_open(other_session)

    async def test_who_was_disconnected_can_connect_again_while_logged_in(self: Any) -> None:
        client = AsyncClient()
        async with connect("/greet/", client=client, user=self.ada) as socket:
            await self.connected(socket)
            await sync_to_async(disconnect)(self.ada)
            await self.assert_closed(socket, reason="")
        async with connect("/members/", client=client) as socket:
            await self.connected(socket)

    async def test_sockets_that_are_over_are_forgotten(self: Any) -> None:
        async with (
            connect("/greet/", user=self.ada) as one,
            connect("/greet/", user=self.ada) as two,
        ):
            await self.connected(one)
            await self.connected(two)
        self.assertEqual(get_watcher().logins, {})

    async def test_the_user_of_a_socket_may_be_deleted_by_its_own_view(self: Any) -> None:
        async def delete(socket: WebSocket) -> None:
            await socket.accept()
            await sync_to_async(socket.user.delete)()  # Which also takes away its primary key.
            await socket.receive()

        with serving(delete):
            async with connect("/ws/", user=self.ada) as socket:
                await self.assert_closed(socket)

    async def test_a_view_can_log_its_own_socket_out(self: Any) -> None:
        async with connect("/here/", user=self.ada) as socket:
            await self.connected(socket)
            await socket.send_text("log out")
            await self.assert_closed(socket)

    async def test_a_user_who_came_after_the_handshake_is_heard_of(self: Any) -> None:
        async with connect("/token/") as socket:
            await socket.send_text("ada")
            await self.connected(socket)
            await sync_to_async(disconnect)(self.ada)
            await self.assert_closed(socket, reason="")

    # A first look at the user long after the handshake

    async def test_a_socket_closes_when_it_first_looks_at_a_user_who_has_logged_out(
        self: Any,
    ) -> None:
        for look in ("look", "look in a thread"):
            with self.subTest(look):
                client = AsyncClient()
                async with connect("/later/", client=client, user=self.ada) as socket:
                    await self.connected(socket)
                    await sync_to_async(client.logout)()
                    await self.assert_open(socket)
                    await socket.send_text(look)
                    # Not the secret.
                    with self.assertRaises(WebSocketDisconnect) as closed:
                        await socket.receive()
                    self.assertEqual(closed.exception.code, 1012)

    async def test_a_socket_that_has_looked_late_closes_with_the_login(self: Any) -> None:
        for look in ("look", "look in a thread"):
            with self.subTest(look):
                client = AsyncClient()
                async with connect("/later/", client=client, user=self.ada) as socket:
                    await self.connected(socket)
                    await socket.send_text(look)
                    self.assertEqual(await socket.receive(), "secret")
                    await sync_to_async(client.logout)()
                    await self.assert_closed(socket)

    # A logout while a socket is being opened

    async def assert_out(self: Any, path: str, **kwargs: Any) -> None:
        """Fail where a socket can be opened and stays open."""
        try:
            async with connect(path, **kwargs) as socket:
                await self.assert_closed(socket)
        except HandshakeRefused as refused:
            self.assertEqual(refused.status_code, 403)

    async def test_a_login_that_ends_before_the_view_starts_is_over(self: Any) -> None:
        def change_password() -> None:
            self.ada.set_password("another")
            self.ada.save()

        def deactivate() -> None:
            self.ada.is_active = False
            self.ada.save()

        client = AsyncClient()
        for change in (
            client.logout,
            change_password,
            lambda: disconnect(self.ada),
            lambda: disconnect(client.cookies["sessionid"].value),
            deactivate,
            self.ada.delete,
        ):
            with self.subTest(change):
                self.ada.is_active = True
                await sync_to_async(self.ada.save)()
                await sync_to_async(client.force_login)(self.ada)
                meanwhile.append(change)
                await self.assert_out("/slow/", client=client)

    async def test_nobody_else_is_out_because_of_that(self: Any) -> None:
        other = AsyncClient()
        await sync_to_async(other.force_login)(self.ada)
        for change in (other.logout, lambda: disconnect(self.bob), self.bob.delete):
            with self.subTest(change):
                meanwhile.append(change)
                async with connect("/slow/", user=self.ada) as socket:
                    await self.connected(socket)
                    await self.assert_open(socket)

    async def test_a_socket_that_has_not_looked_by_then_closes_when_it_does(self: Any) -> None:
        client = AsyncClient()
        meanwhile.append(client.logout)
        async with connect("/slow-anybody/", client=client, user=self.ada) as socket:
            await self.connected(socket)
            await self.assert_open(socket)
            await socket.send_text("look")
            await self.assert_closed(socket)

    async def test_more_messages_than_are_kept_mean_that_the_handshake_decides_again(
        self: Any,
    ) -> None:
        watcher, heard = get_watcher(), threading.Event()

        def hear_too_much() -> None:
            message = groups.Message.encode(list(Notice("user", pks=[str(self.bob.pk)])))
            for _ in range(RECENT + 1):
                watcher.push(message)
            heard.set()

        def happen() -> None:
            watcher.loop.call_soon_threadsafe(hear_too_much)
            self.assertTrue(heard.wait(5))

        meanwhile.append(happen)
        with self.assertRaises(HandshakeRefused):
            async with connect("/slow/", user=self.ada):
                pass
        async with connect("/slow/", user=self.ada) as socket:
            await self.connected(socket)

    async def test_a_client_is_told_once_the_session_cannot_be_used_again(self: Any) -> None:
        client = AsyncClient()
        with override_settings(SESSION_ENGINE=__name__):
            may_end.set()
            await sync_to_async(client.force_login)(self.ada)
            ending.clear()
            may_end.clear()
            copy = AsyncClient()
            copy.cookies.update(client.cookies)
            async with connect("/greet/", client=client) as socket:
                await self.connected(socket)
                logout = asyncio.create_task(sync_to_async(client.logout)())
                await asyncio.to_thread(ending.wait, 5)
                await socket.send_text("still here")
                self.assertEqual(await socket.receive(), "still here")
                may_end.set()
                await self.assert_closed(socket)
                with self.assertRaises(HandshakeRefused):
                    async with connect("/members/", client=copy):
                        pass
                await logout

    # A socket closes whenever its user's rights change, and the next handshake decides

    async def test_other_groups_or_permissions_close_a_users_sockets(self: Any) -> None:
        group = await sync_to_async(Group.objects.create)(name="staff")
        other = await sync_to_async(Group.objects.create)(name="other")
        permission: Any = await sync_to_async(Permission.objects.first)()
        await sync_to_async(other.user_set.add)(self.bob)
        changes: dict[str, Callable[[], Any]] = {
            "a group": lambda: self.ada.groups.add(group),
            "a permission of the group": lambda: group.permissions.add(permission),
            "none any more": lambda: permission.group_set.clear(),
            "one again": lambda: permission.group_set.add(group),
            "no group": lambda: group.user_set.remove(self.ada),
            "all": lambda: group.user_set.set([self.ada]),
            "a deleted group": group.delete,
            "a permission of the user's": lambda: self.ada.user_permissions.add(permission),
            "nobody's permission": lambda: permission.user_set.clear(),
            "is_staff": lambda: self.change(is_staff=True),
            "is_superuser": lambda: self.change(is_superuser=True),
        }
        async with connect("/greet/", user=self.bob) as his:
            await self.connected(his)
            for name, change in changes.items():
                with self.subTest(name):
                    async with connect("/greet/", user=self.ada) as hers:
                        await self.connected(hers)
                        await sync_to_async(change)()
                        await self.assert_closed(hers)
            for change in (
                lambda: other.user_set.add(self.bob),
                lambda: self.bob.groups.add(other),
                lambda: group.permissions.remove(permission) if group.pk else None,
                lambda: permission.group_set.clear(),
            ):
                await sync_to_async(change)()
            await self.assert_open(his)
            await sync_to_async(other.permissions.add)(permission)
            await self.assert_closed(his)
        async with connect("/greet/", user=self.bob) as his:
            await self.connected(his)
            await sync_to_async(permission.delete)()
            await self.assert_closed(his)

    def change(self: Any, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self.ada, name, value)
        self.ada.save()

    async def test_users_who_change_their_password_connect_again_with_their_session(
        self: Any,
    ) -> None:
        client = AsyncClient()
        async with (
            connect("/greet/", client=client, user=self.ada) as here,
            connect("/greet/", user=self.ada) as elsewhere,
        ):
            await self.connected(here)
            await self.connected(elsewhere)
            await client.get("/change-password/")
            await self.assert_closed(here, elsewhere)
        async with connect("/members/", client=client) as socket:
            await self.connected(socket)

    async def test_a_public_page_goes_on_without_the_user(self: Any) -> None:
        client = AsyncClient()
        async with connect("/greet/", client=client, user=self.ada) as socket:
            await self.connected(socket)
            await client.get("/log-out/")
            await self.assert_closed(socket)
        async with connect("/greet/", client=client) as socket:
            await self.connected(socket)
            await self.assert_open(socket)

    @skipIf(django.VERSION < (5, 1), "LoginRequiredMiddleware came with Django 5.1")
    async def test_a_site_behind_a_login_need_not_look_at_the_user(self: Any) -> None:
        client = AsyncClient()
        middleware = "django.contrib.auth.middleware.LoginRequiredMiddleware"
        self.addCleanup(get_handler.cache_clear)
        with modify_settings(MIDDLEWARE={"append": middleware}):
            get_handler.cache_clear()
            async with connect("/anybody/", client=client, user=self.ada) as socket:
                await self.connected(socket)
                await sync_to_async(client.logout)()
                await self.assert_closed(socket)

    async def test_disconnecting_may_have_a_code_and_a_reason(self: Any) -> None:
        async with connect("/greet/", user=self.ada) as socket:
            await self.connected(socket)
            await sync_to_async(disconnect)(self.ada, 4000, "Enough, “for today”.")
            self.assertEqual(await socket.wait_closed(), 4000)
            self.assertEqual(socket.close_reason, "Enough, “for today”.")
        for code, reason in ((1005, ""), (1012, "x" * 124)):
            with self.assertRaises(ValueError):
                await sync_to_async(disconnect)(self.ada, code, reason)

    # A client may prove its identity in its first message

    async def test_a_client_that_logs_in_by_a_message_is_that_user(self: Any) -> None:
        client = AsyncClient()
        async with (
            connect("/log-in/", client=client, user=self.bob) as socket,
            connect("/log-in/") as other,
        ):
            for one in (socket, other):
                await one.send_text("ada")
                self.assertEqual(await one.receive(), "ada")
                await self.connected(one)
            await sync_to_async(disconnect)(self.bob)
            await sync_to_async(client.logout)()
            await self.assert_open(socket, other)
            with self.assertLogs("django.websocket", "INFO") as logs:
                await sync_to_async(self.change)(is_active=False)
                await self.assert_closed(socket, other)
            self.assertIn(" ada 1012 ", logs.output[-1])

    async def test_a_change_between_the_look_at_the_user_and_the_login_is_heard(self: Any) -> None:
        async def view(socket: WebSocket) -> None:
            await socket.accept()
            user = await sync_to_async(get_user_model().objects.get)(username="ada")
            await sync_to_async(self.change)(is_active=False)
            await login(socket, user)
            await socket.receive()

        with serving(view):
            async with connect("/ws/") as socket:
                await self.assert_closed(socket)

    async def test_a_view_that_reloads_its_user_does_not_keep_the_socket_of_a_thief(
        self: Any,
    ) -> None:
        async def view(socket: WebSocket) -> None:
            assert socket.user.is_authenticated
            await socket.accept()
            await socket.send_text("ready")
            async for _ in socket:
                await sync_to_async(socket.user.refresh_from_db)()
                await socket.send_text("reloaded")

        users: Any = get_user_model()

        def change_quietly() -> None:
            self.ada.set_password("another")
            users.objects.filter(pk=self.ada.pk).update(password=self.ada.password)

        with serving(view):
            async with connect("/ws/", user=self.ada) as socket:
                self.assertEqual(await socket.receive(), "ready")
                await sync_to_async(change_quietly)()
                await socket.send_text("reload")
                self.assertEqual(await socket.receive(), "reloaded")
                await sync_to_async(self.ada.save)()
                await self.assert_closed(socket)

    async def test_nobody_can_log_in_as_nobody(self: Any) -> None:
        async with connect("/log-in/") as socket:
            for name in ("anonymous", "inactive"):
                await socket.send_text(name)
                self.assertEqual(await socket.receive(), "ValueError")

    # Sessions end in many ways, and are kept in many places

    @skipIf(django.VERSION < (5,), "alogout() came with Django 5.0")
    async def test_logging_out_in_an_async_view(self: Any) -> None:
        client = AsyncClient()
        async with connect("/greet/", client=client, user=self.ada) as socket:
            await self.connected(socket)
            await client.get("/log-out-async/")
            await self.assert_closed(socket)

    @skipIf(django.VERSION < (5,), "alogout() came with Django 5.0")
    async def test_an_async_logout_that_is_cancelled_ends_both_or_neither(self: Any) -> None:
        ended = []
        for number in range(20):
            client = AsyncClient()
            async with connect("/greet/", client=client, user=self.ada) as socket:
                await self.connected(socket)
                key = client.cookies["sessionid"].value
                response = await client.get(f"/log-out-cancelled/{number}/")
                ended.append(not await sync_to_async(DatabaseStore().exists)(key))
                if ended[-1]:
                    await self.assert_closed(socket)
                else:
                    await self.assert_open(socket)
                if response.content == b"False":
                    break
        self.assertEqual(ended, sorted(ended))
        self.assertIn(False, ended)
        self.assertTrue(ended[-1])

    async def test_logging_out_closes_the_sockets_wherever_sessions_are_kept(self: Any) -> None:
        for engine in ENGINES:
            for save_every_request in (False, True):
                with (
                    self.subTest(engine, save_every_request=save_every_request),
                    override_settings(
                        SESSION_ENGINE=engine, SESSION_SAVE_EVERY_REQUEST=save_every_request
                    ),
                ):
                    phone, laptop = AsyncClient(), AsyncClient()
                    await phone.get("/log-in/ada/")
                    await laptop.get("/log-in/ada/")
                    async with (
                        connect("/greet/", client=phone) as socket,
                        connect("/greet/", client=laptop) as other_session,
                    ):
                        await self.connected(socket)
                        await self.connected(other_session)
                        await phone.get("/visit/")
                        await phone.get("/log-out/")
                        await self.assert_closed(socket)
                        await self.assert_open(other_session)

    async def test_logging_in_as_another_user_closes_the_first_users_sockets(self: Any) -> None:
        for engine in ENGINES:
            with self.subTest(engine), override_settings(SESSION_ENGINE=engine):
                client = AsyncClient()
                await client.get("/log-in/ada/")
                async with (
                    connect("/greet/", client=client) as socket,
                    connect("/greet/", user=self.ada) as other_session,
                ):
                    await self.connected(socket)
                    await self.connected(other_session)
                    await client.get("/log-in/bob/")
                    await self.assert_closed(socket)
                    async with connect("/members/", client=client) as new:
                        await self.connected(new)
                        await self.assert_open(new, other_session)

    async def test_logging_in_over_a_session_of_ones_own_closes_nothing(self: Any) -> None:
        for engine in ENGINES:
            with self.subTest(engine), override_settings(SESSION_ENGINE=engine):
                client = AsyncClient()
                await client.get("/visit/")
                await client.get("/log-in/ada/")
                async with connect("/greet/", client=client) as socket:
                    await self.connected(socket)
                    await client.get("/log-in/ada/")
                    await self.assert_open(socket)
                    await client.get("/log-out/")
                    await self.assert_closed(socket)

    async def test_a_cookie_that_holds_its_session_cannot_be_used_after_the_logout(
        self: Any,
    ) -> None:
        """The browser may open a socket before it hears that it is to delete the cookie."""
        with override_settings(SESSION_ENGINE=ENGINES[-1]):
            client = AsyncClient()
            await client.get("/log-in/ada/")
            copy = AsyncClient()
            copy.cookies.update(client.cookies)
            async with connect("/greet/", client=client) as socket:
                await self.connected(socket)
                await client.get("/log-out/")
                await self.assert_closed(socket)
            await self.assert_out("/members/", client=copy)

    async def test_a_session_in_a_cookie_can_be_disconnected_and_come_back(self: Any) -> None:
        with override_settings(SESSION_ENGINE=ENGINES[-1]):
            client = AsyncClient()
            await client.get("/log-in/ada/")
            async with connect("/greet/", client=client) as socket:
                await self.connected(socket)
                await client.get("/visit/")
                await sync_to_async(disconnect)(client.cookies["sessionid"].value)
                await self.assert_closed(socket, reason="")
            async with connect("/greet/", client=client) as socket:
                await self.connected(socket)
                await self.assert_open(socket)

    async def log_out_and_regret(self: Any, client: AsyncClient) -> None:
        def log_out_and_regret() -> None:
            with transaction.atomic():
                client.logout()
                transaction.set_rollback(True)

        await sync_to_async(log_out_and_regret)()

    async def test_a_logout_that_is_rolled_back_closes_nothing(self: Any) -> None:
        client = AsyncClient()
        async with connect("/greet/", client=client, user=self.ada) as socket:
            await self.connected(socket)
            await self.log_out_and_regret(client)
            await self.assert_open(socket)

    @override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache")
    async def test_no_transaction_brings_back_a_session_in_a_cache(self: Any) -> None:
        client = AsyncClient()
        async with connect("/greet/", client=client, user=self.ada) as socket:
            await self.connected(socket)
            await self.log_out_and_regret(client)
            await self.assert_closed(socket)

    async def test_sockets_that_are_closed_in_doubt_are_closed_one_after_the_other(
        self: Any,
    ) -> None:
        client = AsyncClient()
        async with (
            connect("/greet/", client=client, user=self.ada) as one,
            connect("/greet/", client=client) as two,
            connect("/greet/", client=client) as three,
        ):
            for socket in (one, two, three):
                await self.connected(socket)
            logins = [login for logins in get_watcher().logins.values() for login in logins]
            get_watcher().missed()
            self.assertEqual(sum(login.ending is not None for login in logins), 1)
            for socket in (one, two, three):
                self.assertEqual(await socket.wait_closed(), 1012)

    # Users can be changed by way of other models

    async def test_a_user_who_is_saved_as_a_proxy_is_heard_of(self: Any) -> None:
        def deactivate() -> None:
            proxy = Proxy.objects.get(pk=self.ada.pk)
            proxy.is_active = False
            proxy.save()

        await self.assert_closes(deactivate)

    async def test_a_user_who_is_deleted_as_a_proxy_is_heard_of(self: Any) -> None:
        await self.assert_closes(Proxy.objects.filter(pk=self.ada.pk).delete)


@override_settings(LOGIN_URL="/log-in/", PASSWORD_HASHERS=[FAST_HASHER], ROOT_URLCONF=__name__)
class DisconnectingOnMemoryTests(Disconnecting, TransactionTestCase):
    @override_settings(WEBSOCKET_REDIS_URL="")
    def test_a_process_that_serves_no_sockets_says_that_they_stay_open(self) -> None:
        with self.assertLogs("django.websocket", "WARNING") as logs:
            self.ada.save()
        [line] = logs.output
        self.assertIn("sockets stay open: this process serves none", line)


@override_settings(LOGIN_URL="/log-in/", PASSWORD_HASHERS=[FAST_HASHER], ROOT_URLCONF=__name__)
class DisconnectingOnRedisTests(Disconnecting, OnRedis, TransactionTestCase):
    async def test_neither_session_keys_nor_hashes_go_over_the_network_in_clear(self) -> None:
        from redis import Redis

        client = AsyncClient()
        await sync_to_async(client.force_login)(self.ada)
        secrets = [client.cookies["sessionid"].value, self.ada.get_session_auth_hash()]
        with Redis.from_url(self.redis.url) as server, server.pubsub() as everything:
            everything.psubscribe("*")
            await sync_to_async(self.ada.save)()
            await sync_to_async(client.logout)()
            messages: list[bytes] = []
            while len(messages) < 2:
                message = await asyncio.to_thread(everything.get_message, timeout=30)
                assert message is not None
                if message["type"] == "pmessage":
                    messages.append(message["data"])
        for secret in secrets:
            self.assertNotIn(secret.encode(), b"".join(messages))

    async def test_once_redis_is_back_the_handshakes_decide_again(self) -> None:
        client = AsyncClient()
        async with (
            connect("/greet/", client=client, user=self.ada) as hers,
            connect("/greet/", user=self.bob) as his,
            connect("/later/", user=self.bob) as later,
            connect("/greet/") as nobodys,
        ):
            for socket in (hers, his, later, nobodys):
                await self.connected(socket)
            with self.assertLogs("django.websocket", "ERROR"):
                self.redis.kill()
                await sync_to_async(client.logout)()
            self.redis.start()
            for socket in (hers, his):
                self.assertEqual(await socket.wait_closed(), 1012)
            await self.assert_open(later, nobodys)
            await later.send_text("look")
            self.assertEqual(await later.wait_closed(), 1012)

    @impatient
    async def test_a_redis_that_is_away_at_the_start_makes_only_the_first_handshake_wait(
        self,
    ) -> None:
        with self.assertLogs("django.websocket", "ERROR"):
            self.redis.kill()
            async with connect("/permitted/", user=self.ada) as first:
                await self.connected(first)
                with override_settings(WEBSOCKET_REDIS_TIMEOUT=60):
                    async with connect("/permitted/", user=self.ada) as second:
                        await self.connected(second)
                        self.redis.start()
                        for socket in (first, second):
                            self.assertEqual(await socket.wait_closed(), 1012)

    @impatient
    async def test_a_redis_that_is_away_stops_nobody_from_saving_a_user(self) -> None:
        client = AsyncClient()
        await sync_to_async(client.force_login)(self.ada)
        self.redis.kill()
        self.ada.is_active = False
        for change in (self.ada.save, client.logout, self.ada.delete):
            with self.assertLogs("django.websocket", "ERROR") as logs:
                await sync_to_async(change)()
            self.assertIn("Sockets that should be closed stay open", logs.output[0])
        with self.assertRaises(PublishError):
            await sync_to_async(disconnect)(self.bob)
