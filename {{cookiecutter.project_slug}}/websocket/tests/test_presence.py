"""Presence: the members of a group, by user, and the signal that tells of changes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest import mock

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.test import TransactionTestCase, override_settings

from websocket import conf
from websocket.auth import login
from websocket.connection import WebSocket
from websocket.groups import (
    PublishError,
    amember_count,
    amembers,
    get_hub,
    member_count,
    members,
    presence,
    presence_changed,
    publish,
)
from websocket.testing import ClientSocket, connect
from websocket.tests.redis_server import OnRedis, impatient
from websocket.tests.wire import until
from websocket.urls import websocket

User: Any = get_user_model()


async def room(socket: WebSocket, name: str) -> None:
    """Be present in a room; a text is the new info, "leave" ends it, "login" makes one known."""
    await socket.accept()
    await socket.join(name, presence={"name": socket.user.get_username()})
    await socket.send_text(socket.id)
    async for message in socket:
        if message == "leave":
            await socket.leave(name)
        elif message == "login":
            await login(socket, await sync_to_async(User.objects.get)(username="ada"))
        else:
            await socket.join(name, presence={"name": message})
        await socket.send_text("done")


async def try_infos(socket: WebSocket, name: str) -> None:
    await socket.accept()
    for info in ({"name": "x" * 1020}, {"a": object()}, 7):
        try:
            await socket.join(name, presence=info)
        except (TypeError, ValueError) as error:
            await socket.send_text(f"{type(error).__name__}: {error}")
    await socket.send_json(await amembers(name))


urlpatterns = [websocket("infos/<name>/", try_infos), websocket("room/<name>/", room)]


class Changes:
    """The signals that were sent, as a receiver in a thread sees them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[str, str, Any, bool]] = asyncio.Queue()
        self.is_main_thread = False

    def receive(self, group: str, key: str, info: Any, joined: bool, **kwargs: Any) -> None:
        self.is_main_thread = threading.current_thread() is threading.main_thread()
        change = group, key, info, joined
        self.loop.call_soon_threadsafe(self.queue.put_nowait, change)

    async def next(self) -> tuple[str, str, Any, bool]:
        return await asyncio.wait_for(self.queue.get(), 30)

    def __enter__(self) -> Changes:
        presence_changed.connect(self.receive)
        return self

    def __exit__(self, *exc_info: object) -> None:
        presence_changed.disconnect(self.receive)


@asynccontextmanager
async def enter(name: str, user: Any = None) -> AsyncIterator[Any]:
    """Enter a room, and tell the socket's id as `id`."""
    client: Any
    async with connect(f"/room/{name}/", user=user) as client:
        client.id = await client.receive()
        yield client


async def say(client: ClientSocket, text: str) -> None:
    await client.send_text(text)
    assert await client.receive() == "done"


class Everything:
    """What holds on memory and on Redis."""

    def setUp(self: Any) -> None:
        super().setUp()  # type: ignore[misc]
        self.ada = User.objects.create_user("ada")
        # Redis remembers the members of the tests before for a while.
        self.a, self.b, self.infos = (f"{name}.{uuid.uuid4().hex}" for name in ("a", "b", "infos"))
        # A user has a moment to come back: long enough for a test's next step.
        self.enterContext(mock.patch.object(presence, "RETURN", 0.5))

    async def test_an_anonymous_visitors_socket_is_a_member_by_its_id(self: Any) -> None:
        async with enter(self.a) as one, enter(self.a) as two:
            self.assertEqual(await amembers(self.a), {one.id: {"name": ""}, two.id: {"name": ""}})
            self.assertEqual(await amember_count(self.a), 2)
            self.assertEqual(await amembers(self.b), {})
            self.assertEqual(await amember_count(self.b), 0)

    async def test_the_members_can_be_read_from_sync_code(self: Any) -> None:
        async with enter(self.a, self.ada):
            found = await sync_to_async(members)(self.a)
            self.assertEqual(found, {str(self.ada.pk): {"name": "ada"}})
            self.assertEqual(await sync_to_async(member_count)(self.a), 1)

    async def test_two_tabs_of_a_user_are_one_member(self: Any) -> None:
        with Changes() as changes:
            async with enter(self.a, self.ada), enter(self.a, self.ada), enter(self.a, self.ada):
                self.assertEqual(await amembers(self.a), {str(self.ada.pk): {"name": "ada"}})
                self.assertEqual(await amember_count(self.a), 1)
            pk, info = str(self.ada.pk), {"name": "ada"}
            self.assertEqual(await changes.next(), (self.a, pk, info, True))
            self.assertEqual(await changes.next(), (self.a, pk, info, False))
            self.assertFalse(changes.is_main_thread)
        self.assertEqual(await amembers(self.a), {})
        self.assertEqual(get_hub().presence.groups, {})

    async def test_a_reload_is_neither_a_leave_nor_a_join(self: Any) -> None:
        with Changes() as changes:
            with mock.patch.object(presence, "RETURN", 60):
                for _ in range(2):
                    async with enter(self.a, self.ada):
                        pass
            async with enter(self.a, self.ada):
                pass
            async with enter(self.a) as visitor:
                pass
            heard = [await changes.next() for _ in range(4)]
        pk = str(self.ada.pk)
        self.assertEqual([change[3] for change in heard if change[1] == pk], [True, False])
        self.assertEqual([change[3] for change in heard if change[1] == visitor.id], [True, False])

    async def test_a_user_has_the_whole_time_to_come_back_each_time(self: Any) -> None:
        timers, times = list[Any](), list[float]()
        with Changes() as changes, mock.patch.object(presence, "RETURN", 60):
            for _ in range(3):
                times.append(asyncio.get_running_loop().time())
                async with enter(self.a, self.ada):
                    pass
                await until(lambda: not get_hub().presence.groups[self.a][str(self.ada.pk)].count)
                timers.append(get_hub().presence.groups[self.a][str(self.ada.pk)].timer)
            self.assertEqual((await changes.next())[3], True)
            self.assertTrue(changes.queue.empty())
        self.assertEqual([timer.cancelled() for timer in timers], [True, True, False])
        for time, timer in zip(times, timers, strict=True):
            self.assertGreaterEqual(timer.when(), time + 60)

    async def test_changes_that_receivers_were_not_told_of_are_not_kept(self: Any) -> None:
        may_go_on = threading.Event()

        def wait(**kwargs: Any) -> None:
            may_go_on.wait(30)

        presence_changed.connect(wait)
        try:
            async with enter(self.a):
                for _ in range(50):
                    async with enter(self.a):
                        pass
                self.assertLess(len(get_hub().presence.changes), 3)
        finally:
            may_go_on.set()
            presence_changed.disconnect(wait)

    async def test_a_receiver_may_publish_and_read_the_members(self: Any) -> None:
        def announce(group: str, key: str, **kwargs: Any) -> None:
            if group == self.a:
                publish(self.b, [key, member_count(self.a), User.objects.get(pk=key).username])

        presence_changed.connect(announce)
        try:
            async with enter(self.b) as client, enter(self.a, self.ada):
                self.assertEqual(await client.receive_json(), [str(self.ada.pk), 1, "ada"])
        finally:
            presence_changed.disconnect(announce)

    async def test_a_receiver_that_fails_is_logged_and_keeps_nobody_out(self: Any) -> None:
        has_failed = threading.Event()

        def fail(**kwargs: Any) -> None:
            has_failed.set()
            raise RuntimeError("This receiver fails.")

        presence_changed.connect(fail)
        try:
            with self.assertLogs("django", "ERROR") as logs, Changes() as changes:
                async with enter(self.a):
                    pass
                await asyncio.to_thread(has_failed.wait, 30)
                presence_changed.disconnect(fail)
                async with enter(self.b):
                    while (await changes.next())[0] != self.b:
                        pass
        finally:
            presence_changed.disconnect(fail)
        self.assertIn("This receiver fails.", logs.output[0])

    async def test_a_new_info_replaces_the_old_one(self: Any) -> None:
        with Changes() as changes:
            async with enter(self.a, self.ada) as client:
                await say(client, "countess")
                self.assertEqual(await amembers(self.a), {str(self.ada.pk): {"name": "countess"}})
                await say(client, "leave")
            heard = [await changes.next() for _ in range(2)]
        self.assertEqual(
            [change[2:] for change in heard],
            [({"name": "ada"}, True), ({"name": "countess"}, False)],
        )

    async def test_one_who_leaves_the_group_is_no_member(self: Any) -> None:
        with Changes() as changes:
            async with enter(self.a) as client, enter(self.a, self.ada) as ada:
                joined = {(await changes.next())[1], (await changes.next())[1]}
                await say(client, "leave")
                await say(ada, "leave")
                left = {(await changes.next())[1::2], (await changes.next())[1::2]}
            self.assertEqual(joined, {client.id, str(self.ada.pk)})
            self.assertEqual(left, {(client.id, False), (str(self.ada.pk), False)})
            self.assertEqual(await amember_count(self.a), 0)

    async def test_one_who_logs_in_by_a_message_is_a_member_as_that_user(self: Any) -> None:
        with Changes() as changes:
            async with enter(self.a) as client:
                self.assertEqual((await changes.next())[1::2], (client.id, True))
                await say(client, "login")
                heard = [(await changes.next())[1::2] for _ in range(2)]
                self.assertEqual(heard, [(str(self.ada.pk), True), (client.id, False)])
                self.assertEqual(await amembers(self.a), {str(self.ada.pk): {"name": ""}})

    async def test_an_info_that_is_too_large_or_is_not_json_is_an_error(self: Any) -> None:
        async with connect(f"/infos/{self.infos}/") as client:
            self.assertEqual(
                await client.receive(),
                'ValueError: presence= may have 1024 bytes of JSON, such as {"name": "Anna"}; this '
                "one has 1031.",
            )
            self.assertRegex(
                await client.receive(),
                'TypeError: presence= takes a value for JSON, such as {"name": "Anna"}: Object of '
                "type object is not JSON serializable",
            )
            self.assertEqual(list((await client.receive_json()).values()), [7])

    async def test_a_name_is_checked(self: Any) -> None:
        for function in (amembers, amember_count):
            with self.assertRaisesRegex(ValueError, "A group name has"):
                await function("a b")
        for sync_function in (members, member_count):
            with self.assertRaisesRegex(ValueError, "A group name has"):
                sync_function("a b")

    async def test_joins_that_are_cancelled_leave_nobody_behind(self: Any) -> None:
        hub = get_hub()
        with Changes() as changes:
            for steps in range(20):
                identity = presence.Identity(f"{steps}", False)
                task = asyncio.create_task(hub.presence.join(self.a, identity, "1"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                if not task.done():
                    task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    hub.presence.leave(self.a, identity)
            await until(lambda: not (hub.presence.groups or hub.presence.is_telling))
            self.assertEqual(await amembers(self.a), {})
        joined = [changes.queue.get_nowait() for _ in range(changes.queue.qsize())]
        self.assertEqual(len([c for c in joined if c[3]]), len([c for c in joined if not c[3]]))


@override_settings(ROOT_URLCONF=__name__)
class MemoryTests(Everything, TransactionTestCase):
    pass


# A process that is present in a group, as the user with a key, until it is killed.
OTHER = """
import asyncio, sys, django
django.setup()
from django.test import override_settings
from websocket.groups import get_hub, presence

async def main(url, group, key):
    with override_settings(WEBSOCKET_REDIS_URL=url):
        await get_hub().presence.join(group, presence.Identity(key, True), "7")
        print("in", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def other_process(url: str, group: str, key: str) -> AsyncIterator[None]:
    """Run another process that is present in a group."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OTHER, url, group, key),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"in\n"
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def enter_and_lose_the_answer(enter: Any) -> Any:
    async def lose(*arguments: Any) -> Any:
        await enter(*arguments)
        raise PublishError("The answer was lost.")

    return lose


@override_settings(ROOT_URLCONF=__name__)
class RedisTests(Everything, OnRedis, TransactionTestCase):
    async def test_a_user_with_sockets_in_two_processes_is_one_member(self) -> None:
        pk = str(self.ada.pk)
        with Changes() as changes:
            async with other_process(self.redis.url, self.a, pk):
                async with enter(self.a, self.ada):
                    self.assertEqual(await amembers(self.a), {pk: {"name": "ada"}})
                async with enter(self.a) as visitor:
                    await say(visitor, "leave")
                await until(lambda: not get_hub().presence.groups)
                self.assertEqual(await amember_count(self.a), 1)
                heard = [await changes.next() for _ in range(2)]
            self.assertEqual([change[1] for change in heard], [visitor.id, visitor.id])
            self.assertTrue(changes.queue.empty())

    async def test_the_members_of_a_process_that_was_killed_are_forgotten(self) -> None:
        from websocket.groups.redis_presence import LIFETIME

        self.enterContext(mock.patch("websocket.groups.redis_presence.RENEW", 0.2))
        with Changes() as changes:
            async with enter(self.a) as visitor:
                self.assertEqual((await changes.next())[1], visitor.id)
                async with other_process(self.redis.url, self.a, "7"):
                    self.assertEqual((await amembers(self.a))["7"], 7)
                # Its entry lasts for LIFETIME; do not wait for that here.
                async with self.redis_client() as client:
                    entries = await client.zrange(conf.redis_key(self.a, "p"), 0, -1)
                    (holder,) = [entry for entry in entries if entry.endswith(b":7")]
                    left = await client.zscore(conf.redis_key(self.a, "p"), holder)
                    now = (await client.time())[0]
                    self.assertLess(left / 1000 - now, LIFETIME + 1)
                    await client.zadd(conf.redis_key(self.a, "p"), {holder: now * 1000})
                self.assertEqual(await changes.next(), (self.a, "7", 7, False))
                self.assertEqual(list(await amembers(self.a)), [visitor.id])

    async def test_a_process_renews_all_of_its_members_at_once(self) -> None:
        hub: Any = get_hub()
        for number in range(2500):
            await hub.presence.join(self.a, presence.Identity(f"{number}", True), "1")
        await hub.presence.join(self.b, presence.Identity("1", True), "1")
        async with self.redis_client() as client:
            before = await client.info("commandstats")
            await hub.presence.renew_all()
            after = await client.info("commandstats")
        calls = {
            name: after[key]["calls"] - before.get(key, {"calls": 0})["calls"]
            for name in ("evalsha", "zadd")
            for key in [f"cmdstat_{name}"]
        }
        self.assertEqual(calls, {"evalsha": 4, "zadd": 4})  # A thousand of one group in each.

    async def test_a_redis_that_was_emptied_knows_the_members_again(self) -> None:
        hub: Any = get_hub()
        async with enter(self.a, self.ada), self.redis_client() as client:
            await client.flushall()
            self.assertEqual(await amembers(self.a), {})
            await hub.presence.renew_all()
            self.assertEqual(await amembers(self.a), {str(self.ada.pk): {"name": "ada"}})

    async def test_a_member_whose_entry_is_not_confirmed_is_none(self) -> None:
        hub: Any = get_hub()
        with Changes() as changes:
            await hub.presence.join(self.a, presence.Identity("1", True), "1")
            self.assertEqual(await changes.next(), (self.a, "1", 1, True))
            enter = hub.presence.enter
            hub.presence.enter = enter_and_lose_the_answer(enter)
            with self.assertRaises(PublishError):
                await hub.presence.join(self.a, presence.Identity("2", True), "2")
            self.assertEqual(await amembers(self.a), {"1": 1})
            hub.presence.enter = enter
            await hub.presence.join(self.a, presence.Identity("2", True), "2")
            self.assertEqual(await changes.next(), (self.a, "2", 2, True))

    async def test_the_entries_are_renewed_after_an_outage(self) -> None:
        hub: Any = get_hub()
        self.enterContext(mock.patch("websocket.groups.redis_presence.RENEW", 0.05))
        async with enter(self.a, self.ada):
            with self.assertLogs("django.websocket", "WARNING") as logs:
                self.redis.kill()
                await until(lambda: any("the members of groups" in line for line in logs.output))
            self.redis.start()
            async with asyncio.timeout(30):
                while True:
                    with suppress(PublishError):
                        if await amember_count(self.a):
                            break
                    await asyncio.sleep(0.05)
            self.assertIsNotNone(hub.presence.renewing)

    async def test_nothing_of_a_group_stays_in_redis(self) -> None:
        async with enter(self.a) as client:
            await say(client, "leave")
        async with self.redis_client() as redis, asyncio.timeout(30):
            while await redis.keys(f"*{self.a}*"):
                await asyncio.sleep(0.01)

    async def test_one_cannot_be_present_while_redis_is_away(self) -> None:
        with impatient, self.assertLogs("django", "ERROR"), self.assertRaises(PublishError):
            async with enter(self.a) as client:
                self.redis.kill()
                await client.send_text("new name")
                await client.receive()
