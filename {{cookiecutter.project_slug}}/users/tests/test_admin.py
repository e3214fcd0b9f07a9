"""The admin's action that closes the sockets of users."""

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission
from django.test import TransactionTestCase, override_settings

from project.urls import urlpatterns as site
from users.models import User
from websocket.connection import WebSocket
from websocket.testing import connect
from websocket.urls import websocket


async def greet(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(f"hello, {socket.user.get_username()}")
    async for message in socket:
        await socket.send_message(message)


urlpatterns = [*site, websocket("greet/", greet)]


@override_settings(ROOT_URLCONF=__name__)
class CloseSocketsTests(TransactionTestCase):
    def setUp(self) -> None:
        self.ada = User.objects.create(username="ada")
        self.bob = User.objects.create(username="bob")
        self.staff = User.objects.create(username="staff", is_staff=True)

    @sync_to_async
    def permit(self, *codenames: str) -> None:
        permissions = Permission.objects.filter(codename__in=codenames)
        self.staff.user_permissions.set(permissions)

    @sync_to_async
    def choose(self, *users: User) -> int:
        """Choose the action for some users, as the admin's list of users sends it."""
        self.client.force_login(self.staff)
        data = {"action": "close_sockets", "_selected_action": [user.pk for user in users]}
        return self.client.post("/admin/users/user/", data).status_code

    async def test_the_sockets_of_the_selected_users_are_closed(self) -> None:
        await self.permit("view_user", "change_user")
        async with (
            connect("/greet/", user=self.ada) as ada,
            connect("/greet/", user=self.bob) as bob,
        ):
            for socket in (ada, bob):
                await socket.receive()
            self.assertEqual(await self.choose(self.ada), 302)
            self.assertEqual(await ada.wait_closed(), 1012)
            await bob.send_text("still here")
            self.assertEqual(await bob.receive(), "still here")

    async def test_who_may_not_change_users_may_not_close_their_sockets(self) -> None:
        await self.permit("view_user")
        async with connect("/greet/", user=self.ada) as ada:
            await ada.receive()
            await self.choose(self.ada)
            await ada.send_text("still here")
            self.assertEqual(await ada.receive(), "still here")
