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
from collections.abc import AsyncIterator
from typing import Any
from unittest import skipIf

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import BaseCommand, call_command
from django.db import transaction
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
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
from websocket.groups import (
    PublishError,
    SubscriberTooSlow,
    apublish,
    get_hub,
    publish,
    subscribe,
)
from websocket.testing import connect
from websocket.tests.redis_server import OnRedis
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


async def events(request: HttpRequest, name: str) -> StreamingHttpResponse:
    """Server-Sent Events: what is published to a room, for pages that only listen."""

    async def stream() -> AsyncIterator[bytes]:
        yield b": hello\n\n"
        async for message in subscribe(name):
            yield f"data: {message}\n\n".encode()

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


urlpatterns = [
    websocket("echo/", echo),
    websocket("errors/", tell_how_it_ends),
    websocket("room/<name>/", room),
    websocket("sleepy/<name>/", sleepy),
    path("async/<name>/", publish_from_an_async_view),
    path("events/<name>/", events),
    path("sync/<name>/", publish_from_a_sync_view),
]


async def next_of(messages: AsyncIterator[Any]) -> Any:
    return await asyncio.wait_for(messages.__anext__(), 5)


async def until_empty(hub: groups.Hub) -> None:
    """Wait until nobody is in a group."""
    async with asyncio.timeout(5):
        while hub.members:
            await asyncio.sleep(0.01)


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
            with self.assertRaisesRegex(ValueError, "A group's name has 1 to 100 ASCII letters"):
                publish(name, "")
            with self.assertRaises(ValueError):
                await apublish(name, "")
            with self.assertRaises(ValueError):
                await next_of(subscribe(name))
        with self.assertRaises(ValueError):
            async with connect(f"/room/{'x' * 101}/") as client:
                await client.receive()

    async def test_join_needs_an_accepted_connection_that_is_not_over(self: Any) -> None:
        errors = subscribe("errors")
        first = asyncio.create_task(next_of(errors))
        await self.until_member("errors")
        async with connect("/errors/"):
            self.assertIn("Accept the connection", await first)
            self.assertEqual(await next_of(errors), "1000")
        await errors.aclose()  # type: ignore[attr-defined]

    async def until_member(self: Any, group: str) -> None:
        """Wait until the group is listened to."""
        async with asyncio.timeout(5):
            while True:
                server = getattr(get_hub(), "server", None)
                if group in get_hub().members and (not server or server.confirmed[group].done()):
                    return
                await asyncio.sleep(0.01)


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


class Ends:
    """However a socket ends, its groups do not keep it."""

    async def test_a_client_that_leaves_is_forgotten(self: Any) -> None:
        async with connect("/room/a/") as client:
            await client.receive()
            self.assertEqual(len(get_hub().members["a"]), 1)
        self.assertEqual(get_hub().members, {})

    async def test_a_view_that_fails_is_forgotten(self: Any) -> None:
        with (
            self.assertLogs("django.request", "ERROR"),
            self.assertRaisesRegex(RuntimeError, "This view fails"),
        ):
            async with connect("/room/a/") as client:
                await client.receive()
                await client.send_text("fail")
                await client.wait_closed()
        self.assertEqual(get_hub().members, {})

    @override_settings(WEBSOCKET_DISCONNECT_GRACE=0.05)
    async def test_a_view_that_is_cancelled_is_forgotten(self: Any) -> None:
        async with connect("/sleepy/a/") as client:
            await client.receive()
        self.assertEqual(get_hub().members, {})

    async def test_a_server_that_is_cancelled_forgets_its_sockets(self: Any) -> None:
        async with connect("/sleepy/a/") as client:
            await client.receive()
            server: Any = client._task
            server.cancel()
            await asyncio.wait([server])
            self.assertEqual(get_hub().members, {})


class Subscribing:
    async def test_it_yields_what_was_published_as_what_it_was(self: Any) -> None:
        messages = subscribe("a")
        for message in ("text", b"bytes", {"json": [1, None]}, '{"only": "text"}'):
            task = asyncio.create_task(next_of(messages))
            await self.until_member("a")
            await apublish("a", message)
            self.assertEqual(await task, message)
        await messages.aclose()  # type: ignore[attr-defined]

    async def test_each_subscriber_gets_an_object_of_its_own(self: Any) -> None:
        one, two = subscribe("a"), subscribe("a")
        tasks = [asyncio.create_task(next_of(messages)) for messages in (one, two)]
        async with asyncio.timeout(5):
            while len(get_hub().members.get("a", ())) < 2:
                await asyncio.sleep(0.01)
        await self.until_member("a")
        await apublish("a", [])
        (await tasks[0]).append("changed")
        self.assertEqual(await tasks[1], [])
        for messages in (one, two):
            await messages.aclose()  # type: ignore[attr-defined]

    async def test_it_can_listen_to_several_groups(self: Any) -> None:
        messages = subscribe("a", "b")
        task = asyncio.create_task(next_of(messages))
        await self.until_member("b")
        await apublish("a", 1)
        await apublish("b", 2)
        self.assertEqual(await task, 1)
        self.assertEqual(await next_of(messages), 2)
        await messages.aclose()  # type: ignore[attr-defined]

    async def test_it_ends_with_the_loop_that_breaks(self: Any) -> None:
        async def first() -> Any:
            async for message in subscribe("a", "b"):
                return message

        task = asyncio.create_task(first())
        await self.until_member("b")
        await apublish("b", "enough")
        self.assertEqual(await task, "enough")
        await until_empty(get_hub())

    async def test_it_ends_with_the_task_that_is_cancelled(self: Any) -> None:
        task = asyncio.create_task(next_of(subscribe("a")))
        await self.until_member("a")
        task.cancel()
        await asyncio.wait([task])
        await until_empty(get_hub())

    @override_settings(WEBSOCKET_OUTBOX_SIZE=1000)
    async def test_who_falls_behind_is_told(self: Any) -> None:
        messages = subscribe("a")
        task = asyncio.create_task(next_of(messages))
        await self.until_member("a")
        await apublish("a", 0)
        self.assertEqual(await task, 0)
        for number in range(1, 100):
            await apublish("a", number)
        with self.assertRaises(SubscriberTooSlow):
            while True:
                await next_of(messages)
        await until_empty(get_hub())

    @override_settings(WEBSOCKET_OUTBOX_SIZE=1000, WEBSOCKET_SLOW_CLIENT="drop")
    async def test_who_falls_behind_loses_the_oldest_where_the_settings_say_so(
        self: Any,
    ) -> None:
        messages = subscribe("a")
        task = asyncio.create_task(next_of(messages))
        await self.until_member("a")
        await apublish("a", 0)
        self.assertEqual(await task, 0)
        for number in range(1, 100):
            await apublish("a", number)
        await apublish("a", "last")
        received = [await next_of(messages)]
        while received[-1] != "last":
            received.append(await next_of(messages))
        self.assertGreater(received[0], 50)
        self.assertEqual(received, [*range(received[0], 100), "last"])
        await messages.aclose()  # type: ignore[attr-defined]

    @override_settings(WEBSOCKET_OUTBOX_SIZE=1000)
    async def test_a_message_larger_than_what_is_kept_arrives_all_the_same(self: Any) -> None:
        messages = subscribe("a")
        task = asyncio.create_task(next_of(messages))
        await self.until_member("a")
        await apublish("a", "x" * 5000)
        self.assertEqual(await task, "x" * 5000)
        await messages.aclose()  # type: ignore[attr-defined]

    @skipIf(django.VERSION < (4, 2), "Django 4.2 was the first to stream from async iterators.")
    async def test_server_sent_events_come_from_an_ordinary_view(self: Any) -> None:
        response: Any = await AsyncClient().get("/events/a/")
        stream = response.streaming_content
        self.assertEqual(await next_of(stream), b": hello\n\n")
        task = asyncio.create_task(next_of(stream))
        await self.until_member("a")
        await apublish("a", "news")
        self.assertEqual(await task, b"data: news\n\n")
        # As Django does when the client leaves.
        task = asyncio.create_task(next_of(stream))
        await asyncio.sleep(0)
        task.cancel()
        await until_empty(get_hub())


class Everything(Delivery, Publishers, Ends, Subscribing):
    pass


@override_settings(ROOT_URLCONF=__name__, WEBSOCKET_REDIS_URL="")
class MemoryTests(Everything, SimpleTestCase):
    async def test_a_process_that_serves_no_sockets_says_that_nobody_is_reached(self) -> None:
        command = "from websocket.groups import publish; publish('orders', 'lost')"
        result = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "manage.py", "shell", "-c", command],
            capture_output=True,
            check=True,
            cwd=settings.BASE_DIR,
            env={**os.environ, "REDIS_URL": ""},
            text=True,
        )
        self.assertIn("A message to the group 'orders' reached nobody", result.stderr)
        self.assertIn("REDIS_URL", result.stderr)

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
class RedisTests(Everything, OnRedis):
    async def count_connections(self) -> int:
        import redis.asyncio

        async with redis.asyncio.Redis.from_url(self.redis.url) as client:
            return len(await client.client_list()) - 1

    async def until_lost(self, group: str) -> None:
        """Wait until the process has seen that Redis is away."""
        server = get_hub().server  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            while server.confirmed[group].done():
                await asyncio.sleep(0.01)

    async def test_a_process_has_one_subscription_however_many_sockets(self) -> None:
        async with connect("/room/a/") as one, connect("/room/b/") as two:
            for client in (one, two):
                await client.receive()
            self.assertEqual(await self.count_connections(), 1)

    async def test_projects_can_share_a_server(self) -> None:
        async with connect("/room/a/") as client:
            await client.receive()
            with override_settings(WEBSOCKET_REDIS_PREFIX="another:"):
                await apublish("a", "for another project")
            await apublish("a", "for this one")
            self.assertEqual(await client.receive(), "for this one")

    async def test_groups_that_are_over_leave_nothing_behind(self) -> None:
        async with connect("/room/stays/") as one:
            await one.receive()
            for number in range(10):
                async with connect(f"/room/{number}/") as two:
                    await two.receive()
            async with asyncio.timeout(5):
                server = get_hub().server  # type: ignore[attr-defined]
                while server.asked != {"stays"}:
                    await asyncio.sleep(0.01)
            self.assertEqual(list(server.confirmed), ["stays"])
            self.assertEqual(dict(server.unanswered), {})

    async def test_event_loops_that_are_over_keep_no_connections(self) -> None:
        def publish_from_many_loops() -> None:
            for number in range(20):
                asyncio.run(apublish("a", number))

        await asyncio.to_thread(publish_from_many_loops)
        self.assertLess(await self.count_connections(), 10)

    @override_settings(WEBSOCKET_REDIS_TIMEOUT=0.3)
    async def test_publishing_fails_in_time_where_redis_is_away(self) -> None:
        for take_away in (self.redis.freeze, self.redis.kill):
            take_away()
            for number in range(3):
                start = time.monotonic()
                with self.assertRaisesRegex(PublishError, "Redis did not take a message to 'a'"):
                    await apublish("a", number)
                with self.assertRaisesRegex(PublishError, "Redis did not take a message to 'a'"):
                    await asyncio.to_thread(publish, "a", number)
                self.assertLess(time.monotonic() - start, 2)

    @override_settings(WEBSOCKET_REDIS_TIMEOUT=0.3)
    async def test_joining_fails_in_time_where_redis_is_away(self) -> None:
        for take_away in (self.redis.freeze, self.redis.kill):
            take_away()
            start = time.monotonic()
            with (
                self.assertLogs("django.request", "ERROR"),
                self.assertRaisesRegex(PublishError, "Redis cannot be reached to join 'a'"),
            ):
                async with connect("/room/a/") as client:
                    await client.receive()
            self.assertLess(time.monotonic() - start, 2)
            self.assertEqual(get_hub().members, {})

    async def test_sockets_that_use_no_groups_work_where_redis_is_away(self) -> None:
        self.redis.kill()
        async with connect("/echo/") as client:
            await client.send_text("hello")
            self.assertEqual(await client.receive(), "hello")

    @override_settings(WEBSOCKET_REDIS_TIMEOUT=0.3)
    async def test_nobody_can_join_a_group_while_redis_is_away_and_members_stay(self) -> None:
        async with connect("/room/a/") as member:
            await member.receive()
            with self.assertLogs("django.websocket", "ERROR"):
                self.redis.kill()
                await self.until_lost("a")
                with self.assertLogs("django.request", "ERROR"), self.assertRaises(PublishError):
                    async with connect("/room/a/") as client:
                        await client.receive()
            with self.assertLogs("django.websocket", "WARNING") as logs:
                self.redis.start()
                await self.until_member("a")
            self.assertIn("Redis is back", logs.output[0])
            await apublish("a", "welcome back")
            self.assertEqual(await member.receive(), "welcome back")

    @override_settings(WEBSOCKET_REDIS_TIMEOUT=30)
    async def test_a_client_that_leaves_while_its_view_joins_is_forgotten_at_once(self) -> None:
        async with connect("/echo/"), connect("/room/a/") as client:
            await client.receive()
            self.redis.freeze()
            async with connect("/room/b/") as late:
                async with asyncio.timeout(5):
                    while "b" not in get_hub().members:
                        await asyncio.sleep(0.01)
                start = time.monotonic()
                await late.close()
                await late.wait_closed()
                self.assertLess(time.monotonic() - start, 4)
            self.assertEqual(list(get_hub().members), ["a"])
            self.redis.kill()


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
