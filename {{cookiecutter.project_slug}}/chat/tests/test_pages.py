"""The chat's pages, and what reaches a room from elsewhere: the admin and the command line."""

from importlib import import_module
from importlib.util import find_spec
from unittest import mock, skipIf, skipUnless

import django
from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.management import CommandError, call_command
from django.test import TestCase, TransactionTestCase, override_settings

from chat.models import Message, Room
from chat.tests.test_room import next_event, read_messages
from users.models import User
from websocket.testing import connect


class PageTests(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        # As after migrating, also if a TransactionTestCase before has emptied the tables.
        Room.objects.all().delete()
        import_module("chat.migrations.0002_lobby").add_lobby(apps, None)

    def setUp(self) -> None:
        self.ada = User.objects.create_user("ada", password="secret")

    def test_there_is_a_room_to_begin_with(self) -> None:
        self.client.force_login(self.ada)
        self.assertContains(self.client.get("/chat/"), 'href="/chat/rooms/lobby/"')
        self.assertContains(self.client.get("/chat/rooms/lobby/"), "Lobby")

    def test_a_room_is_listed_with_what_was_said_last(self) -> None:
        room = Room.objects.get()
        for text in ("First", "<b>Last</b>"):
            Message.objects.create(room=room, user=self.ada, text=text)
        self.client.force_login(self.ada)
        response = self.client.get("/chat/")
        self.assertContains(response, "ada: &lt;b&gt;Last&lt;/b&gt;")
        self.assertNotContains(response, "First")

    def test_the_pages_are_for_those_who_are_logged_in(self) -> None:
        for page in ("/chat/", "/chat/rooms/lobby/"):
            self.assertRedirects(self.client.get(page), f"/chat/login/?next={page}")

    def test_only_in_development_the_login_page_says_how_to_make_a_user(self) -> None:
        self.assertNotContains(self.client.get("/chat/login/"), "createsuperuser")
        with override_settings(DEBUG=True):
            self.assertContains(self.client.get("/chat/login/"), "createsuperuser")

    def test_logging_in_leads_to_where_one_was_going(self) -> None:
        page = "/chat/login/?next=/chat/rooms/lobby/"
        wrong = self.client.post(page, {"username": "ada", "password": "wrong"})
        self.assertContains(wrong, "Please enter a correct username and password")
        right = self.client.post(page, {"username": "ada", "password": "secret"})
        self.assertRedirects(right, "/chat/rooms/lobby/")

    def test_logging_out_leads_to_the_login(self) -> None:
        self.client.force_login(self.ada)
        self.assertRedirects(self.client.post("/chat/logout/"), "/chat/login/")
        self.assertRedirects(self.client.get("/chat/"), "/chat/login/?next=/chat/")


class FromElsewhereTests(TransactionTestCase):
    """With transactions that are committed: deleting a message is told after that."""

    def setUp(self) -> None:
        self.admin = User.objects.create_superuser("admin")
        self.room = Room.objects.create(name="Den", slug="den")

    @skipIf(django.VERSION < (3, 2), "Older Djangos need the name of an AppConfig, not of an app.")
    async def test_a_message_deleted_in_the_admin_disappears_from_open_pages(self) -> None:
        message = await sync_to_async(Message.objects.create)(
            room=self.room, user=self.admin, text="Oops"
        )
        await sync_to_async(self.client.force_login)(self.admin)
        async with connect("/chat/rooms/den/ws/", user=self.admin) as socket:
            await read_messages(socket)
            chosen = {"action": "delete_selected", "_selected_action": message.pk, "post": "yes"}
            await sync_to_async(self.client.post)("/admin/chat/message/", chosen)
            event = await next_event(socket)
        self.assertEqual(event, {"type": "removed", "id": message.pk})
        self.assertFalse(await sync_to_async(Message.objects.exists)())

    async def test_the_command_announces_something_that_is_not_stored(self) -> None:
        async with connect("/chat/rooms/den/ws/", user=self.admin) as socket:
            await read_messages(socket)
            await sync_to_async(call_command)("announce", "den", "Back in five minutes")
            event = await next_event(socket)
        self.assertEqual(event, {"type": "announcement", "text": "Back in five minutes"})
        self.assertFalse(await sync_to_async(Message.objects.exists)())

    def test_the_command_says_which_room_there_is_not(self) -> None:
        with (
            mock.patch("websocket.groups.can_publish", return_value=True),
            self.assertRaisesMessage(CommandError, "There is no room 'attic'."),
        ):
            call_command("announce", "attic", "Hello?")

    def test_the_command_says_when_it_cannot_reach_the_sockets(self) -> None:
        with (
            mock.patch("websocket.groups.can_publish", return_value=False),
            self.assertRaisesMessage(CommandError, "set REDIS_URL"),
        ):
            call_command("announce", "den", "Hello?")

    @skipUnless(find_spec("redis"), "needs pip install -e '.[redis]'")
    @override_settings(WEBSOCKET_REDIS_TIMEOUT=0.1, WEBSOCKET_REDIS_URL="redis://127.0.0.1:1")
    def test_the_command_says_when_redis_is_away(self) -> None:
        with self.assertRaisesMessage(CommandError, "Redis did not take a message"):
            call_command("announce", "den", "Hello?")
