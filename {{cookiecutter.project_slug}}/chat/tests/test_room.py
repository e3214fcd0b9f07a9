"""What a room's socket sends, stores, passes on and refuses."""

import asyncio
import json
import threading
import uuid
from importlib.util import find_spec
from typing import Any
from unittest import mock, skipIf, skipUnless

import django
from asgiref.sync import sync_to_async
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from chat.forms import MessageForm
from chat.models import LAST, Message, Room
from chat.views import store
from users.models import User
from websocket.groups import PublishError, publish
from websocket.testing import ClientSocket, HandshakeRefused, connect

SOCKET = "/chat/rooms/den/ws/"


async def next_event(socket: ClientSocket) -> Any:
    """Return the next event that is not about who comes and goes."""
    while (event := await receive_event(socket))["type"] in ("joined", "left"):
        pass
    return event


async def next_of(socket: ClientSocket, kind: str) -> Any:
    """Return the next event of this type."""
    while (event := await receive_event(socket))["type"] != kind:
        pass
    return event


async def receive_event(socket: ClientSocket) -> Any:
    """Return the next event; of a client that resumes, without the line before it."""
    text = ""
    while not text.endswith("}"):
        text = await socket.receive_text()
    return json.loads(text.rpartition("\n")[2])


async def read_messages(socket: ClientSocket) -> list[str] | None:
    """Return the texts that a socket begins with, or None if it has them."""
    event = await next_event(socket)
    assert event["type"] == "state"
    return event["messages"] and [message["text"] for message in event["messages"]]


async def read_position(socket: ClientSocket) -> str:
    """Return what a client that resumes sends when it comes back."""
    position = ""
    while "-" not in position:
        position = await socket.receive_text()
    return f"{await socket.receive_text()},{position}"


async def say(socket: ClientSocket, text: str, key: str | None = None) -> None:
    await socket.send_json({"type": "say", "text": text, "key": key or uuid.uuid4().hex})


def forget_who_was_there(test: SimpleTestCase) -> None:
    """Give the test groups that no other test had, though rooms have the same keys in each."""
    # Redis remembers for some seconds who was there, and for longer what was said.
    prefix = f"{uuid.uuid4()}:"
    test.enterContext(override_settings(WEBSOCKET_REDIS_PREFIX=prefix))


class RoomTests(TestCase):
    ada: User
    grace: User
    room: Room

    @classmethod
    def setUpTestData(cls) -> None:
        cls.ada = User.objects.create_user("ada")
        cls.grace = User.objects.create_user("grace")
        cls.room = Room.objects.create(name="Den", slug="den")

    def setUp(self) -> None:
        forget_who_was_there(self)

    def stored(self, *texts: str) -> list[Message]:
        return [Message.objects.create(room=self.room, user=self.ada, text=text) for text in texts]

    async def test_what_one_says_all_in_the_room_hear(self) -> None:
        async with connect(SOCKET, user=self.ada) as ada, connect(SOCKET, user=self.grace) as grace:
            await read_messages(ada)
            await read_messages(grace)
            await say(ada, "Hello!")
            for socket in (ada, grace):
                event = await next_event(socket)
                self.assertEqual(event["type"], "message")
                self.assertEqual((event["user"], event["text"]), ("ada", "Hello!"))
        message = await sync_to_async(Message.objects.get)()
        self.assertEqual((message.room_id, message.user_id), (self.room.pk, self.ada.pk))

    @skipIf(django.VERSION < (3, 2), "Older Djangos need the name of an AppConfig, not of an app.")
    async def test_all_in_the_room_see_who_is_there(self) -> None:
        async with connect(SOCKET, user=self.ada) as ada:
            here = {str(self.ada.pk): {"name": "ada"}}
            self.assertEqual((await next_of(ada, "state"))["here"], here)
            async with connect(SOCKET, user=self.grace) as grace:
                here[str(self.grace.pk)] = {"name": "grace"}
                self.assertEqual((await next_of(grace, "state"))["here"], here)
                while (await next_of(ada, "joined"))["user_id"] != str(self.grace.pk):
                    pass

    async def test_nobody_hears_what_is_said_in_another_room(self) -> None:
        await sync_to_async(Room.objects.create)(name="Attic", slug="attic")
        async with (
            connect(SOCKET, user=self.ada) as ada,
            connect("/chat/rooms/attic/ws/", user=self.grace) as grace,
        ):
            await read_messages(ada)
            await read_messages(grace)
            await say(ada, "In the den")
            await say(grace, "In the attic")
            self.assertEqual((await next_event(grace))["text"], "In the attic")

    async def test_the_last_messages_are_there_when_one_comes_in(self) -> None:
        await sync_to_async(self.stored)(*(str(number) for number in range(LAST + 5)))
        async with connect(SOCKET, user=self.grace) as socket:
            texts = await read_messages(socket)
        self.assertEqual(texts, [str(number) for number in range(5, LAST + 5)])

    async def test_typing_and_coming_and_going_leave_the_history_to_the_messages(self) -> None:
        async with connect(f"{SOCKET}?resume", user=self.grace) as grace:
            await read_messages(grace)
            before = await read_position(grace)
            async with connect(SOCKET, user=self.ada) as ada:
                await read_messages(ada)
                await ada.send_json({"type": "typing"})
                self.assertEqual((await next_event(grace))["type"], "typing")
        async with connect(f"{SOCKET}?resume={before}", user=self.grace) as grace:
            after = await read_position(grace)
            self.assertIsNone(await read_messages(grace))
        self.assertEqual(before.split(",")[1], after.split(",")[1])

    async def test_what_is_said_while_the_state_loads_is_not_missed(self) -> None:
        def load_slowly(room: Room, load: Any = Room.last_messages) -> list[dict[str, Any]]:
            messages: list[dict[str, Any]] = load(room)
            publish(room.group, {"type": "message", "text": "meanwhile"})
            return messages

        with mock.patch.object(Room, "last_messages", load_slowly):
            async with connect(SOCKET, user=self.grace) as socket:
                events = [await next_event(socket) for _ in range(2)]
                # The order is the page's business.
                self.assertCountEqual([e["type"] for e in events], ["message", "state"])

    async def test_a_message_that_is_sent_twice_is_stored_once(self) -> None:
        key = uuid.uuid4().hex
        async with connect(SOCKET, user=self.ada) as socket:
            await read_messages(socket)
            await say(socket, "Once", key)
            self.assertEqual((await next_event(socket))["key"], key)
            await say(socket, "Once", key)
            event = await next_event(socket)
        self.assertEqual(event["errors"]["key"][0]["code"], "unique")
        self.assertEqual(await sync_to_async(Message.objects.count)(), 1)

    async def test_what_the_form_refuses_only_its_author_hears_of(self) -> None:
        refusals = {"": "required", " \n": "required", "x" * 501: "max_length"}
        async with connect(SOCKET, user=self.ada) as ada, connect(SOCKET, user=self.grace) as grace:
            await read_messages(ada)
            await read_messages(grace)
            for text, code in refusals.items():
                await say(ada, text)
                event = await next_event(ada)
                self.assertEqual(event["type"], "errors")
                self.assertEqual(event["errors"]["text"][0]["code"], code)
            await say(ada, "At last")
            self.assertEqual((await next_event(grace))["text"], "At last")
        self.assertEqual(await sync_to_async(Message.objects.count)(), 1)

    async def test_half_a_surrogate_pair_does_no_harm(self) -> None:
        async with connect(SOCKET, user=self.ada) as socket:
            await read_messages(socket)
            await say(socket, "\ud83d!")
            self.assertEqual((await next_event(socket))["text"], "?!")

    async def test_a_typing_hint_reaches_the_others_and_is_not_stored(self) -> None:
        async with connect(SOCKET, user=self.ada) as ada, connect(SOCKET, user=self.grace) as grace:
            await read_messages(ada)
            await read_messages(grace)
            await ada.send_json({"type": "typing"})
            await say(ada, "Done")
            hint = {"type": "typing", "user": "ada", "user_id": self.ada.pk}
            self.assertEqual(await next_event(grace), hint)
            self.assertEqual((await next_event(ada))["type"], "message")
        self.assertEqual(await sync_to_async(Message.objects.count)(), 1)

    async def test_what_is_no_message_of_the_page_closes_its_socket(self) -> None:
        unknown: list[Any] = [1, [], {}, {"type": "shout"}, {"type": "say", "text": 1, "key": "k"}]
        for data in unknown:
            async with connect(SOCKET, user=self.ada) as socket:
                await read_messages(socket)
                await socket.send_json(data)
                self.assertEqual(await socket.wait_closed(), 1003)

    async def test_strangers_are_sent_to_the_login(self) -> None:
        with self.assertRaises(HandshakeRefused) as caught:
            async with connect(SOCKET):
                pass
        self.assertEqual(caught.exception.status_code, 302)
        self.assertEqual(caught.exception.headers["Location"], f"/chat/login/?next={SOCKET}")

    async def test_a_room_that_is_not_there_is_not_found(self) -> None:
        with self.assertRaises(HandshakeRefused) as caught:
            async with connect("/chat/rooms/nowhere/ws/", user=self.ada):
                pass
        self.assertEqual(caught.exception.status_code, 404)


class CommittedTests(TransactionTestCase):
    """With transactions that are committed, as between two servers."""

    def setUp(self) -> None:
        forget_who_was_there(self)
        self.ada = User.objects.create_user("ada")
        self.room = Room.objects.create(name="Den", slug="den")

    @skipIf(django.VERSION < (3, 2), "Older Djangos need the name of an AppConfig, not of an app.")
    async def test_one_who_comes_back_gets_what_was_missed_and_no_more(self) -> None:
        async with connect(f"{SOCKET}?resume", user=self.ada) as page:
            self.assertEqual(await read_messages(page), [])
            resume = await read_position(page)
        async with connect(SOCKET, user=self.ada) as ada:
            await read_messages(ada)
            for number in range(3):
                await say(ada, str(number))
                message = await next_event(ada)
            await sync_to_async(Message.objects.filter(pk=message["id"]).delete)()
        async with connect(f"{SOCKET}?resume={resume}", user=self.ada) as page:
            missed = [await next_event(page) for _ in range(4)]
            self.assertEqual([event.get("text") for event in missed[:3]], ["0", "1", "2"])
            self.assertEqual(missed[3], {"type": "removed", "id": message["id"]})
            self.assertIsNone(await read_messages(page))

    async def test_who_talks_in_a_room_that_was_deleted_is_told_that_it_is_gone(self) -> None:
        async with connect(SOCKET, user=self.ada) as socket:
            await read_messages(socket)
            await sync_to_async(self.room.delete)()
            await say(socket, "Anybody here?")
            self.assertEqual(await socket.wait_closed(), 1008)
            self.assertEqual(socket.close_reason, "This room is gone.")

    async def test_it_is_no_error_if_the_room_is_deleted_while_a_message_is_stored(self) -> None:
        def delete_and_save(form: MessageForm, save: Any = MessageForm.save) -> None:
            Room.objects.all().delete()
            save(form)

        async with connect(SOCKET, user=self.ada) as socket:
            await read_messages(socket)
            with mock.patch.object(MessageForm, "save", delete_and_save):
                await say(socket, "Anybody here?")
                self.assertEqual(await socket.wait_closed(), 1008)

    async def test_it_is_no_error_if_the_user_is_deleted_while_a_message_is_stored(self) -> None:
        def delete_and_save(form: MessageForm, save: Any = MessageForm.save) -> None:
            User.objects.all().delete()
            save(form)

        async with connect(SOCKET, user=self.ada) as socket:
            await read_messages(socket)
            with mock.patch.object(MessageForm, "save", delete_and_save):
                await say(socket, "Am I still here?")
                self.assertEqual(await socket.wait_closed(), 1012)

    async def test_a_key_that_another_connection_stores_meanwhile_is_taken(self) -> None:
        key = uuid.uuid4().hex

        def store_and_save(form: MessageForm, save: Any = MessageForm.save) -> None:
            Message.objects.create(room=self.room, user=self.ada, text="Once", key=key)
            save(form)

        async with connect(SOCKET, user=self.ada) as socket:
            await read_messages(socket)
            with mock.patch.object(MessageForm, "save", store_and_save):
                await say(socket, "Once", key)
                event = await next_event(socket)
        self.assertEqual(event["errors"]["key"][0]["code"], "unique")
        self.assertEqual(await sync_to_async(Message.objects.count)(), 1)

    async def test_a_message_is_published_even_if_its_view_is_cancelled_meanwhile(self) -> None:
        async with connect(SOCKET, user=self.ada) as socket:
            await read_messages(socket)
            loop, cancelled = asyncio.get_running_loop(), threading.Event()

            def cancel() -> None:
                task.cancel()
                cancelled.set()

            def save_and_cancel(form: MessageForm, save: Any = MessageForm.save) -> Message:
                message: Message = save(form)
                loop.call_soon_threadsafe(cancel)
                assert cancelled.wait(5)
                return message

            data = {"type": "say", "text": "Bye!", "key": uuid.uuid4().hex}
            with mock.patch.object(MessageForm, "save", save_and_cancel):
                task = asyncio.ensure_future(store(self.room, self.ada, data))
                await asyncio.wait([task])
            self.assertTrue(task.cancelled())
            self.assertEqual((await next_event(socket))["text"], "Bye!")

    async def test_a_user_who_was_renamed_speaks_under_the_new_name(self) -> None:
        async with connect(SOCKET, user=self.ada) as socket:
            await read_messages(socket)
            await sync_to_async(User.objects.filter(pk=self.ada.pk).update)(username="ada.lovelace")
            await say(socket, "Hello!")
            event = await next_event(socket)
        self.assertEqual((event["user"], event["user_id"]), ("ada.lovelace", self.ada.pk))


@skipUnless(find_spec("redis"), "needs pip install -e '.[redis]'")
@override_settings(WEBSOCKET_REDIS_TIMEOUT=0.1, WEBSOCKET_REDIS_URL="redis://127.0.0.1:1")
class WithoutRedisTests(TransactionTestCase):
    async def test_while_redis_is_away_a_page_is_to_come_back_later(self) -> None:
        ada = await sync_to_async(User.objects.create_user)("ada")
        await sync_to_async(Room.objects.create)(name="Den", slug="den")
        with self.assertLogs("django.websocket", "ERROR"), self.assertNoLogs("django.request"):
            async with connect(SOCKET, user=ada) as socket:
                self.assertEqual(await socket.wait_closed(), 1013)

    @skipIf(django.VERSION < (3, 2), "Older Djangos need the name of an AppConfig, not of an app.")
    async def test_a_message_that_nobody_could_be_told_of_is_not_kept(self) -> None:
        """The page sends it again, and then it is stored and told."""
        ada = await sync_to_async(User.objects.create_user)("ada")
        room = await sync_to_async(Room.objects.create)(name="Den", slug="den")
        data = {"type": "say", "text": "Hello!", "key": uuid.uuid4().hex}
        with self.assertLogs("chat.signals", "ERROR"), self.assertRaises(PublishError):
            await store(room, ada, data)
        self.assertFalse(await sync_to_async(Message.objects.exists)())
