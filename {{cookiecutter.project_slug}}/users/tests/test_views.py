import datetime
from unittest import mock

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import SimpleTestCase, TestCase, override_settings
from django.urls import reverse
from django.utils.html import escape

from users.models import User
from websocket import sweep
from websocket.testing import connect


class IndexTests(SimpleTestCase):
    async def test_the_index_page_says_what_to_run_where_there_are_no_sockets(self):
        advice = "This server speaks no WebSockets."
        self.assertContains(await sync_to_async(self.client.get)(reverse("index")), advice)
        self.assertNotContains(await self.async_client.get(reverse("index")), advice)

    def test_the_index_page_knows_its_sockets(self):
        response = self.client.get(reverse("index"))
        self.assertTemplateUsed(response, "index.html")
        self.assertContains(response, escape(settings.PROJECT_NAME))
        self.assertContains(response, f'"{reverse("echo")}"')
        self.assertContains(response, f'"{reverse("clock")}"')


class EchoTests(SimpleTestCase):
    async def test_every_message_comes_back_as_it_was_sent(self):
        async with connect(reverse("echo")) as client:
            for text in ("hello", "", "<b>é</b>"):
                await client.send_text(text)
                self.assertEqual(await client.receive_text(), text)
            for data in (b"hello", b"", b"\0\xff"):
                await client.send_bytes(data)
                self.assertEqual(await client.receive_bytes(), data)

    async def test_a_client_that_leaves_is_no_error(self):
        with self.assertNoLogs("django.request"):
            async with connect(reverse("echo")) as client:
                await client.send_text("hello")
                await client.close(1001)
                self.assertEqual(await client.wait_closed(), 1001)


@override_settings(WEBSOCKET_DISCONNECT_GRACE=0.05)
@mock.patch.object(sweep, "INTERVAL", 0.01)
class ClockTests(TestCase):
    user: User

    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")

    async def test_the_time_is_pushed_to_a_client_that_says_nothing(self):
        async with connect(reverse("clock")) as client:
            tick = await client.receive_json()
            datetime.datetime.fromisoformat(tick["time"])
            self.assertEqual(tick["user"], "")

    async def test_the_clock_knows_who_is_asking(self):
        async with connect(reverse("clock"), user=self.user) as client:
            self.assertEqual((await client.receive_json())["user"], "ada")
