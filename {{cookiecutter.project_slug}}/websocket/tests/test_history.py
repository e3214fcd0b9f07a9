"""Histories: a client that was away gets what it missed, once and in order, or is told so."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from unittest import mock

from django.test import SimpleTestCase, override_settings

from websocket import conf
from websocket.connection import WebSocket, WebSocketDisconnect
from websocket.groups import (
    MessagesMissed,
    PublishError,
    aposition,
    apublish,
    get_hub,
    history,
    position,
    subscribe,
)
from websocket.groups.subscription import Mailbox
from websocket.resume import Position, key_of, resume_of
from websocket.testing import connect
from websocket.tests.redis_server import OnRedis
from websocket.tests.test_outbox import SlowClient
from websocket.tests.test_redis import Member
from websocket.urls import websocket


async def room(socket: WebSocket, name: str) -> None:
    """Join a room, and tell whether nothing was missed; then say what the client says."""
    await socket.accept()
    is_complete = await socket.join(name)
    await socket.send_text("complete" if is_complete else "state")
    async for message in socket:
        if message == "again":
            await socket.leave(name)
            await socket.send_json(await socket.join(name))
        else:
            await apublish(name, message, exclude=socket)
            await socket.send_text("said")


#: The rooms whose state is there.
loaded: set[str] = set()


async def slow(socket: WebSocket, name: str) -> None:
    """Take some time for the state."""
    await socket.accept()
    if not await socket.join(name):
        while name not in loaded:
            await asyncio.sleep(0.01)
        await socket.send_text("state")
    async for _ in socket:
        pass


async def twice(socket: WebSocket, name: str) -> None:
    await socket.accept()
    await socket.send_json(await asyncio.gather(socket.join(name), socket.join(name)))


async def left(socket: WebSocket, name: str) -> None:
    """Leave a room while one join waits for Redis, and another one for the first."""
    await socket.accept()
    joins = [asyncio.create_task(socket.join(name)) for _ in range(2)]
    await asyncio.sleep(0)
    await socket.leave(name)
    await asyncio.gather(*joins)
    await socket.send_json(len(get_hub().members.get(name, ())))


async def never(socket: WebSocket, name: str) -> None:
    await socket.accept()


async def until_joined(group: str) -> None:
    while not get_hub().members.get(group):
        await asyncio.sleep(0.01)


async def plain(socket: WebSocket) -> None:
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


urlpatterns = [
    websocket("left/<name>/", left),
    websocket("never/<name>/", never),
    websocket("plain/", plain),
    websocket("room/<name>/", room),
    websocket("slow/<name>/", slow),
    websocket("twice/<name>/", twice),
]


class Page:
    """A page that resumes: what client.js does, without a browser."""

    def __init__(self, path: str, position: str = "") -> None:
        self.path = path
        self.ids: list[str] = []
        self.positions: dict[str, Position] = {}
        self.messages: list[str | bytes] = []
        self.duplicates = self.connections = 0
        if parsed := Position.parse(position):
            self.positions[parsed.key] = parsed

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Page]:
        asked = ",".join([".".join(self.ids), *map(str, self.positions.values())])
        self.connections += 1
        async with connect(f"{self.path}?resume={asked}") as self.client:
            yield self

    async def next(self) -> str | bytes:
        """Return the next message that is new to the page."""
        while True:
            data: Any = await self.client.receive()
            line, found, rest = data.partition("\n" if isinstance(data, str) else b"\n")
            line = line if isinstance(line, str) else line.decode()
            reached = Position.parse(line)
            if not found and reached is None:
                assert re.fullmatch("[0-9a-f]{32}", line)
                if line not in self.ids:
                    self.ids = [*self.ids, line][-4:]
                continue
            if reached is not None:
                known = self.positions.get(reached.key)
                is_known = known and known.epoch == reached.epoch and known.offset >= reached.offset
                self.positions[reached.key] = reached
                if found and is_known:
                    self.duplicates += 1
                    continue
            if found:
                return rest  # type: ignore[no-any-return]

    async def load(self) -> None:
        """Get the state, as a page that is new, and the position and id after it."""
        assert await self.next() == "state"
        ids = self.ids
        while self.ids == ids:
            data: Any = await self.client.receive()
            if reached := Position.parse(data):
                self.positions[reached.key] = reached
            else:
                self.ids = [*self.ids, data][-4:]

    async def read(self, number: int) -> list[str | bytes]:
        return [await self.next() for _ in range(number)]


class Everything:
    """What holds in memory and over Redis."""

    def setUp(self: Any) -> None:
        super().setUp()  # type: ignore[misc]
        self.group = f"kept.{uuid.uuid4().hex}"
        self.path = f"/room/{self.group}/"
        self.enterContext(
            override_settings(
                ROOT_URLCONF=__name__, WEBSOCKET_HISTORY={"kept.": 100, "kept.few.": 3}
            )
        )

    async def test_a_page_that_was_away_gets_what_it_missed_once_and_in_order(self: Any) -> None:
        page = Page(self.path)
        async with page.connected():
            self.assertEqual(await page.next(), "state")
            await apublish(self.group, "first")
            self.assertEqual(await page.next(), "first")
        for message in ("text", b"\x00\xff", {"some": "json"}):
            await apublish(self.group, message)
        async with page.connected():
            await apublish(self.group, "live")
            self.assertEqual(await page.read(3), ["text", b"\x00\xff", '{"some":"json"}'])
            self.assertEqual(sorted(await page.read(2), key=str), ["complete", "live"])
        async with page.connected():
            self.assertEqual(await page.next(), "complete")
        self.assertEqual(page.duplicates, 0)

    async def test_a_page_that_is_cut_off_before_it_has_its_state_gets_it_again(
        self: Any,
    ) -> None:
        page = Page(f"/slow/{self.group}/")
        async with page.connected():
            await until_joined(self.group)
            await apublish(self.group, "live")  # Before the state, which the page never gets.
            self.assertEqual(await page.next(), "live")
        async with page.connected():
            await until_joined(self.group)
            loaded.add(self.group)
            self.assertEqual(await page.next(), "state")

    async def test_a_socket_may_join_a_group_twice_at_once(self: Any) -> None:
        async with Page(f"/twice/{self.group}/").connected() as page:
            self.assertEqual(await page.next(), "[false,true]")

    async def test_an_author_who_loses_connections_gets_no_own_message_back(self: Any) -> None:
        page = Page(self.path)
        async with page.connected():
            await page.load()
            await page.client.send_text("mine")
            self.assertEqual(await page.next(), "said")
        for _ in range(2):  # Lost before a join.
            async with Page(f"/never/{self.group}/").connected():
                pass
        await apublish(self.group, "late", exclude=page.ids[-1])  # The old view's last words.
        async with page.connected():
            await apublish(self.group, "later", exclude=page.ids[-1])
            await apublish(self.group, "another's")
            self.assertEqual(sorted(map(str, await page.read(2))), ["another's", "complete"])

    async def test_a_quiet_group_can_be_resumed_too(self: Any) -> None:
        page = Page(self.path)
        async with page.connected():
            await page.load()
        async with page.connected():
            self.assertEqual(await page.next(), "complete")

    async def test_three_hundred_messages_survive_connections_that_are_cut(self: Any) -> None:
        page, got = Page(self.path), list[Any]()
        async with page.connected():
            await page.load()

        async def publish_all() -> None:
            for number in range(300):
                await apublish(self.group, f"{number}")
                await asyncio.sleep(0.002)

        publishing = asyncio.create_task(publish_all())
        while len(got) < 300:
            async with page.connected():
                for _ in range(40):
                    message = await page.next()
                    if message != "complete":
                        got.append(message)
                    if len(got) == 300:
                        break
        await publishing
        self.assertEqual(got, [f"{number}" for number in range(300)])

    async def test_what_is_published_between_the_page_and_its_socket_arrives(self: Any) -> None:
        await apublish(self.group, "in the page already")
        read = await aposition(self.group)
        get_hub().is_serving = True
        self.assertEqual(await asyncio.to_thread(position, self.group), read)
        await apublish(self.group, "missed")
        page = Page(self.path, read)
        async with page.connected():
            self.assertEqual(await page.read(2), ["missed", "complete"])

    async def test_a_position_is_there_before_the_first_message(self: Any) -> None:
        page = Page(self.path, await aposition(self.group))
        await apublish(self.group, "first")
        async with page.connected():
            self.assertEqual(await page.read(2), ["first", "complete"])

    async def test_one_that_was_away_for_too_long_is_told(self: Any) -> None:
        group = self.group.replace("kept.", "kept.few.")
        page = Page(f"/room/{group}/")
        async with page.connected():
            self.assertEqual(await page.next(), "state")
        for number in range(4):
            await apublish(group, f"{number}")
        async with page.connected():
            self.assertEqual(await page.next(), "state")
            await apublish(group, "live")
            self.assertEqual(await page.next(), "live")

    async def test_positions_of_another_epoch_or_the_future_are_told_too(self: Any) -> None:
        await apublish(self.group, "one")
        now = Position.parse(await aposition(self.group))
        assert now is not None
        for wrong in (now._replace(epoch="0" * 8), now._replace(offset=2)):
            async with Page(self.path, str(wrong)).connected() as page:
                self.assertEqual(await page.next(), "state")

    async def test_a_position_grants_nothing(self: Any) -> None:
        other = f"kept.{uuid.uuid4().hex}"
        before = await aposition(other)
        await apublish(other, "secret")
        page = Page(self.path, before)
        async with page.connected():
            self.assertEqual(await page.next(), "state")
            await page.client.send_text("hello")
            self.assertEqual(await page.next(), "said")

    async def test_authors_do_not_get_their_own_messages_back(self: Any) -> None:
        author, reader = Page(self.path), Page(self.path)
        async with author.connected(), reader.connected():
            await author.next()
            await reader.next()
            await author.client.send_text("mine")
            self.assertEqual(await author.next(), "said")
            self.assertEqual(await reader.next(), "mine")
            # The author's connection is lost before it hears of anything after that.
        await apublish(self.group, "another's")
        async with author.connected():
            self.assertEqual(await author.read(2), ["another's", "complete"])

    async def test_one_that_leaves_and_joins_again_gets_what_came_between(self: Any) -> None:
        page = Page(self.path)
        async with page.connected():
            await page.next()
            await page.client.send_text("again")
            self.assertEqual(await page.next(), "true")
            self.assertEqual(page.duplicates, 0)

    async def test_clients_that_do_not_ask_see_no_difference(self: Any) -> None:
        async with connect(self.path) as client:
            self.assertEqual(await client.receive(), "state")
            for message in ("text", b"bytes", 7):
                await apublish(self.group, message)
            self.assertEqual([await client.receive() for _ in range(3)], ["text", b"bytes", "7"])

    async def test_messages_of_groups_without_a_history_are_marked_as_such(self: Any) -> None:
        group = uuid.uuid4().hex
        async with connect(f"/room/{group}/?resume") as client:
            self.assertEqual(await client.receive(), "\nstate")
            await apublish(group, "text")
            await apublish(group, b"bytes")
            self.assertEqual([await client.receive() for _ in range(2)], ["\ntext", b"\nbytes"])
        async with connect("/plain/?resume=") as client:
            await client.send_text("text")
            await client.send_bytes(b"bytes")
            self.assertEqual([await client.receive() for _ in range(2)], ["\ntext", b"\nbytes"])

    async def test_a_group_without_a_history_has_no_position(self: Any) -> None:
        with self.assertRaisesRegex(ValueError, "has no history: add it to WEBSOCKET_HISTORY"):
            await aposition("fleeting")
        with self.assertRaisesRegex(ValueError, "has no history"):
            await asyncio.to_thread(position, "fleeting")

    async def test_more_than_an_outbox_holds_is_not_resumed(self: Any) -> None:
        page = Page(self.path)
        async with page.connected():
            await page.load()
        for _ in range(3):
            await apublish(self.group, "x" * 1000)
        with override_settings(WEBSOCKET_OUTBOX_SIZE=2500):
            async with page.connected():
                self.assertEqual(await page.next(), "state")

    async def test_a_slow_page_is_closed_and_resumes(self: Any) -> None:
        """Also if slow clients otherwise lose their oldest messages."""
        page = Page(self.path)
        with override_settings(WEBSOCKET_OUTBOX_SIZE=50_000, WEBSOCKET_SLOW_CLIENT="drop"):
            with mock.patch("websocket.testing.ClientSocket", SlowClient):
                connection = page.connected()
                await connection.__aenter__()
            await page.load()
            client: Any = page.client
            client.reads.clear()
            with self.assertLogs("django.websocket", "WARNING"):
                for number in range(60):
                    await apublish(self.group, f"{number} {'x' * 1000}")
                await client.wait_closed()
            client.reads.set()
            await connection.__aexit__(None, None, None)
        async with page.connected():
            got = await page.read(61)
        self.assertEqual(
            [str(message).split()[0] for message in got[:60]], [f"{number}" for number in range(60)]
        )
        self.assertEqual(got[-1], "complete")

    async def test_a_subscriber_gets_positions_and_can_go_on_from_one(self: Any) -> None:
        async with subscribe(self.group, "fleeting", positions=True) as inbox:
            await apublish(self.group, 1)
            await apublish("fleeting", 2)
            first, value = await anext(inbox)
            self.assertEqual(value, 1)
            self.assertEqual(await anext(inbox), ("", 2))
        await apublish(self.group, 3)
        async with subscribe(positions=True) as inbox:
            self.assertTrue(await inbox.join(self.group, since=first))
            await apublish(self.group, 4)
            self.assertEqual([(await anext(inbox))[1] for _ in range(2)], [3, 4])
            self.assertFalse(await inbox.join(f"{self.group}.b", since=first))

    async def test_a_hundred_pages_resume_at_once(self: Any) -> None:
        before = await aposition(self.group)
        for number in range(50):
            await apublish(self.group, f"{number}")

        async def resume() -> list[Any]:
            async with Page(self.path, before).connected() as page:
                return await page.read(51)

        wanted = [*(f"{number}" for number in range(50)), "complete"]
        for got in await asyncio.gather(*(resume() for _ in range(100))):
            self.assertEqual(got, wanted)


class AskingTests(SimpleTestCase):
    def test_what_is_malformed_is_ignored(self) -> None:
        good = "0123abcd.00000000-7"
        id = "a" * 32
        for asked, wanted in (
            ("resume", []),
            ("a=1&resume=", []),
            (f"resume={id}", []),
            (f"resume=,{good}", [good]),
            (f"resume={id},{good},x,{good.upper()},{good}.,,", [good]),
            (f"resume=,{good.replace('7', '9' * 16)}", []),
        ):
            with self.subTest(asked):
                resume = resume_of(asked.encode())
                assert resume is not None
                self.assertEqual([str(one) for one in resume.positions.values()], wanted)
        for asked in ("", "resumed=1", "resume=true", "a=resume", "resume=" + "a" * 31):
            self.assertIsNone(resume_of(asked.encode()), asked)

    def test_no_more_than_a_hundred_positions_and_four_kibibytes_are_looked_at(self) -> None:
        positions = [f"{number:08x}.00000000-1" for number in range(200)]
        resume = resume_of(("resume=," + ",".join(positions)).encode())
        assert resume is not None
        self.assertEqual(len(resume.positions), 100)
        resume = resume_of(("resume=," + "x" * 5000 + "," + positions[0]).encode())
        assert resume is not None
        self.assertEqual(resume.positions, {})

    def test_the_name_of_a_group_stays_on_the_server(self) -> None:
        self.assertRegex(key_of("user.7"), "[0-9a-f]{8}")
        self.assertNotEqual(key_of("user.7"), key_of("user.8"))


@override_settings(WEBSOCKET_REDIS_URL="")
class MemoryTests(Everything, SimpleTestCase):
    async def test_the_memory_of_all_groups_is_bounded(self) -> None:
        kept = get_hub().history
        with mock.patch.object(history, "MAX_SIZE", 10_000):
            for number in range(50):
                await apublish(f"{self.group}.{number}", "x" * 1000)
            self.assertLess(kept.size, 10_000)
            self.assertEqual(kept.size, sum(one.size for one in kept.kept.values()))
            self.assertIn(f"{self.group}.49", kept.kept)
        with mock.patch.object(history, "MAX_GROUPS", 5):
            await apublish(self.group, "")
            self.assertEqual(len(kept.kept), 5)

    async def test_messages_are_kept_for_some_time(self) -> None:
        before = await aposition(self.group)
        await apublish(self.group, "one")
        with override_settings(WEBSOCKET_HISTORY_TTL=0):
            await asyncio.sleep(0.001)
            async with Page(self.path, before).connected() as page:
                self.assertEqual(await page.next(), "state")


class RedisTests(Everything, OnRedis):
    async def read_on(self, page: Page, got: list[Any], number: int) -> None:
        """Read as a page does that comes back whenever its connection is lost."""
        while len(got) < number:
            with suppress(WebSocketDisconnect):
                async with page.connected():
                    while len(got) < number:
                        message = await page.next()
                        if message == "state":
                            raise AssertionError("The page was told to load again.")
                        if message != "complete":
                            got.append(message)

    async def test_a_subscription_that_is_killed_under_load_loses_nothing(self) -> None:
        page, got = Page(self.path), list[Any]()
        async with page.connected():
            await page.load()
        reading = asyncio.create_task(self.read_on(page, got, 300))
        with self.assertLogs("django.websocket", "ERROR"):
            async with self.redis_client() as client:
                for number in range(300):
                    if number % 100 == 50:
                        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                    await apublish(self.group, f"{number}")
                    await asyncio.sleep(0.002)
            await asyncio.wait_for(reading, 30)
        self.assertEqual(got, [f"{number}" for number in range(300)])
        self.assertEqual(page.connections, 2)  # It has noticed nothing.

    async def test_a_gap_is_closed_and_nobody_notices(self) -> None:
        async with connect(self.path) as client:
            await client.receive()
            for number in range(3):
                await apublish(self.group, f"{number}")
                self.assertEqual(await client.receive(), f"{number}")
            hub: Any = get_hub()
            server = hub.server_of(self.group)
            receive, server.receive = server.receive, lambda *arguments: None
            await apublish(self.group, "lost on the way")
            await self.until_received("probe", server)
            server.receive = receive
            await apublish(self.group, "after it")
            self.assertEqual(
                [await client.receive() for _ in range(2)], ["lost on the way", "after it"]
            )

    async def until_received(self, group: str, server: Any) -> None:
        """Wait until what was published so far has been received."""
        received = asyncio.Event()
        receive, server.receive = server.receive, lambda *arguments: received.set()
        server.subscribe(group)
        await server.channels[group].is_confirmed.wait()
        await apublish(group, "")
        await asyncio.wait_for(received.wait(), 30)
        server.receive = receive
        server.unsubscribe(group)

    async def lose(self, hub: Any, *messages: str) -> None:
        """Publish messages that get lost on their way from Redis."""
        server = hub.server_of(self.group)
        receive, server.receive = server.receive, lambda *arguments: None
        for message in messages:
            await apublish(self.group, message)
        await self.until_received("probe", server)
        server.receive = receive

    async def test_a_join_while_a_gap_is_filled_loses_nothing(self) -> None:
        page = Page(self.path)
        async with page.connected():
            await page.load()
        async with connect(self.path) as client:
            await client.receive()
            hub: Any = get_hub()
            await self.lose(hub, "lost")
            hub.lost(self.group)
            async with page.connected():
                await apublish(self.group, "next")
                got = await page.read(3)
                self.assertEqual([one for one in got if one != "complete"], ["lost", "next"])
            self.assertEqual([await client.receive() for _ in range(2)], ["lost", "next"])

    async def test_nothing_is_delivered_after_a_gap_that_cannot_be_filled(self) -> None:
        pages = [Page(self.path) for _ in range(20)]
        async with AsyncExitStack() as stack:
            for page in pages:
                await stack.enter_async_context(page.connected())
                await page.load()
            hub: Any = get_hub()
            inbox = await stack.enter_async_context(subscribe(self.group, positions=True))
            await self.lose(hub, *(f"lost {number}" for number in range(120)))
            for number in range(30):
                await apublish(self.group, f"after {number}")
            for page in pages:
                with self.assertRaises(WebSocketDisconnect) as closed:
                    await page.next()
                self.assertEqual(closed.exception.code, 1012)
            with self.assertRaises(MessagesMissed):
                await anext(inbox)
        async with pages[-1].connected():
            self.assertEqual(await pages[-1].next(), "state")

    async def test_a_message_on_its_way_when_the_last_member_leaves_is_not_kept_for_the_next(
        self,
    ) -> None:
        page = Page(self.path)
        async with page.connected():
            await page.load()
        hub: Any = get_hub()
        hub.receive(self.group, b"1 00000000-1\nt\nstray")
        self.assertEqual(hub.following.groups, {})
        for number in range(3):
            await apublish(self.group, f"{number}")
        async with page.connected():
            self.assertEqual(await page.read(4), ["0", "1", "2", "complete"])

    async def test_a_group_that_is_left_while_two_joins_wait_has_no_member(self) -> None:
        async with Page(f"/left/{self.group}/").connected() as page:
            self.assertEqual(await page.next(), "0")

    async def test_a_group_that_is_left_while_a_join_waits_is_not_followed(self) -> None:
        hub: Any = get_hub()
        member = Member()
        joining = asyncio.create_task(hub.join(self.group, member))
        await asyncio.sleep(0)  # It has asked, and waits for Redis.
        hub.leave(self.group, member)
        await joining
        self.assertEqual(hub.following.groups, {})

    async def test_messages_that_arrive_during_a_slow_read_are_numbered_right(self) -> None:
        group = self.group.replace("kept.", "kept.few.")
        page = Page(f"/room/{group}/")
        async with page.connected():
            await page.load()
        await apublish(group, "0")
        async with Page(f"/room/{group}/").connected() as other:
            await other.load()
            hub: Any = get_hub()
            read = hub.following.read

            async def read_slowly(*arguments: Any) -> Any:
                stored = await read(*arguments)
                for number in range(1, 6):
                    await apublish(group, f"{number}")
                    self.assertEqual(await other.next(), f"{number}")
                return stored

            with mock.patch.object(hub.following, "read", read_slowly):
                async with page.connected():
                    first = await page.next()
                    for number in range(6, 12):
                        await apublish(group, f"{number}")
                    got: list[Any] = [first]
                    while got[-1] != "11":
                        got.append(await page.next())
        told = [message for message in got if message not in ("state", "complete")]
        self.assertIn(told, ([f"{n}" for n in range(12)], [f"{n}" for n in range(6, 12)]))
        self.assertIn("state" if len(told) < 12 else "complete", got)

    async def test_what_is_lost_during_a_read_is_read_as_well(self) -> None:
        page = Page(self.path)
        async with page.connected():
            await page.load()
        await apublish(self.group, "before")
        async with connect(self.path) as client:
            await client.receive()
            hub: Any = get_hub()
            read = hub.following.read

            async def read_slowly(*arguments: Any) -> Any:
                stored = await read(*arguments)
                if not losing.called:
                    losing()
                    await self.lose(hub, "lost")
                    hub.lost(self.group)
                return stored

            losing = mock.Mock()
            with mock.patch.object(hub.following, "read", read_slowly):
                async with page.connected():
                    got = await page.read(3)
            self.assertEqual(sorted(got), ["before", "complete", "lost"])
            async with asyncio.timeout(30):
                self.assertEqual(await client.receive(), "lost")
            await apublish(self.group, "after")
            self.assertEqual(await client.receive(), "after")

    async def test_a_message_of_an_epoch_that_is_over_costs_one_read_and_is_not_delivered(
        self,
    ) -> None:
        hub: Any = get_hub()
        async with connect(self.path) as client:
            await client.receive()
            stale = f"{conf.REDIS_PREFIX}{self.group}", b"1 00000000-7\nt\nstale"
            read, reads = hub.following.read, []

            async def read_slowly(*arguments: Any) -> Any:
                reads.append(arguments)
                stored = await read(*arguments)
                if len(reads) == 1:
                    await publishing.publish(*stale)  # During a read,
                    await self.until_received("probe", hub.server_of(self.group))
                return stored

            async with self.redis_client() as publishing:
                with mock.patch.object(hub.following, "read", read_slowly):
                    await publishing.publish(*stale)  # and while there is none.
                    await apublish(self.group, "next")
                    self.assertEqual(await client.receive(), "next")
                    async with asyncio.timeout(30):
                        while hub.following.tasks:
                            await asyncio.sleep(0.01)
            self.assertLessEqual(len(reads), 3)

    async def test_a_redis_that_is_slow_to_come_back_is_reported_once(self) -> None:
        hub: Any = get_hub()
        async with connect(self.path) as client:
            await client.receive()
            await self.lose(hub, "lost")
            read, failures = hub.following.read, [PublishError("It is loading."), KeyError()] * 2

            async def fail_at_first(*arguments: Any) -> Any:
                if failures:
                    raise failures.pop(0)
                return await read(*arguments)

            with (
                mock.patch("websocket.groups.following.RETRY", 0.01),
                mock.patch.object(hub.following, "read", fail_at_first),
                self.assertLogs("django.websocket", "ERROR") as logs,
            ):
                hub.lost(self.group)
                self.assertEqual(await client.receive(), "lost")
            self.assertEqual(len(logs.records), 1)
            self.assertIn("It is loading.", logs.output[0])

    async def test_a_join_that_fails_leaves_nothing_behind_for_the_next(self) -> None:
        hub: Any = get_hub()
        box, other = Mailbox(hub), Mailbox(hub)
        with mock.patch.object(hub.following, "read", side_effect=KeyError):
            for failing in (box, other):
                with self.assertRaises(KeyError):
                    await failing.memberships.join(self.group)
        self.assertEqual(hub.following.groups, {})
        await asyncio.wait_for(box.memberships.join(self.group), 30)
        await apublish(self.group, "arrives")
        async with asyncio.timeout(30):
            while not box.waiting:
                await asyncio.sleep(0.01)
        box.close()

    async def test_many_groups_are_filled_a_few_at_a_time_and_nobody_is_closed(self) -> None:
        hub: Any = get_hub()
        boxes = [Mailbox(hub) for _ in range(300)]
        for number, box in enumerate(boxes):
            await box.memberships.join(f"{self.group}.{number}")
        for number in range(300):
            hub.lost(f"{self.group}.{number}")
        async with asyncio.timeout(60):
            while hub.following.tasks:
                await asyncio.sleep(0.01)
        self.assertFalse(any(box.has_missed for box in boxes))
        for box in boxes:
            box.close()

    async def test_a_redis_that_has_lost_its_last_messages_begins_anew(self) -> None:
        page = Page(self.path)
        async with page.connected():
            await page.load()
            await apublish(self.group, "one")
            await page.next()
        key = conf.redis_key(self.group, "m")
        async with self.redis_client() as client:
            # As of another server, a replica that has taken over or an older dump.
            await client.hset(key, "run", "another")
        async with page.connected():
            self.assertEqual(await page.next(), "state")

    async def test_members_are_closed_where_a_gap_cannot_be_closed(self) -> None:
        page = Page(self.path)
        async with page.connected(), connect(self.path) as other:
            for client in (page.client, other):
                await client.receive()
            await apublish(self.group, "one")
            with self.assertLogs("django.websocket", "ERROR"):
                self.redis.kill()
                self.redis.start()
                for client in (page.client, other):
                    self.assertEqual(await client.wait_closed(), 1012)
                    self.assertEqual(client.close_reason, "Messages may have been missed.")
        async with page.connected():
            self.assertEqual(await page.next(), "state")

    async def test_a_subscriber_is_told_of_an_outage(self) -> None:
        async with subscribe("fleeting") as inbox:
            await apublish("fleeting", 1)
            with self.assertLogs("django.websocket", "ERROR"):
                self.redis.kill()
                self.redis.start()
                self.assertEqual(await anext(inbox), 1)
                with self.assertRaises(MessagesMissed):
                    await anext(inbox)

    async def test_a_thousand_pages_that_come_back_share_two_reads(self) -> None:
        before = Position.parse(await aposition(self.group))
        for number in range(20):
            await apublish(self.group, f"{number}")
        pages = [Mailbox(get_hub(), True) for _ in range(1000)]
        for page in pages:
            assert page.resume is not None and before is not None
            page.resume.positions[before.key] = before
        async with self.redis_client() as client:
            calls = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
            joins = (page.memberships.join(self.group) for page in pages)
            self.assertEqual(set(await asyncio.gather(*joins)), {True})
            after = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        self.assertLessEqual(after - calls, 2)
        self.assertEqual({len(page.waiting) for page in pages}, {20})
        for page in pages:
            page.close()

    async def test_a_publish_is_one_command(self) -> None:
        await apublish(self.group, "the first one loads the script")
        async with self.redis_client() as client:
            before = (await client.info("stats"))["total_commands_processed"]
            await apublish(self.group, "")
            after = (await client.info("stats"))["total_commands_processed"]
        # Redis counts the seven commands of the script as well, and the second of our questions.
        self.assertEqual(after - before, 9)

    async def test_a_history_of_another_version_is_named_and_left_alone(self) -> None:
        async with self.redis_client() as client:
            await client.hset(conf.redis_key(self.group, "m"), mapping={"version": "2", "a": "b"})
            page = Page(self.path)
            with self.assertLogs("django.websocket", "WARNING") as logs:
                async with page.connected():
                    self.assertEqual(await page.next(), "state")
                    await apublish(self.group, "delivered all the same")
                    self.assertEqual(await page.next(), "delivered all the same")
                    line = b"2 something new\nt\n" + b"and so is this"
                    await client.publish(conf.REDIS_PREFIX + self.group, line)
                    self.assertEqual(await page.next(), "and so is this")
            self.assertEqual(len(logs.records), 1)
            self.assertIn("is from another version of this project", logs.output[0])
            self.assertEqual(page.positions, {})
            self.assertEqual(await client.hget(conf.redis_key(self.group, "m"), "a"), b"b")

    async def test_members_of_a_history_of_another_version_are_told_of_an_outage(self) -> None:
        async with self.redis_client() as client:
            await client.hset(conf.redis_key(self.group, "m"), "version", "2")
            page = Page(self.path)
            with self.assertLogs("django.websocket"):
                async with page.connected():
                    self.assertEqual(await page.next(), "state")
                    await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                    self.assertEqual(await page.client.wait_closed(), 1012)

    async def test_a_history_that_another_program_wrote_into_is_left_alone(self) -> None:
        page = Page(self.path)
        async with page.connected():
            await page.load()
        await apublish(self.group, "overwritten")
        async with self.redis_client() as client:
            await client.delete(conf.redis_key(self.group, "s"))
            await client.xadd(conf.redis_key(self.group, "s"), {"m": "not a message"}, id="1-0")
        with self.assertLogs("django.websocket", "WARNING") as logs:
            async with page.connected():
                self.assertEqual(await page.next(), "state")
                await apublish(self.group, "delivered all the same")
                self.assertEqual(await page.next(), "delivered all the same")
        self.assertEqual(len(logs.records), 1)

    async def test_messages_are_kept_for_some_time_and_counted_for_longer(self) -> None:
        await apublish(self.group, "")
        async with self.redis_client() as client:
            kept = await client.ttl(conf.redis_key(self.group, "s"))
            counted = await client.ttl(conf.redis_key(self.group, "m"))
        self.assertEqual((kept, counted), (300, 30 * 24 * 3600))
