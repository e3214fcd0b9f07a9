"""Who logs out, is deactivated, changes the password or is deleted loses the open sockets."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import PermissionRequiredMixin
from django.contrib.auth.models import update_last_login
from django.db import transaction
from django.test import AsyncClient, TransactionTestCase, override_settings

from websocket.auth import disconnect
from websocket.connection import WebSocket
from websocket.groups import PublishError, get_hub
from websocket.testing import ClientSocket, connect
from websocket.tests.redis_server import OnRedis
from websocket.urls import websocket
from websocket.views import WebSocketView


async def anybody(socket: WebSocket) -> None:
    """Echo, and never look at the user."""
    await socket.accept()
    # Over Redis, who is in one group is in all that were joined before.
    await socket.join("ready")
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


FAST_HASHER = "django.contrib.auth.hashers.MD5PasswordHasher"

urlpatterns = [
    websocket("anybody/", anybody),
    websocket("greet/", greet),
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
            await self.assert_closed(last)
        for socket in sockets:
            await socket.send_text("still here")
            self.assertEqual(await socket.receive(), "still here")

    async def assert_closed(self: Any, *sockets: ClientSocket) -> None:
        for socket in sockets:
            self.assertEqual(await socket.wait_closed(), 3000)
            self.assertEqual(socket.close_reason, "Logged out.")

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

    async def assert_closes(self: Any, change: Any) -> None:
        """Make a change to Ada, and see her sockets closed, and nobody else's."""
        async with (
            connect("/greet/", user=self.ada) as one,
            connect("/members/", user=self.ada) as two,
            connect("/greet/", user=self.bob) as other_user,
        ):
            for socket in (one, two, other_user):
                await self.connected(socket)
            await sync_to_async(change)()
            await self.assert_closed(one, two)
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
            self.ada.is_staff = True
            self.ada.save(update_fields=["is_staff"])

        await self.assert_closes_nothing(rename)

    async def test_a_change_that_is_rolled_back_closes_nothing(self: Any) -> None:
        def change_and_regret() -> None:
            with transaction.atomic():
                self.ada.is_active = False
                self.ada.save()
                transaction.set_rollback(True)

        await self.assert_closes_nothing(change_and_regret)

    async def test_a_user_can_be_disconnected(self: Any) -> None:
        await self.assert_closes(lambda: disconnect(self.ada))

    async def test_a_session_can_be_disconnected(self: Any) -> None:
        client = AsyncClient()
        async with (
            connect("/greet/", client=client, user=self.ada) as socket,
            connect("/greet/", user=self.ada) as other_session,
        ):
            await self.connected(socket)
            await self.connected(other_session)
            await sync_to_async(disconnect)(client.cookies["sessionid"].value)
            await self.assert_closed(socket)
            await self.assert_open(other_session)

    async def test_who_was_disconnected_can_connect_again_while_logged_in(self: Any) -> None:
        client = AsyncClient()
        async with connect("/greet/", client=client, user=self.ada) as socket:
            await self.connected(socket)
            await sync_to_async(disconnect)(self.ada)
            await self.assert_closed(socket)
        async with connect("/members/", client=client) as socket:
            await self.connected(socket)

    async def test_sockets_that_are_over_are_forgotten(self: Any) -> None:
        async with connect("/greet/", user=self.ada) as socket:
            await self.connected(socket)
        self.assertEqual(get_hub().members, {})


@override_settings(ROOT_URLCONF=__name__, PASSWORD_HASHERS=[FAST_HASHER])
class DisconnectingOnMemoryTests(Disconnecting, TransactionTestCase):
    pass


@override_settings(ROOT_URLCONF=__name__, PASSWORD_HASHERS=[FAST_HASHER])
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
                message = await asyncio.to_thread(everything.get_message, timeout=5)
                assert message is not None
                if message["type"] == "pmessage":
                    messages.append(message["data"])
        for secret in secrets:
            self.assertNotIn(secret.encode(), b"".join(messages))

    @override_settings(WEBSOCKET_REDIS_TIMEOUT=0.3)
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
