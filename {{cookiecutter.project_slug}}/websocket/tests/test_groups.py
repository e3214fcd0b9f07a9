"""Groups: the same on memory and on Redis, and what is different about each."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import os
import subprocess
import sys
import threading
import time
import uuid
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, call_command
from django.db import transaction
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.test import (
    AsyncClient,
    SimpleTestCase,
    TransactionTestCase,
    override_settings,
)
from django.urls import path
from django.utils.translation import gettext_lazy

from websocket import groups
from websocket.connection import WebSocket, WebSocketDisconnect
from websocket.groups import apublish, close_hub, get_hub, history, publish, subscribe
from websocket.groups.history import History, Kept
from websocket.groups.memory import hubs
from websocket.groups.subscription import Mailbox
from websocket.testing import connect, listen
from websocket.tests.redis_server import OnRedis
from websocket.tests.wire import connect_to
from websocket.urls import websocket

# A site with rooms


async def room(socket: WebSocket, name: str) -> None:
    """Send what is published to the room; publish what the client sends, but not to itself."""
    await socket.accept()
    await socket.join(name)
    await socket.send_text("joined")
    async for message in socket:
        if message == "leave":
            await socket.leave(name)
            await socket.send_text("left")
        elif message == "fail":
            raise RuntimeError("This view fails.")
        else:
            await apublish(name, message, exclude=socket)


async def sleepy(socket: WebSocket, name: str) -> None:
    """Join a room and look neither at the client nor at the clock."""
    await socket.accept()
    await socket.join(name)
    await socket.send_text("joined")
    await asyncio.sleep(3600)


async def tell_how_it_ends(socket: WebSocket) -> None:
    """Join before the accept and after the end, and publish the exceptions."""
    try:
        await socket.join("early")
    except RuntimeError as error:
        await apublish("errors", str(error))
    await socket.accept()
    await socket.close()
    try:
        await socket.join("late")
    except WebSocketDisconnect as error:
        await apublish("errors", f"{error.code}")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


def publish_from_a_sync_view(request: HttpRequest, name: str) -> HttpResponse:
    publish(name, "from a sync view")
    return HttpResponse()


async def publish_from_an_async_view(request: HttpRequest, name: str) -> HttpResponse:
    await apublish(name, "from an async view")
    return HttpResponse()


urlpatterns = [
    websocket("echo/", echo),
    websocket("errors/", tell_how_it_ends),
    websocket("room/<name>/", room),
    websocket("sleepy/<name>/", sleepy),
    path("async/<name>/", publish_from_an_async_view),
    path("sync/<name>/", publish_from_a_sync_view),
]


def delay_joins() -> None:
    """Let joins wait in memory too: until what was published before is delivered."""
    get_hub().is_serving = True
    for _ in range(10):
        publish("before", "")


# What holds on memory and on Redis


class Delivery:
    async def test_every_member_gets_what_is_published(self: Any) -> None:
        async with connect("/room/a/") as one, connect("/room/a/") as two:
            for client in (one, two):
                self.assertEqual(await client.receive(), "joined")
            await apublish("a", "hello")
            for client in (one, two):
                self.assertEqual(await client.receive(), "hello")

    async def test_members_of_another_group_do_not_get_it(self: Any) -> None:
        async with connect("/room/a/") as one, connect("/room/b/") as two:
            for client in (one, two):
                await client.receive()
            await apublish("a", "for a")
            await apublish("b", "for b")
            self.assertEqual(await one.receive(), "for a")
            self.assertEqual(await two.receive(), "for b")

    async def test_text_is_sent_as_text_bytes_as_binary_and_the_rest_as_json(self: Any) -> None:
        class Payload(dict[str, int]):
            pass

        async with connect("/room/a/") as client:
            await client.receive()
            for message, received in [
                ("", ""),
                ("zdravo \U0001f680\n", "zdravo \U0001f680\n"),
                (b"", b""),
                (b"\x00\n\xff", b"\x00\n\xff"),
                (bytearray(b"ab"), b"ab"),
                (memoryview(b"ab"), b"ab"),
                ({"n": 1}, '{"n":1}'),
                (Payload(n=1), '{"n":1}'),
                ([None, True], "[null,true]"),
                (7, "7"),
                (None, "null"),
            ]:
                await apublish("a", message)
                self.assertEqual(await client.receive(), received)

    async def test_what_django_can_put_into_json_can_be_published(self: Any) -> None:
        async with connect("/room/a/") as client:
            await client.receive()
            await apublish(
                "a",
                {
                    "date": datetime.date(2030, 1, 2),
                    "decimal": decimal.Decimal("1.10"),
                    "lazy": gettext_lazy("Monday"),
                    "uuid": uuid.UUID(int=1),
                },
            )
            self.assertEqual(
                await client.receive_json(),
                {
                    "date": "2030-01-02",
                    "decimal": "1.10",
                    "lazy": "Monday",
                    "uuid": "00000000-0000-0000-0000-000000000001",
                },
            )

    async def test_what_is_not_json_raises_type_error_where_it_is_published(self: Any) -> None:
        for message in (object(), {1, 2}, {"socket": self}):
            with self.assertRaises(TypeError):
                await apublish("a", message)
            with self.assertRaises(TypeError):
                publish("a", message)

    async def test_text_that_has_no_utf_8_raises_value_error_where_it_is_published(
        self: Any,
    ) -> None:
        with self.assertRaises(ValueError):
            await apublish("a", "\ud800")
        with self.assertRaises(ValueError):
            publish("a", "\ud800")

    async def test_the_excluded_socket_does_not_get_it(self: Any) -> None:
        async with connect("/room/a/") as one, connect("/room/a/") as two:
            for client in (one, two):
                await client.receive()
            await one.send_text("from one")  # The view excludes the sender.
            self.assertEqual(await two.receive(), "from one")
            before = groups.counters["deliveries"]
            await two.send_text("from two")
            self.assertEqual(await one.receive(), "from two")
            self.assertEqual(groups.counters["deliveries"], before + 1)

    async def test_the_id_of_a_socket_excludes_it_too(self: Any) -> None:
        async def view(socket: WebSocket) -> None:
            await socket.accept()
            await socket.join("a")
            await socket.send_text(socket.id)
            async for _ in socket:
                pass

        async with connect_to(view) as one, connect_to(view) as two:
            id, _ = await one.receive_text(), await two.receive_text()
            await apublish("a", "for two", exclude=id)
            await asyncio.to_thread(publish, "a", "for two", exclude=id)
            await apublish("a", "for both")
            self.assertEqual(await one.receive(), "for both")
            self.assertEqual(
                [await two.receive() for _ in range(3)], ["for two"] * 2 + ["for both"]
            )

    async def test_a_socket_can_be_reached_by_its_id(self: Any) -> None:
        async def view(socket: WebSocket) -> None:
            await apublish(f"socket.{socket.id}", "early")
            await socket.accept()
            await socket.send_text(socket.id)
            async for message in socket:
                # From its thread, which is not that of the event loop.
                await sync_to_async(publish)(f"socket.{socket.id}", message)

        async with connect_to(view) as one, connect_to(view) as two:
            ids = [await one.receive_text(), await two.receive_text()]
            for client, id in zip((one, two), ids, strict=True):
                if settings.WEBSOCKET_REDIS_URL:  # It comes back after the accept.
                    self.assertEqual(await client.receive(), "early")
                await apublish(f"socket.{id}", f"for {id}")
                await asyncio.to_thread(publish, f"socket.{id}", b"\x00")
                self.assertEqual(await client.receive(), f"for {id}")
                self.assertEqual(await client.receive(), b"\x00")
            await one.send_text("to myself")
            self.assertEqual(await one.receive(), "to myself")
            await apublish(f"socket.{ids[0]}", "not this", exclude=ids[0])
            async with listen(f"socket.{ids[1]}") as inbox:
                await apublish(f"socket.{ids[1]}", {"for": "both"})
                self.assertEqual(await inbox.receive(), {"for": "both"})
            self.assertEqual(await two.receive_json(), {"for": "both"})
            await apublish(f"socket.{ids[0]}", "done")
            self.assertEqual(await one.receive(), "done")
        self.assertFalse([name for name in get_hub().members if name.startswith("socket.")])

    async def test_an_id_that_is_first_read_in_a_thread_works_too(self: Any) -> None:
        async def view(socket: WebSocket) -> None:
            await socket.accept()
            id = await asyncio.to_thread(lambda: socket.id)
            await asyncio.to_thread(publish, f"socket.{id}", "hello")
            async for _ in socket:
                pass

        async with connect_to(view) as client:
            self.assertEqual(await client.receive(), "hello")

    async def test_nothing_but_a_socket_and_its_id_can_be_excluded(self: Any) -> None:
        bad: list[Any] = [get_user_model()(pk=1), 7, "", "a" * 31, "A" * 32, "a" * 32 + "\n"]
        for what in bad:
            with self.assertRaisesRegex(ValueError, "exclude= takes a socket, or the id of one"):
                await apublish("a", "", exclude=what)
            with self.assertRaisesRegex(ValueError, "exclude= takes a socket"):
                publish("a", "", exclude=what)

    async def test_who_left_does_not_get_it(self: Any) -> None:
        async with connect("/room/a/") as leaver, connect("/room/a/") as other:
            for client in (leaver, other):
                await client.receive()
            await leaver.send_text("leave")
            self.assertEqual(await leaver.receive(), "left")
            await apublish("a", "are you there?")
            self.assertEqual(await other.receive(), "are you there?")
            await leaver.send_text("one")
            self.assertEqual(await other.receive(), "one")
            await leaver.close()
            self.assertEqual(await leaver.wait_closed(), 1000)

    async def test_joining_is_effective_when_join_returns(self: Any) -> None:
        for number in range(20):
            # Now and then the group is one that a socket has just left.
            name = f"room.{number % 3}"
            async with connect(f"/room/{name}/") as client:
                self.assertEqual(await client.receive(), "joined")
                await apublish(name, f"{number}")
                self.assertEqual(await client.receive(), f"{number}")

    async def test_messages_arrive_in_the_order_in_which_they_were_published(self: Any) -> None:
        async with connect("/room/a/") as one, connect("/room/a/") as two:
            for client in (one, two):
                await client.receive()
            for number in range(500):
                await apublish("a", f"{number}")
            for client in (one, two):
                for number in range(500):
                    self.assertEqual(await client.receive(), f"{number}")

    async def test_a_hundred_publishers_at_once_all_reach_a_member(self: Any) -> None:
        async with connect("/room/a/") as client:
            await client.receive()
            await asyncio.gather(*(apublish("a", number) for number in range(300)))
            received = [await client.receive_json() for _ in range(300)]
            self.assertEqual(sorted(received), list(range(300)))

    async def test_a_name_is_checked_wherever_it_is_given(self: Any) -> None:
        async with connect("/room/Az09_.:-/") as client:
            self.assertEqual(await client.receive(), "joined")
        bad: list[Any] = ["", "a b", "a\n", "\u00e4", "x" * 101, "@auth", "a/b", None, 7]
        for name in bad:
            with self.assertRaisesRegex(ValueError, "A group name has 1 to 100 ASCII letters"):
                publish(name, "")
            with self.assertRaises(ValueError):
                await apublish(name, "")
            with self.assertRaises(ValueError):
                subscribe(name)
        with self.assertRaises(ValueError):
            async with connect(f"/room/{'x' * 101}/") as client:
                await client.receive()

    async def test_join_needs_an_accepted_connection_that_is_not_over(self: Any) -> None:
        async with listen("errors") as errors, connect("/errors/"):
            self.assertIn("Cannot join a group while", await errors.receive())
            self.assertEqual(await errors.receive(), "1000")


class Publishers:
    """`publish` from wherever sync code runs."""

    async def heard(self: Any, publisher: Any) -> Any:
        """Run an async function beside a member, and return what the member gets."""
        async with connect("/room/a/") as client:
            await client.receive()
            await publisher()
            return await client.receive()

    async def test_from_a_sync_view(self: Any) -> None:
        async def ask() -> None:
            await AsyncClient().get("/sync/a/")

        self.assertEqual(await self.heard(ask), "from a sync view")

    async def test_from_an_async_view(self: Any) -> None:
        async def ask() -> None:
            await AsyncClient().get("/async/a/")

        self.assertEqual(await self.heard(ask), "from an async view")

    async def test_from_a_thread(self: Any) -> None:
        async def in_thread() -> None:
            threading.Thread(target=publish, args=["a", "from a thread"]).start()

        self.assertEqual(await self.heard(in_thread), "from a thread")

    async def test_from_an_event_loop_in_another_thread(self: Any) -> None:
        async def elsewhere() -> None:
            await asyncio.to_thread(lambda: asyncio.run(apublish("a", "from another loop")))

        self.assertEqual(await self.heard(elsewhere), "from another loop")

    async def test_from_the_receiver_of_a_signal(self: Any) -> None:
        signal = Signal()

        def receiver(**kwargs: Any) -> None:
            publish("a", "from a receiver")

        signal.connect(receiver)

        async def in_the_event_loop() -> None:
            signal.send(sender=None)

        self.assertEqual(await self.heard(in_the_event_loop), "from a receiver")

        async def in_a_thread() -> None:
            await sync_to_async(signal.send)(sender=None)

        self.assertEqual(await self.heard(in_a_thread), "from a receiver")

    async def test_from_a_management_command(self: Any) -> None:
        class Command(BaseCommand):
            def handle(self, *args: Any, **options: Any) -> None:
                publish("a", "from a command")

        async def command() -> None:
            await sync_to_async(call_command)(Command())

        self.assertEqual(await self.heard(command), "from a command")

    async def test_the_messages_of_a_thread_arrive_in_order_and_before_what_follows(
        self: Any,
    ) -> None:
        def publish_many() -> None:
            for number in range(3000):
                publish("a", f"{number}")

        async with connect("/room/a/") as client:
            await client.receive()
            await asyncio.to_thread(publish_many)
            await apublish("a", "last")
            for number in range(3000):
                self.assertEqual(await client.receive(), f"{number}")
            self.assertEqual(await client.receive(), "last")


class Joining:
    """What joining, leaving and canceling at the same time come to."""

    async def test_joining_again_changes_nothing(self: Any) -> None:
        async def view(socket: WebSocket) -> None:
            await socket.accept()
            for _ in range(3):
                await socket.join("a")
            await socket.send_text("joined")
            async for _ in socket:
                await socket.leave("a")
                await socket.send_text("left")

        async with connect_to(view) as client:
            await client.receive()
            for number in range(2):
                await apublish("a", f"{number}")
                self.assertEqual(await client.receive(), f"{number}")
            await client.send_text("leave")
            self.assertEqual(await client.receive(), "left")
            self.assertNotIn("a", get_hub().members)

    async def test_of_two_joins_at_once_the_one_that_is_cancelled_changes_nothing(
        self: Any,
    ) -> None:
        for cancelled in range(2):

            async def view(socket: WebSocket) -> None:
                await socket.accept()
                delay_joins()
                joins = [socket.start(socket.join("a")) for _ in range(2)]
                await asyncio.sleep(0)
                joins.pop(cancelled).cancel()  # noqa: B023
                await joins[0]
                await socket.send_text("joined")
                async for _ in socket:
                    pass

            async with connect_to(view) as client:
                self.assertEqual(await client.receive(), "joined")
                await apublish("a", "hello")
                self.assertEqual(await client.receive(), "hello")
            self.assertEqual((get_hub().members.get("a"), get_hub().joining), (None, {}))

    async def test_a_join_that_is_cancelled_leaves_an_old_membership_as_it_was(self: Any) -> None:
        async def view(socket: WebSocket) -> None:
            await socket.accept()
            await socket.join("a")
            delay_joins()
            join = socket.start(socket.join("a"))
            await asyncio.sleep(0)
            join.cancel()
            await asyncio.wait([join])
            await socket.send_text("joined")
            async for _ in socket:
                pass

        async with connect_to(view) as client:
            self.assertEqual(await client.receive(), "joined")
            await apublish("a", "hello")
            self.assertEqual(await client.receive(), "hello")

    async def test_leaving_wins_over_a_join_that_waits(self: Any) -> None:
        async def view(socket: WebSocket) -> None:
            await socket.accept()
            delay_joins()
            join = socket.start(socket.join("a"))
            await asyncio.sleep(0)
            await socket.leave("a")
            await join
            await socket.send_text("left")
            async for _ in socket:
                await socket.join("a")
                await socket.send_text("joined")

        async with connect_to(view) as client:
            self.assertEqual(await client.receive(), "left")
            self.assertEqual((get_hub().members.get("a"), get_hub().joining), (None, {}))
            await client.send_text("join")
            self.assertEqual(await client.receive(), "joined")
            await apublish("a", "hello")
            self.assertEqual(await client.receive(), "hello")

    async def test_a_socket_that_ends_while_it_joins_is_forgotten(self: Any) -> None:
        async def view(socket: WebSocket) -> None:
            await socket.accept()
            delay_joins()
            join = asyncio.create_task(socket.join("a"))
            await asyncio.sleep(0)
            await socket.close()
            with self.assertRaises(WebSocketDisconnect):
                await join

        async with connect_to(view) as client:
            await client.wait_closed()
        self.assertEqual((get_hub().members.get("a"), get_hub().joining), (None, {}))

    async def test_a_member_that_fails_keeps_a_message_from_no_other(self: Any) -> None:
        class Failing:
            id = ""

            def push(self, message: groups.Message) -> None:
                raise ZeroDivisionError

            def missed(self) -> None: ...

        hub = get_hub()
        await hub.join("a", Failing())
        async with connect("/room/a/") as client:
            await client.receive()
            with self.assertLogs("django.websocket") as logs:
                await apublish("a", "one")
                await asyncio.to_thread(publish, "a", "two")
                self.assertEqual(await client.receive(), "one")
                self.assertEqual(await client.receive(), "two")
            self.assertEqual(len(logs.records), 2)
            self.assertIn("did not take a message to the group 'a'", logs.output[0])
            self.assertIn("ZeroDivisionError", logs.output[0])
        await hub.close()


class Ends:
    """However a socket ends, its groups do not keep it."""

    async def test_a_client_that_leaves_is_forgotten(self: Any) -> None:
        async with connect("/room/a/") as client:
            await client.receive()
            self.assertEqual(len(get_hub().members["a"]), 1)
        self.assertNotIn("a", get_hub().members)

    async def test_a_view_that_fails_is_forgotten(self: Any) -> None:
        with (
            self.assertLogs("django.request", "ERROR"),
            self.assertRaisesRegex(RuntimeError, "This view fails"),
        ):
            async with connect("/room/a/") as client:
                await client.receive()
                await client.send_text("fail")
                await client.wait_closed()
        self.assertNotIn("a", get_hub().members)

    @override_settings(WEBSOCKET_DISCONNECT_GRACE=0.05)
    async def test_a_view_that_is_cancelled_is_forgotten(self: Any) -> None:
        async with connect("/sleepy/a/") as client:
            await client.receive()
        self.assertNotIn("a", get_hub().members)

    async def test_a_server_that_is_cancelled_forgets_its_sockets(self: Any) -> None:
        async with connect("/sleepy/a/") as client:
            await client.receive()
            server: Any = client._task
            server.cancel()
            await asyncio.wait([server])
            self.assertNotIn("a", get_hub().members)


class Everything(Delivery, Publishers, Joining, Ends):
    pass


def run_in_shell(script: str) -> str:
    """Run a script in a process of the project without Redis, and return what it logs."""
    result = subprocess.run(
        [sys.executable, "manage.py", "shell", "-c", script],
        capture_output=True,
        check=True,
        cwd=settings.BASE_DIR,
        env={**os.environ, "REDIS_URL": ""},
        text=True,
    )
    return result.stderr


@override_settings(ROOT_URLCONF=__name__, WEBSOCKET_REDIS_URL="")
class MemoryTests(Everything, SimpleTestCase):
    def test_a_process_that_serves_no_sockets_says_that_nobody_is_reached(self) -> None:
        errors = run_in_shell("from websocket.groups import publish; publish('orders', 'lost')")
        self.assertIn("A message to the group 'orders' reached nobody", errors)
        self.assertIn("REDIS_URL", errors)

    def test_a_process_that_was_forked_from_one_that_serves_says_so_too(self) -> None:
        script = (
            "import asyncio, os\n"
            "async def serve():\n"
            "    import os; from websocket import groups\n"
            "    groups.get_hub().is_serving = True\n"
            "    groups.publish('orders', 'from the parent')\n"
            "    if os.fork() == 0:\n"
            "        groups.publish('orders', 'from the child')\n"
            "        os._exit(0)\n"
            "    os.wait()\n"
            "asyncio.run(serve())"
        )
        self.assertEqual(run_in_shell(script).count("A message to the group 'orders'"), 1)

    async def test_the_hub_of_an_event_loop_that_has_ended_is_forgotten(self) -> None:
        def serve_for_a_moment(ends_well: bool) -> None:
            async def serve() -> None:
                await get_hub().join("a", Mailbox(get_hub()))

            loop = asyncio.new_event_loop()
            loop.run_until_complete(serve())
            if ends_well:
                loop.run_until_complete(loop.shutdown_asyncgens())
                self.assertNotIn(loop, hubs)
            loop.close()

        for ends_well in (True, False):
            await asyncio.to_thread(serve_for_a_moment, ends_well)
        with self.assertLogs("django.websocket") as logs:
            await asyncio.to_thread(publish, "a", "for nobody")
        self.assertIn("reached nobody", logs.output[0])
        self.assertFalse(any(hub.backlog for hub in hubs.values()))
        get_hub()
        self.assertEqual(list(hubs), [asyncio.get_running_loop()])

    @override_settings(WEBSOCKET_HISTORY={"": 10})
    async def test_the_groups_that_this_package_uses_itself_have_no_history(self) -> None:
        async with connect("/room/a/") as client:
            await client.receive()
            await groups.get_hub().apublish("@auth", groups.Message.encode(["missed"]), None)
            await apublish("a", "kept")
            self.assertEqual(await client.receive(), "kept")
        self.assertEqual(list(get_hub().history.kept), ["a"])

    def test_a_history_can_be_read_by_a_signal_handler_of_the_thread_that_holds_it(self) -> None:
        history = History()

        def handle_signal() -> None:
            with history.lock:
                history.of("a")

        thread = threading.Thread(target=handle_signal, daemon=True)
        thread.start()
        thread.join(10)
        self.assertFalse(thread.is_alive())

    @mock.patch.object(history, "MAX_GROUPS", 1)
    async def test_a_history_is_not_forgotten_while_a_message_is_added_to_it(self) -> None:
        of = History.of

        def of_while_a_thread_begins_another(history: History, group: str) -> Kept:
            kept = of(history, group)
            thread.start()
            thread.join(0.1)  # If it can, it forgets this one.
            return kept

        kept = History()
        thread = threading.Thread(target=of, args=(kept, "b"), daemon=True)
        with mock.patch.object(History, "of", of_while_a_thread_begins_another):
            kept.add("a", groups.Message.encode("hello"), None)
        await asyncio.to_thread(thread.join, 10)
        self.assertEqual(list(kept.kept), ["b"])

    async def test_a_hub_that_was_closed_does_not_take_the_next_one_with_it(self) -> None:
        await close_hub()
        hub = get_hub()
        await close_hub()
        following = get_hub()
        await hub.close()
        self.assertIs(get_hub(), following)

    async def test_an_event_loop_that_publishes_to_another_is_slowed_down(self) -> None:
        backlog = []

        async def publish_many() -> None:
            for _ in range(1300):
                await apublish("a", "x")
                backlog.append(len(hub.backlog))

        async with connect("/room/a/") as client:
            await client.receive()
            hub = get_hub()
            task = asyncio.create_task(asyncio.to_thread(asyncio.run, publish_many()))
            # A loop that is busy, as one that serves many clients is.
            while not task.done():
                time.sleep(0.001)
                await asyncio.sleep(0)
        self.assertLess(max(backlog), 1100)

    async def test_who_joins_does_not_get_what_was_published_before(self) -> None:
        async with connect("/room/a/") as early:
            await early.receive()
            for number in range(100):
                publish("a", f"{number}")
            async with connect("/room/a/") as late:
                self.assertEqual(await late.receive(), "joined")
                await apublish("a", "last")
                self.assertEqual(await late.receive(), "last")

    async def test_a_thread_that_publishes_without_pause_is_slowed_down(self) -> None:
        backlog = []

        def publish_many() -> None:
            for _ in range(1300):
                publish("a", "x")
                backlog.append(len(get_hub_of_test.backlog))

        async with connect("/room/a/") as client:
            await client.receive()
            get_hub_of_test = get_hub()
            task = asyncio.create_task(asyncio.to_thread(publish_many))
            # A loop that is busy, as one that serves many clients is.
            while not task.done():
                time.sleep(0.001)
                await asyncio.sleep(0)
        self.assertLess(max(backlog), 1100)

    async def test_the_loop_does_other_things_between_two_messages(self) -> None:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with connect("/room/a/") as client:
            await client.receive()
            task = asyncio.create_task(turn())
            for number in range(100):
                publish("a", f"{number}")
            for number in range(100):
                self.assertEqual(await client.receive(), f"{number}")
            task.cancel()
        self.assertGreaterEqual(turns, 99)


@override_settings(ROOT_URLCONF=__name__)
@pytest.mark.filterwarnings("ignore:publish.. holds up:RuntimeWarning")
class RedisTests(Everything, OnRedis):
    pass


class OnCommit:
    async def test_what_is_published_on_commit_waits_for_it(self: Any) -> None:
        @sync_to_async
        def work() -> None:
            with transaction.atomic():
                transaction.on_commit(lambda: publish("a", "committed"))
                publish("a", "within")

        @sync_to_async
        def fail() -> None:
            with transaction.atomic():
                transaction.on_commit(lambda: publish("a", "never"))
                transaction.set_rollback(True)

        async with connect("/room/a/") as client:
            await client.receive()
            await fail()
            await work()
            self.assertEqual(await client.receive(), "within")
            self.assertEqual(await client.receive(), "committed")


@override_settings(ROOT_URLCONF=__name__)
class MemoryOnCommitTests(OnCommit, TransactionTestCase):
    pass


@override_settings(ROOT_URLCONF=__name__)
class RedisOnCommitTests(OnCommit, OnRedis, TransactionTestCase):
    pass
