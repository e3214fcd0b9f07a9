import asyncio
import datetime
import inspect
import threading
import time
import uuid
from importlib.util import find_spec
from typing import Any
from unittest import mock, skipUnless

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.shortcuts import resolve_url
from django.test import SimpleTestCase, TestCase, override_settings
from django.urls import reverse
from django.utils.html import escape

from users import views
from users.models import Note, User
from websocket import sweep
from websocket.testing import ClientSocket, connect


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
        self.assertContains(response, f'"{reverse("wall")}"')

    def test_the_page_shows_the_code_of_its_sockets_while_debug_is_on(self):
        code = escape(inspect.getsource(views.echo).rstrip())
        self.assertNotContains(self.client.get(reverse("index")), code)
        with override_settings(DEBUG=True):
            self.assertContains(self.client.get(reverse("index")), code)

    def test_the_page_leads_to_the_login_and_back(self):
        login = f'{resolve_url(settings.LOGIN_URL)}?next={reverse("index")}"'
        self.assertContains(self.client.get(reverse("index")), login)


class LoggedInTests(TestCase):
    def test_one_who_is_logged_in_can_log_out_and_is_back(self):
        self.client.force_login(get_user_model().objects.create_user("ada"))
        response = self.client.get(reverse("index"))
        self.assertContains(response, f'action="{reverse("logout")}"')
        self.assertContains(response, '<span class="hint">ada</span>', html=True)
        self.assertRedirects(self.client.post(reverse("logout")), reverse("index"))
        self.assertNotContains(self.client.get(reverse("index")), "Log out")


async def next_event(socket: ClientSocket, *names: str) -> Any:
    """Return the next of the wall's events that has one of these names."""
    while not set(names) & set(event := await socket.receive_json()):
        pass
    return event


class WallTests(TestCase):
    user: User

    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")

    def setUp(self):
        # Redis remembers for some seconds who was here, and so from one test to the next.
        wall = mock.patch.object(views, "WALL", f"users.wall.{uuid.uuid4()}")
        self.enterContext(wall)

    async def test_all_who_look_read_what_one_writes(self):
        async with connect(reverse("wall")) as one, connect(reverse("wall")) as other:
            author = (await next_event(one, "me"))["me"]
            await next_event(other, "me")
            await one.send_text("<b>Hello</b>")
            for socket in (one, other):
                note = (await next_event(socket, "note"))["note"]
                self.assertEqual((note["text"], note["author"]), ("<b>Hello</b>", author))
        async with connect(reverse("wall")) as late:
            notes = (await next_event(late, "me"))["notes"]
            self.assertEqual([note["text"] for note in notes], ["<b>Hello</b>"])

    async def test_the_wall_knows_who_is_here(self):
        async with connect(reverse("wall")) as one:
            first = await next_event(one, "me")
            self.assertEqual(first["here"], [first["me"]])
            async with connect(reverse("wall")) as other:
                second = await next_event(other, "me")
                self.assertCountEqual(second["here"], [first["me"], second["me"]])
                while (await next_event(one, "joined"))["joined"] != second["me"]:
                    pass
            self.assertEqual((await next_event(one, "left"))["left"], second["me"])

    async def test_two_windows_of_a_user_are_one_visitor_whose_name_stays_hidden(self):
        async with (
            connect(reverse("wall"), user=self.user) as one,
            connect(reverse("wall"), user=self.user) as other,
        ):
            me = (await next_event(one, "me"))["me"]
            self.assertEqual((await next_event(other, "me"))["here"], [me])
            self.assertNotIn(me, (str(self.user.pk), self.user.username))

    async def test_a_note_has_1_to_140_characters(self):
        for text in ("", " ", "\0", " \0 ", "x" * 141):
            async with connect(reverse("wall")) as socket:
                await socket.send_text(text)
                self.assertEqual(await socket.wait_closed(), 1003)
                self.assertEqual(socket.close_reason, "Send 1 to 140 characters.")
        async with connect(reverse("wall")) as socket:
            await socket.send_text("x" * 140)
            note = (await next_event(socket, "note"))["note"]
            self.assertEqual(note["text"], "x" * 140)

    async def test_the_spaces_around_a_note_and_nul_characters_are_neither_counted_nor_stored(self):
        async with connect(reverse("wall")) as socket:
            await socket.send_text(f" \0 {'x' * 139}\0y \n")
            note = (await next_event(socket, "note"))["note"]
            self.assertEqual(note["text"], "x" * 139 + "y")
        self.assertEqual((await sync_to_async(Note.objects.get)()).text, note["text"])

    async def test_a_note_is_shown_even_if_its_view_is_cancelled_meanwhile(self):
        loop, cancelled = asyncio.get_running_loop(), threading.Event()

        def cancel() -> None:
            task.cancel()
            cancelled.set()

        def create_and_cancel(**values: Any) -> Note:
            note: Note = create(**values)
            loop.call_soon_threadsafe(cancel)
            assert cancelled.wait(5)
            return note

        create = Note.objects.create
        async with connect(reverse("wall")) as socket:
            await next_event(socket, "me")
            with mock.patch.object(Note.objects, "create", create_and_cancel):
                task = asyncio.ensure_future(views.post("abcdef", "Bye!"))
                await asyncio.wait([task])
            self.assertTrue(task.cancelled())
            self.assertEqual((await next_event(socket, "note"))["note"]["text"], "Bye!")

    async def test_the_wall_holds_the_last_twenty_notes(self):
        for number in range(25):
            await views.post("abcdef", str(number))
        async with connect(reverse("wall")) as socket:
            notes = (await next_event(socket, "me"))["notes"]
        self.assertEqual([note["text"] for note in notes], [str(n) for n in range(5, 25)])
        self.assertEqual(await sync_to_async(Note.objects.count)(), 20)

    async def test_a_socket_writes_one_note_a_second_and_is_still_told_of_the_others(self):
        async with connect(reverse("wall")) as fast, connect(reverse("wall")) as other:
            start = time.monotonic()
            for text in ("first", "second"):
                await fast.send_text(text)
            self.assertEqual((await next_event(fast, "note"))["note"]["text"], "first")
            await other.send_text("from elsewhere")
            self.assertEqual((await next_event(fast, "note"))["note"]["text"], "from elsewhere")
            self.assertEqual((await next_event(fast, "note"))["note"]["text"], "second")
            self.assertGreaterEqual(time.monotonic() - start, 1)

    @skipUnless(find_spec("redis"), "needs pip install -e '.[redis]'")
    @override_settings(WEBSOCKET_REDIS_TIMEOUT=0.1, WEBSOCKET_REDIS_URL="redis://127.0.0.1:1")
    async def test_while_redis_is_away_the_page_is_to_come_back_later(self):
        with self.assertLogs("django.websocket", "ERROR"), self.assertNoLogs("django.request"):
            async with connect(reverse("wall")) as socket:
                self.assertEqual(await socket.wait_closed(), 1013)


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
