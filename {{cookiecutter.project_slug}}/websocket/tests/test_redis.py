"""Groups over Redis, in what memory does not have: connections, and a Redis that goes away."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any
from unittest import mock

from asgiref.sync import sync_to_async
from django.test import override_settings

from websocket import conf
from websocket.connection import WebSocket
from websocket.groups import Message, PublishError, amembers, apublish, get_hub, publish
from websocket.testing import connect
from websocket.tests.redis_server import OnRedis, impatient
from websocket.urls import websocket


async def room(socket: WebSocket, name: str) -> None:
    """Join a room, and join again or leave as the client says."""
    await socket.accept()
    await socket.join(name)
    await socket.send_text("joined")
    async for message in socket.iter_text():
        try:
            await socket.join(message)
            await socket.send_text("joined")
        except PublishError:
            await socket.send_text("failed")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


urlpatterns = [websocket("echo/", echo), websocket("room/<name>/", room)]


class Member:
    """A member of groups that notes what it is told."""

    id = ""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.times_missed = 0
        self.news = asyncio.Event()

    def push(self, message: Message) -> None:
        self.received.append(message.value())
        self.news.set()

    def missed(self) -> None:
        self.times_missed += 1
        self.news.set()

    async def until(self, *, received: int = 0, missed: int = 0) -> None:
        async with asyncio.timeout(10):
            while len(self.received) < received or self.times_missed < missed:
                self.news.clear()
                await self.news.wait()


@override_settings(ROOT_URLCONF=__name__)
class RedisTests(OnRedis):
    async def count_subscriptions(self) -> int:
        async with self.redis_client() as client:
            return len(await client.client_list("pubsub"))

    async def test_a_process_has_one_subscription_however_many_sockets(self) -> None:
        async with asyncio.timeout(30):
            while await self.count_subscriptions():
                # Redis has not yet noticed that those of the test before are closed.
                await asyncio.sleep(0.01)
        async with connect("/room/a/") as one, connect("/room/b/") as two:
            for client in (one, two):
                await client.receive()
            self.assertEqual(await self.count_subscriptions(), 1)

    async def test_the_subscription_ends_when_it_is_cancelled_just_as_it_has_asked(self) -> None:
        """In Python 3.11, `asyncio.wait_for` returns then, as if it had not been cancelled."""
        from redis.asyncio.connection import Connection

        hub: Any = get_hub()
        send = Connection._send_packed_command

        async def send_and_cancel(connection: Connection, command: Any) -> None:
            await send(connection, command)
            if b"SUBSCRIBE" in b"".join(command):
                hub.server_of("a").task.cancel()

        with mock.patch.object(Connection, "_send_packed_command", send_and_cancel):
            hub.add("a", Member())
            done, _ = await asyncio.wait([hub.server_of("a").task], timeout=30)
        self.assertTrue(done)

    async def test_a_task_that_is_cancelled_just_as_it_has_asked_redis_is_cancelled(self) -> None:
        """In Python 3.11, redis-py swallows that, and a task that publishes would never end."""
        from redis.asyncio.connection import Connection

        hub: Any = get_hub()
        send = Connection._send_packed_command
        await apublish("a", "to be connected")

        async def send_and_cancel(connection: Connection, command: Any) -> None:
            await send(connection, command)
            asking.cancel()

        for ask in (
            lambda: apublish("a", "hello"),
            lambda: amembers("a"),
            lambda: hub.leases.ask("a", True, True, False),
        ):
            with mock.patch.object(Connection, "_send_packed_command", send_and_cancel):
                asking = asyncio.create_task(ask())
                await asyncio.wait([asking], timeout=30)
            self.assertTrue(asking.cancelled())

    async def test_projects_can_share_a_server(self) -> None:
        async with connect("/room/a/") as client:
            await client.receive()
            with override_settings(WEBSOCKET_REDIS_PREFIX="another:"):
                await apublish("a", "for another project")
            await apublish("a", "for this one")
            self.assertEqual(await client.receive(), "for this one")

    async def test_publishing_as_from_sync_code_is_a_mistake_that_is_named(self) -> None:
        async with connect("/room/a/") as client:
            await client.receive()
            with self.assertWarnsRegex(RuntimeWarning, r"`await apublish\(\)` in async code") as to:
                publish("a", "held up")
            self.assertEqual(to.filename, __file__)
            self.assertEqual(await client.receive(), "held up")

    async def test_groups_that_are_over_leave_nothing_behind(self) -> None:
        hub: Any = get_hub()
        async with connect("/room/stays/") as one, self.redis_client() as client:
            await one.receive()
            for number in range(10):
                async with connect(f"/room/{number}/") as two:
                    await two.receive()
            async with asyncio.timeout(30):
                # The process also listens for logouts, for messages to single sockets, and to a
                # channel that checks the connection.
                while len(await client.pubsub_channels()) != 4:
                    await asyncio.sleep(0.01)
            channels = hub.server_of("stays").channels
            self.assertEqual(list(channels)[1:], ["@auth", "stays"])

    async def test_event_loops_that_are_over_keep_no_connections(self) -> None:
        def publish_from_many_loops() -> None:
            for number in range(20):
                asyncio.run(apublish("a", number))

    async def test_messages_of_another_program_are_warned_of_once_and_ignored(self) -> None:
        async with connect("/room/a/") as member, self.redis_client() as other:
            await member.receive()
            with self.assertLogs("django.websocket") as logs:
                for data in (b"\xff", b"t\n\xff", b'{"json": 1}', b"", b"\n", b"text", b"true\n"):
                    await other.publish(f"{conf.REDIS_PREFIX}a", data)
                await apublish("a", "from this project")
                self.assertEqual(await member.receive(), "from this project")
            self.assertEqual(len(logs.records), 1)
            self.assertEqual(logs.records[0].levelname, "WARNING")
            self.assertIn(f"the Redis channel '{conf.REDIS_PREFIX}a'", logs.output[0])

    async def test_a_connection_that_was_closed_while_it_was_idle_loses_no_message(self) -> None:
        member = Member()
        await get_hub().join("a", member)
        async with self.redis_client() as other:
            for number in range(3):
                await apublish("a", number)
                await asyncio.to_thread(publish, "a", number)
                await other.client_kill_filter(_type="normal", skipme=True)
        await member.until(received=6)
        self.assertEqual(member.received, [0, 0, 1, 1, 2, 2])

    async def test_a_busy_event_loop_gets_several_messages_in_a_turn(self) -> None:
        hub, member, turns = get_hub(), Member(), 0
        hub.add("a", member)
        await hub.until_ready("a")

        def publish_all() -> None:
            for number in range(100):
                publish("a", str(number))

        def take_a_turn() -> None:
            nonlocal turns
            turns += 1
            time.sleep(0.02)
            if len(member.received) < 100:
                asyncio.get_running_loop().call_soon(take_a_turn)

        # The event loop stands still until all of them are there.
        publisher = threading.Thread(target=publish_all)
        publisher.start()
        publisher.join()
        take_a_turn()
        await member.until(received=100)
        self.assertEqual(member.received, [str(number) for number in range(100)])
        self.assertLess(turns, 100)

    async def test_a_message_whose_answer_is_lost_is_not_published_again(self) -> None:
        in_thread = sync_to_async(publish, thread_sensitive=False)
        async with self.proxy() as proxy, self.redis_client() as other:
            for publisher in (apublish, in_thread):
                await publisher("a", "connects")
                await other.config_resetstat()
                proxy.loses_answers = True
                with self.assertRaises(PublishError):
                    await publisher("a", "once")
                proxy.loses_answers = False
                statistics = await other.info("commandstats")
                self.assertEqual(statistics["cmdstat_publish"]["calls"], 1)


@override_settings(ROOT_URLCONF=__name__)
class OutageTests(OnRedis):
    async def until_confirmed(self, group: str, is_confirmed: bool = True) -> None:
        """Wait until the process knows that Redis sends it a group, or that it does not."""
        server = get_hub().server_of(group)  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            while server.channels[group].is_confirmed.is_set() is not is_confirmed:
                await asyncio.sleep(0.01)

    @impatient
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

    @impatient
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
            self.assertNotIn("a", get_hub().members)

    @impatient
    async def test_sockets_that_use_no_groups_work_where_redis_is_away(self) -> None:
        self.redis.kill()
        async with connect("/echo/") as client:
            await client.send_text("hello")
            self.assertEqual(await client.receive(), "hello")

    async def test_nobody_can_join_a_group_while_redis_is_away_and_members_load_again_after_it(
        self,
    ) -> None:
        async with connect("/room/a/") as member:
            await member.receive()
            with self.assertLogs("django.websocket", "ERROR"):
                self.redis.kill()
                await self.until_confirmed("a", False)
                with (
                    impatient,
                    self.assertLogs("django.request", "ERROR"),
                    self.assertRaises(PublishError),
                ):
                    async with connect("/room/a/") as client:
                        await client.receive()
            with self.assertLogs("django.websocket", "WARNING") as logs:
                self.redis.start()
                self.assertEqual(await member.wait_closed(), 1012)
            self.assertEqual(member.close_reason, "Messages may have been missed.")
            self.assertIn("Redis is back", logs.output[0])
        async with connect("/room/a/") as member:
            await member.receive()
            await apublish("a", "welcome back")
            self.assertEqual(await member.receive(), "welcome back")

    async def test_a_socket_that_joins_again_while_redis_is_away_stays_a_member(self) -> None:
        async with connect("/room/a/") as member:
            await member.receive()
            with self.assertLogs("django.websocket", "ERROR"):
                self.redis.kill()
                await self.until_confirmed("a", False)
                with impatient:
                    await member.send_text("a")
                    self.assertEqual(await member.receive(), "failed")
            self.assertEqual(len(get_hub().members["a"]), 1)

    async def test_a_socket_that_could_not_join_does_not_get_messages_later(self) -> None:
        async with connect("/room/a/") as member:
            await member.receive()
            with self.assertLogs("django.websocket", "ERROR"):
                self.redis.kill()
                await self.until_confirmed("a", False)
                with impatient:
                    await member.send_text("b")
                    self.assertEqual(await member.receive(), "failed")
                self.assertNotIn("b", get_hub().members)
                self.assertEqual(get_hub().joining, {})
                self.redis.start()
                self.assertEqual(await member.wait_closed(), 1012)
            self.assertNotIn("b", get_hub().members)

    @override_settings(WEBSOCKET_REDIS_TIMEOUT=30)
    async def test_a_client_that_leaves_while_its_view_joins_is_forgotten_at_once(self) -> None:
        async with connect("/echo/"), connect("/room/a/") as client:
            await client.receive()
            self.redis.freeze()
            async with connect("/room/b/") as late:
                async with asyncio.timeout(30):
                    while "b" not in get_hub().joining:
                        await asyncio.sleep(0.01)
                start = time.monotonic()
                await late.close()
                await late.wait_closed()
                self.assertLess(time.monotonic() - start, 4)
            self.assertNotIn("b", get_hub().members)
            self.redis.kill()

    async def test_a_mistake_in_the_hub_is_not_taken_for_a_lost_redis(self) -> None:
        member = Member()
        await get_hub().join("a", member)
        with (
            self.assertLogs("django.websocket", "ERROR") as logs,
            mock.patch.object(Message, "unpack", side_effect=ZeroDivisionError),
        ):
            await apublish("a", "lost")
            await self.until_confirmed("a", False)
        self.assertEqual(len(logs.records), 1)
        self.assertIn("Listening to Redis failed: trying again", logs.output[0])
        self.assertIn("ZeroDivisionError", logs.output[0])
        await member.until(missed=1)
        await apublish("a", "received")
        await member.until(received=1)


class MissedTests(OnRedis):
    """Members learn of messages that they may have missed."""

    async def joined(self, group: str = "a") -> Member:
        member = Member()
        await get_hub().join(group, member)
        self.assertEqual(member.times_missed, 0)
        return member

    async def check_that_it_learns(self, member: Member) -> None:
        """Check that a member learns of a gap, and then gets messages again."""
        await member.until(missed=1)
        await apublish("a", "after the gap")
        await member.until(received=1)
        self.assertEqual((member.received, member.times_missed), (["after the gap"], 1))

    async def test_when_redis_was_replaced_by_an_empty_one(self) -> None:
        member = await self.joined()
        with self.assertLogs("django.websocket", "ERROR"):
            self.redis.kill()
            self.redis.start()
            await self.check_that_it_learns(member)

    async def test_when_redis_closed_the_subscription(self) -> None:
        member = await self.joined()
        with self.assertLogs("django.websocket", "ERROR"):
            async with self.redis_client() as other:
                await other.client_kill_filter(_type="pubsub")
            await self.check_that_it_learns(member)

    async def test_when_the_connection_answers_and_the_subscription_is_gone(self) -> None:
        async with self.proxy() as proxy:
            with mock.patch("websocket.groups.server.CHECK_EVERY", 0.5):
                member = await self.joined()
            with self.assertLogs("django.websocket", "ERROR") as logs:
                await proxy.reconnect()
                await self.check_that_it_learns(member)
            self.assertIn("It answers, but does not send published messages", logs.output[0])

    async def test_when_other_groups_are_sent_by_the_connection(self) -> None:
        async with self.proxy() as proxy:
            with mock.patch("websocket.groups.server.CHECK_EVERY", 0.5):
                member = await self.joined()
            with self.assertLogs("django.websocket", "ERROR"):
                await proxy.reconnect()
                other = await self.joined("b")
                await apublish("b", "The new connection sends this.")
                await other.until(received=1)
                await self.check_that_it_learns(member)

    async def test_when_redis_confirms_too_late(self) -> None:
        early, late = await self.joined(), Member()
        self.redis.freeze()
        get_hub().add("b", late)
        with impatient, self.assertRaises(PublishError):
            await get_hub().join("b", Member())
        self.redis.thaw()
        await late.until(missed=1)
        self.assertEqual(early.times_missed, 0)

    async def test_one_that_joins_once_redis_is_back_has_missed_nothing(self) -> None:
        early, late = await self.joined(), Member()
        with self.assertLogs("django.websocket", "ERROR"):
            async with self.redis_client() as other:
                await other.client_kill_filter(_type="pubsub")
            server = get_hub().server_of("a")  # type: ignore[attr-defined]
            async with asyncio.timeout(30):
                while server.channels["a"].is_confirmed.is_set():
                    await asyncio.sleep(0)
            await get_hub().join("a", late)
        await early.until(missed=1)
        self.assertEqual(late.times_missed, 0)

    async def test_a_member_that_fails_keeps_it_from_no_other(self) -> None:
        class Failing(Member):
            def missed(self) -> None:
                raise ZeroDivisionError

        await get_hub().join("a", Failing())
        member = await self.joined()
        with self.assertLogs("django.websocket", "ERROR") as logs:
            async with self.redis_client() as other:
                await other.client_kill_filter(_type="pubsub")
            await self.check_that_it_learns(member)
        self.assertEqual(sum("ZeroDivisionError" in line for line in logs.output), 1)
