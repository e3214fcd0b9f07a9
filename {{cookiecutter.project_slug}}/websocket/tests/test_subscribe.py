"""`subscribe()`: a view, or any other code, that handles a group's messages itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from unittest import skipIf

import django
from django.http import HttpRequest, StreamingHttpResponse
from django.test import AsyncClient, SimpleTestCase, override_settings
from django.urls import path

from websocket.connection import WebSocket
from websocket.groups import Hub, SubscriberTooSlow, apublish, get_hub, subscribe
from websocket.tests.redis_server import OnRedis
from websocket.tests.test_groups import delay_joins
from websocket.tests.wire import connect_to


async def events(request: HttpRequest, name: str) -> StreamingHttpResponse:
    """Server-Sent Events: what is published to a room, for pages that only listen."""

    async def stream() -> AsyncIterator[bytes]:
        yield b": hello\n\n"
        async for message in subscribe(name):
            yield f"data: {message}\n\n".encode()

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


urlpatterns = [path("events/<name>/", events)]


async def next_of(messages: AsyncIterator[Any]) -> Any:
    return await asyncio.wait_for(anext(messages), 5)


async def until_member(group: str) -> None:
    """Wait until a group is listened to."""
    async with asyncio.timeout(30):
        while group not in get_hub().members:
            await asyncio.sleep(0.01)


async def until_empty(hub: Hub) -> None:
    """Wait until no group is listened to."""
    async with asyncio.timeout(30):
        while hub.members:
            await asyncio.sleep(0.01)


class Mailbox:
    """A subscription whose block says from when on it listens."""

    async def test_it_listens_once_its_block_is_entered(self: Any, times: int = 20) -> None:
        for number in range(times):
            async with subscribe("a", "b") as inbox:
                await apublish("a", number)
                await apublish("b", -number)
                self.assertEqual([await next_of(inbox), await next_of(inbox)], [number, -number])

    async def test_its_groups_can_change_while_it_listens(self: Any) -> None:
        async with subscribe("a") as inbox:
            await inbox.join("b")
            await apublish("b", 1)
            inbox.leave("a")
            await apublish("a", 2)
            await apublish("b", 3)
            self.assertEqual([await next_of(inbox), await next_of(inbox)], [1, 3])

    async def test_it_can_begin_without_a_group(self: Any) -> None:
        async with subscribe() as inbox:
            await inbox.join("a")
            await apublish("a", 1)
            self.assertEqual(await next_of(inbox), 1)

    async def test_it_goes_on_after_a_loop_that_breaks(self: Any) -> None:
        async with subscribe("a") as inbox:
            for number in range(3):
                await apublish("a", number)
                async for message in inbox:
                    self.assertEqual(message, number)
                    break

    async def test_its_groups_are_left_when_its_block_ends(self: Any) -> None:
        with suppress(ZeroDivisionError):
            async with subscribe("a") as inbox:
                await inbox.join("b")
                raise ZeroDivisionError
        self.assertEqual(get_hub().members, {})
        with self.assertRaises(StopAsyncIteration):
            await next_of(inbox)
        with self.assertRaisesRegex(RuntimeError, "has ended"):
            await inbox.join("a")

    async def test_its_end_ends_the_loop_of_another_task(self: Any) -> None:
        async def collect(messages: AsyncIterator[Any]) -> list[Any]:
            return [message async for message in messages]

        async with subscribe("a") as inbox:
            task = asyncio.create_task(collect(inbox))
            await asyncio.sleep(0)
        self.assertEqual(await asyncio.wait_for(task, 5), [])

    async def test_canceling_an_iteration_loses_no_message(self: Any) -> None:
        async with subscribe("a") as inbox:
            task = asyncio.create_task(next_of(inbox))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await apublish("a", 1)
            self.assertEqual(await next_of(inbox), 1)

    async def test_canceling_the_begin_leaves_all_groups(self: Any) -> None:
        async def listen() -> None:
            async with subscribe("a", "b"):
                raise AssertionError("It was cancelled before it listened.")

        delay_joins()
        task = asyncio.create_task(listen())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        self.assertTrue(task.cancelled())
        self.assertEqual((get_hub().members, get_hub().joining), ({}, {}))

    async def test_a_view_that_starts_a_relay_loses_nothing(self: Any) -> None:
        async def view(socket: WebSocket) -> None:
            async def relay(messages: AsyncIterator[Any]) -> None:
                async for message in messages:
                    await socket.send_json(message)

            await socket.accept()
            async with subscribe("a") as inbox:
                socket.start(relay(inbox))
                await apublish("a", "first")
                async for message in socket:
                    await apublish("a", message)

        async with connect_to(view) as client:
            self.assertEqual(await client.receive_json(), "first")
            await client.send_text("second")
            self.assertEqual(await client.receive_json(), "second")

    async def test_names_are_checked_before_anything_is_joined(self: Any) -> None:
        bad: list[list[Any]] = [["a", "b c"], ["a", None], ["a", ""]]
        for names in bad:
            with self.assertRaisesRegex(ValueError, "A group name has"):
                subscribe(*names)
        with self.assertRaisesRegex(ValueError, r"as subscribe\(\*names\); got \['a', 'b'\]"):
            subscribe(["a", "b"])  # type: ignore[arg-type]
        async with subscribe("a") as inbox:
            with self.assertRaisesRegex(ValueError, "A group name has"):
                await inbox.join("b c")
            self.assertEqual(list(get_hub().members), ["a"])


class Iterating:
    """A subscription without a block: it listens from its first step on."""

    async def test_it_yields_what_was_published_as_what_it_was(self: Any) -> None:
        messages = subscribe("a")
        for message in ("text", b"bytes", {"json": [1, None]}, '{"only": "text"}'):
            task = asyncio.create_task(next_of(messages))
            await until_member("a")
            await apublish("a", message)
            self.assertEqual(await task, message)
        await messages.aclose()

    async def test_each_subscriber_gets_an_object_of_its_own(self: Any) -> None:
        one, two = subscribe("a"), subscribe("a")
        tasks = [asyncio.create_task(next_of(messages)) for messages in (one, two)]
        async with asyncio.timeout(30):
            while len(get_hub().members.get("a", ())) < 2:
                await asyncio.sleep(0.01)
        await until_member("a")
        await apublish("a", [])
        (await tasks[0]).append("changed")
        self.assertEqual(await tasks[1], [])
        for messages in (one, two):
            await messages.aclose()

    async def test_it_can_listen_to_several_groups(self: Any) -> None:
        messages = subscribe("a", "b")
        task = asyncio.create_task(next_of(messages))
        await until_member("b")
        await apublish("a", 1)
        await apublish("b", 2)
        self.assertEqual(await task, 1)
        self.assertEqual(await next_of(messages), 2)
        await messages.aclose()

    async def test_it_ends_with_the_loop_that_breaks(self: Any) -> None:
        async def first() -> Any:
            async for message in subscribe("a", "b"):
                return message

        task = asyncio.create_task(first())
        await until_member("b")
        await apublish("b", "enough")
        self.assertEqual(await task, "enough")
        await until_empty(get_hub())

    async def test_it_ends_with_the_task_that_is_cancelled(self: Any) -> None:
        task = asyncio.create_task(next_of(subscribe("a")))
        await until_member("a")
        task.cancel()
        await asyncio.wait([task])
        await until_empty(get_hub())

    @override_settings(WEBSOCKET_OUTBOX_SIZE=1000)
    async def test_who_falls_behind_is_told(self: Any) -> None:
        messages = subscribe("a")
        task = asyncio.create_task(next_of(messages))
        await until_member("a")
        await apublish("a", 0)
        self.assertEqual(await task, 0)
        for number in range(1, 100):
            await apublish("a", number)
        with self.assertRaises(SubscriberTooSlow):
            while True:
                await next_of(messages)
        await until_empty(get_hub())

    @override_settings(WEBSOCKET_HISTORY={"a": 100}, WEBSOCKET_OUTBOX_SIZE=1000)
    async def test_one_whose_join_takes_too_long_is_told_too(self: Any) -> None:
        hub: Any = get_hub()
        may_join = asyncio.Event()

        async def catch_up(group: str, since: Any) -> Any:
            await may_join.wait()
            return None, None

        hub.catch_up = catch_up
        messages: Any = subscribe("b", positions=True)
        async with messages:
            getting = asyncio.create_task(next_of(messages))
            joining = asyncio.create_task(messages.join("a"))
            await until_member("a")
            for number in range(100):
                await apublish("a", number)
            with self.assertRaises(SubscriberTooSlow):
                await getting
            self.assertLess(messages._mailbox.resume.held_size, 1200)
            may_join.set()
            await joining

    @override_settings(WEBSOCKET_OUTBOX_SIZE=1000, WEBSOCKET_SLOW_CLIENT="drop")
    async def test_who_falls_behind_loses_the_oldest_where_the_settings_say_so(
        self: Any,
    ) -> None:
        messages = subscribe("a")
        task = asyncio.create_task(next_of(messages))
        await until_member("a")
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
        await messages.aclose()

    @override_settings(WEBSOCKET_OUTBOX_SIZE=1000)
    async def test_a_message_larger_than_what_is_kept_arrives_all_the_same(self: Any) -> None:
        messages = subscribe("a")
        task = asyncio.create_task(next_of(messages))
        await until_member("a")
        await apublish("a", "x" * 5000)
        self.assertEqual(await task, "x" * 5000)
        await messages.aclose()

    @skipIf(django.VERSION < (4, 2), "Django 4.2 was the first to stream from async iterators.")
    async def test_server_sent_events_come_from_an_ordinary_view(self: Any) -> None:
        response: Any = await AsyncClient().get("/events/a/")
        stream = response.streaming_content
        self.assertEqual(await next_of(stream), b": hello\n\n")
        task = asyncio.create_task(next_of(stream))
        await until_member("a")
        await apublish("a", "news")
        self.assertEqual(await task, b"data: news\n\n")
        # As Django does when the client leaves.
        task = asyncio.create_task(next_of(stream))
        await asyncio.sleep(0)
        task.cancel()
        await until_empty(get_hub())


class Everything(Mailbox, Iterating):
    pass


@override_settings(ROOT_URLCONF=__name__, WEBSOCKET_REDIS_URL="")
class MemoryTests(Everything, SimpleTestCase):
    pass


@override_settings(ROOT_URLCONF=__name__)
class RedisTests(Everything, OnRedis):
    async def test_a_redis_that_is_far_away_makes_no_difference(self) -> None:
        async with self.proxy(delay=0.05):
            await Mailbox.test_it_listens_once_its_block_is_entered(self, times=2)
            await Mailbox.test_a_view_that_starts_a_relay_loses_nothing(self)
