"""Groups on several Redis servers, of which one may be away, and behind Sentinels."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.test import SimpleTestCase, TransactionTestCase, override_settings

from websocket import conf, groups
from websocket.groups import PublishError, apublish, close_hub, get_hub, publish
from websocket.groups.presence import Identity, presence_changed
from websocket.redis_url import choose, parse, problem
from websocket.tests import test_group_tasks, test_groups, test_history, test_presence
from websocket.tests.redis_server import OnRedis, RedisServer, free_port, impatient
from websocket.tests.test_redis import Member


class AddressTests(SimpleTestCase):
    def test_a_new_server_takes_its_share_of_the_groups_and_moves_no_others(self) -> None:
        names = [f"chat.room.{number}" for number in range(30_000)]
        three = {name: name for name in ("one:6379/0", "two:6379/0", "three:6379/0")}
        two = dict(list(three.items())[:2])
        before = {name: choose(name, two) for name in names}
        after = {name: choose(name, three) for name in names}
        for number in Counter(before.values()).values():
            self.assertAlmostEqual(number, 15_000, delta=400)
        for number in Counter(after.values()).values():
            self.assertAlmostEqual(number, 10_000, delta=400)
        moved = {after[name] for name in names if after[name] != before[name]}
        self.assertEqual(moved, {"three:6379/0"})

    def test_all_processes_choose_the_same_server(self) -> None:
        """Whatever their order of the URLs, their login, and Python's hash seed."""
        urls = ["valkey://user:password@one:6379/0?health_check_interval=5", "redis://two:6379/0"]
        for order in (urls, urls[::-1]):
            servers = {address.name: address.name[:1] for address in map(parse, order)}
            chosen = [choose(f"chat.room.{number}", servers) for number in range(16)]
            self.assertEqual("".join(chosen), "ootoottotoototot")

    def test_what_a_url_names(self) -> None:
        for url, address in {
            "redis://localhost": ("localhost", "redis://localhost"),
            "valkey://:secret@one:1/2": ("one:1/2", "redis://:secret@one:1/2"),
            "valkeys://[::1]:6380/0?a=b": ("[::1]:6380/0", "rediss://[::1]:6380/0?a=b"),
            "unix://user:secret@/run/redis.sock?db=1": (
                "/run/redis.sock",
                "unix://user:secret@/run/redis.sock?db=1",
            ),
        }.items():
            self.assertEqual(parse(url)[:2], address)
        one = parse("redis+sentinel://user:secret@a:1,b,[::1]:2/main/3?sentinel_password=c")
        self.assertEqual(one.name, "a:1,b,[::1]:2/main/3")
        self.assertEqual(one.url, "redis://user:secret@/3?sentinel_password=c")
        self.assertEqual(one.service, "main")
        self.assertEqual(one.sentinels, (("a", 1), ("b", 26379), ("::1", 2)))
        self.assertEqual(parse("redis+sentinel://a/main").url, "redis:///0?")

    def test_what_is_wrong_is_said_without_passwords(self) -> None:
        for urls, message in {
            "redis://:secret/b@one": "not a URL such as redis://localhost:6379/0, in",
            " ": "not a URL such as redis://",
            "redis://one,redis://:secret@two": "not a URL such as redis://",
            "redis://one redis://:secret/b@two": "2 URLs, of which number 2 is not one such as",
            "redis://:my secret@one valkey://two": "3 URLs, of which number 1 is not one such as",
            "redis://:1/secret@one": "not a URL such as redis://",
            "unix://:1/secret@/run/redis.sock": "not a URL such as redis://",
            "redis+sentinel://:secret@one": "not a URL such as redis+sentinel://one:26379,two",
            "redis+sentinel://:secret@one/main/a": "not a URL such as redis+sentinel://",
            "redis+sentinel://:secret@one,/main": "not a URL such as redis+sentinel://",
            "redis+sentinel://:secret@one:a/main": "not a URL such as redis+sentinel://",
        }.items():
            with self.subTest(urls):
                found = problem(urls)
                assert found is not None
                self.assertTrue(found.startswith(message), found)
                self.assertNotIn("secret", found)
        self.assertIsNone(problem("valkey://one  redis+sentinel://:p%2Fw@two,three:1/main\n"))


class OnTwo(OnRedis):
    number_of_servers = 2


@override_settings(ROOT_URLCONF=test_groups.__name__)
@pytest.mark.filterwarnings("ignore:publish.. holds up:RuntimeWarning")
class GroupTests(test_groups.Delivery, test_groups.Joining, OnTwo):
    pass


class HistoryTests(test_history.Everything, OnTwo):
    pass


@override_settings(ROOT_URLCONF=test_presence.__name__)
class PresenceTests(test_presence.Everything, OnTwo, TransactionTestCase):
    def setUp(self) -> None:
        # With no other receivers, a test hears nothing that was told before it listens.
        self.enterContext(mock.patch.object(presence_changed, "receivers", []))
        super().setUp()


@override_settings(ROOT_URLCONF=test_group_tasks.__name__)
class TaskTests(test_group_tasks.Everything, OnTwo, TransactionTestCase):
    pass


async def joined(group: str) -> Member:
    member = Member()
    await get_hub().join(group, member)
    return member


class TwoServersTests(OnTwo):
    def setUp(self) -> None:
        super().setUp()
        # Redis takes any password of a user who needs none.
        one, two = (f"default:secret@{server.name}" for server in self.servers)
        urls = f"redis://{one} valkey://{two}"
        self.enterContext(override_settings(WEBSOCKET_REDIS_URL=urls))
        #: Eight groups of each server.
        self.groups: dict[RedisServer, list[str]] = {server: [] for server in self.servers}
        servers = {server.name: server for server in self.servers}
        for number in range(1000):
            of_server = self.groups[choose(f"group.{number}", servers)]
            if len(of_server) < 8:
                of_server.append(f"group.{number}")

    async def test_all_of_a_group_is_on_its_server_and_a_process_listens_once_to_each(self) -> None:
        history = override_settings(WEBSOCKET_HISTORY={"group.": 10})
        history.enable()
        self.addCleanup(history.disable)
        for of_server in self.groups.values():
            for group in of_server:
                member = await joined(group)
                await apublish(group, "kept")
                await asyncio.to_thread(publish, group, "kept too")
                await get_hub().presence.join(group, Identity("7", True), "{}")
                await get_hub().leases.ask(group, True, True, False)
                await member.until(received=2)
                self.assertEqual(await groups.amembers(group), {"7": {}})
                self.assertEqual(await asyncio.to_thread(groups.member_count, group), 1)
                self.assertTrue(await asyncio.to_thread(groups.position, group))
        for server, of_server in self.groups.items():
            async with self.redis_client(server) as client:
                keys = [key.decode() for key in await client.keys("*")]
                self.assertEqual(len(await client.client_list(_type="pubsub")), 1)
            found = Counter(re.findall(r"{(.*)}", key)[0] for key in keys)
            # The hash and stream of the history, two keys of the members, and two of the task.
            self.assertEqual(found, dict.fromkeys(of_server, 6))

    async def use(self, of_server: list[str]) -> None:
        """Check that groups work, before Redis could have timed out."""
        async with asyncio.timeout(10):
            for group in of_server:
                member = await joined(group)
                await apublish(group, "")
                await asyncio.to_thread(publish, group, "")
                await member.until(received=2)

    async def test_while_one_is_away_only_its_groups_are_affected(self) -> None:
        away, there = self.servers
        first, *others = self.groups[away]
        affected, unaffected = await joined(first), await joined(self.groups[there][0])
        with self.assertLogs("django.websocket", "ERROR") as logs:
            away.kill()
            for group in (first, *others):
                with self.assertRaises(PublishError):
                    await apublish(group, "lost")
                with self.assertRaises(PublishError):
                    await asyncio.to_thread(publish, group, "lost")
                with self.assertRaises(PublishError):
                    await groups.amembers(group)
            with impatient, self.assertRaises(PublishError):
                await joined(others[0])
            await self.use(self.groups[there])
            with self.assertRaisesRegex(PublishError, away.name):
                await asyncio.to_thread(groups.ping)
        with self.assertLogs("django.websocket", "WARNING") as later:
            away.start()
            await affected.until(missed=1)
        self.assertIn(f"Redis is back ({away.name})", later.output[0])
        await self.use(self.groups[away])
        await asyncio.to_thread(groups.ping)
        self.assertEqual(unaffected.times_missed, 0)
        self.assertEqual([away.name in line for line in logs.output], [True])
        self.assertNotIn("secret", logs.output[0])

    async def test_one_that_does_not_answer_holds_up_no_others(self) -> None:
        away, there = self.servers
        away.freeze()
        waiting = asyncio.create_task(apublish(self.groups[away][0], "late"))
        try:
            await self.use(self.groups[there])
            self.assertFalse(waiting.done())
        finally:
            away.thaw()
        await waiting

    async def test_while_one_is_away_the_members_of_the_others_are_renewed(self) -> None:
        away, there = self.servers
        hub: Any = get_hub()
        for server in self.servers:
            await hub.presence.join(self.groups[server][0], Identity("7", True), "{}")
        away.kill()
        async with self.redis_client(there) as client:
            await client.flushall()
        with self.assertLogs("django.websocket", "WARNING") as logs:
            await hub.presence.renew_all()
        self.assertEqual(len(logs.output), 1)
        self.assertEqual(await groups.amembers(self.groups[there][0]), {"7": {}})


class SentinelTests(OnRedis):
    """A master, a replica, and a Sentinel that watches them."""

    def start(self, *options: str) -> RedisServer:
        server = RedisServer(*options)
        self.addCleanup(server.stop)
        return server

    async def start_replica(self) -> RedisServer:
        """Start a replica, and wait until it has everything."""
        async with self.redis_client() as client:
            await client.config_set("repl-diskless-sync-delay", 0)
            replica = self.start("--replicaof", f"127.0.0.1 {self.redis.port}")
            async with asyncio.timeout(60):
                while "state=online" not in str(await client.execute_command("INFO replication")):
                    await asyncio.sleep(0.01)
        return replica

    async def test_groups_move_to_the_new_master(self) -> None:
        replica = await self.start_replica()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        configuration = Path(folder.name, "sentinel.conf")
        configuration.write_text(
            f"sentinel monitor main 127.0.0.1 {self.redis.port} 1\nrequirepass secret\n"
        )
        sentinel = self.start(str(configuration), "--sentinel")
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"  # One of them is away.
        login = "default:secret@"  # Redis takes any password of a user who needs none.
        url = f"redis+sentinel://{login}{hosts}/main/0?sentinel_password=secret"
        with override_settings(WEBSOCKET_REDIS_URL=url):
            member = await joined("a")
            await apublish("a", 1)
            await asyncio.to_thread(publish, "a", 2)
            await member.until(received=2)
            with self.assertLogs("django.websocket", "WARNING") as logs:
                async with self.redis_client(sentinel, password="secret") as client:
                    await self.fail_over(client, replica)
                self.redis.kill()
                await member.until(missed=1)
            await apublish("a", 3)
            await asyncio.to_thread(publish, "a", 4)
            await member.until(received=4)
            self.assertEqual(member.received, [1, 2, 3, 4])
            async with self.redis_client(replica) as client:
                listeners = await client.pubsub_numsub(f"{conf.REDIS_PREFIX}a")
                self.assertEqual([number for _, number in listeners], [1])
            sentinel.kill()
            replica.kill()
            with self.assertRaises(PublishError) as raised:
                await apublish("a", 5)
            with self.assertRaises(PublishError) as raised_in_thread:
                await asyncio.to_thread(publish, "a", 5)
            await close_hub()
        self.assertIn(f"({hosts}/main/0)", logs.output[0])
        for told in (*logs.output, str(raised.exception), str(raised_in_thread.exception)):
            self.assertNotIn("secret", told)

    async def fail_over(self, sentinel: Any, replica: RedisServer) -> None:
        """Let the Sentinel make the replica the master."""
        from redis.exceptions import ResponseError

        async with asyncio.timeout(60):
            while True:
                await asyncio.sleep(0.01)
                with suppress(ResponseError):  # It does not yet know the replica.
                    await sentinel.execute_command("SENTINEL", "FAILOVER", "main")
                    break
            while (await sentinel.sentinel_get_master_addr_by_name("main"))[1] != replica.port:
                await asyncio.sleep(0.01)
