"""Tasks that groups own: one for all members, from the first to some seconds after the last."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from unittest import mock

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.test import TransactionTestCase, override_settings

from websocket import conf
from websocket.connection import WebSocket
from websocket.groups import apublish, close_hub, get_hub, presence, tasks
from websocket.groups.memory import hubs
from websocket.testing import ClientSocket, connect, listen
from websocket.tests.redis_server import OnRedis
from websocket.tests.wire import until
from websocket.urls import websocket

User: Any = get_user_model()

#: How often a game was started and has ended, by group.
started: dict[str, int] = {}
ended: dict[str, int] = {}


async def count_up(group: str) -> None:
    """Tell the members of the group a number after the other; end at "stop" in the database."""
    started[group] = started.get(group, 0) + 1
    try:
        number = 0
        async with asyncio.timeout(60):
            while not await sync_to_async(User.objects.filter(username="stop").exists)():
                number += 1
                await apublish(group, number)
                await asyncio.sleep(0.01)
            await apublish(group, "over")
    finally:
        ended[group] = ended.get(group, 0) + 1


#: What happened to games that are saved at their end, by group.
events: dict[str, list[str]] = {}


async def saved(group: str) -> None:
    """Take some time at the end."""
    noted = events.setdefault(group, [])
    noted.append("began")
    try:
        async with asyncio.timeout(30):
            while True:
                await apublish(group, "began")
                await asyncio.sleep(0.01)
    finally:
        noted.append("saving")
        await asyncio.sleep(0.3)
        noted.append("saved")


async def quiet(group: str) -> None:
    """Wait to be cancelled."""
    noted = events.setdefault(group, [])
    noted.append("began")
    try:
        await asyncio.sleep(30)
    finally:
        noted.append("cancelled")


async def stubborn(group: str) -> None:
    """Swallow the first cancellation, as `asyncio.wait_for` may in Python 3.11."""
    with suppress(asyncio.CancelledError):
        await quiet(group)
    await quiet(group)


async def farewell(group: str) -> None:
    await apublish(group, "hello")
    try:
        await asyncio.sleep(30)
    finally:
        await apublish(group, "farewell")


async def fail(group: str) -> None:
    await apublish(group, "failing")
    raise RuntimeError("This task fails.")


async def game(socket: WebSocket, name: str) -> None:
    await socket.accept()
    await socket.join(name, task=count_up)
    await socket.join(name, task=count_up)  # Again, which changes nothing.
    async for message in socket:
        if message == "leave":
            await socket.leave(name)


async def failing(socket: WebSocket, name: str) -> None:
    await socket.accept()
    await socket.join(name, task=fail)
    async for message in socket:
        await socket.send_message(message)


async def saving(socket: WebSocket, name: str) -> None:
    await socket.accept()
    await socket.join(name, task=saved)
    async for _ in socket:
        pass


async def mistaken(socket: WebSocket) -> None:
    await socket.accept()
    coroutine: Any = count_up("a")
    try:
        await socket.join("a", task=coroutine)
    except TypeError as error:
        await socket.send_text(str(error))
    finally:
        coroutine.close()


urlpatterns = [
    websocket("failing/<name>/", failing),
    websocket("game/<name>/", game),
    websocket("mistaken/", mistaken),
    websocket("saving/<name>/", saving),
]


async def receive_until(client: ClientSocket, message: str) -> None:
    """Receive messages until this one comes."""
    async with asyncio.timeout(30):
        while await client.receive(timeout=30) != message:
            pass


class Everything:
    """What holds in memory and over Redis."""

    def setUp(self: Any) -> None:
        super().setUp()  # type: ignore[misc]
        self.group = f"game.{uuid.uuid4().hex}"
        for module, name, seconds in (
            (presence, "RETURN", 1.0),
            (tasks, "LEASE", 2.0),
            (tasks, "RENEW", 0.1),
            (tasks, "CANCEL", 1.0),
        ):
            self.enterContext(mock.patch.object(module, name, seconds))

    async def test_it_runs_once_for_all_members_until_the_last_has_left(self: Any) -> None:
        path = f"/game/{self.group}/"
        async with connect(path) as one:
            await one.receive()
            async with connect(path) as two:
                self.assertGreater(await two.receive_json(), 1)
                await two.send_text("leave")
            number = await one.receive_json()
            for following in range(number + 1, 51):
                self.assertEqual(await one.receive_json(), following)
        await until(lambda: ended.get(self.group) == 1)
        self.assertEqual(started[self.group], 1)
        await until(lambda: not get_hub().tasks)

    async def test_a_reload_does_not_end_it(self: Any) -> None:
        for _ in range(3):
            async with connect(f"/game/{self.group}/") as client:
                number = await client.receive_json()
        self.assertGreater(number, 1)
        self.assertEqual(started[self.group], 1)

    async def test_once_it_is_over_the_next_member_starts_it_again(self: Any) -> None:
        for times in (1, 2):
            async with connect(f"/game/{self.group}/") as client:
                self.assertEqual(await client.receive_json(), 1)
            await until(partial(self.has_ended, times))

    def has_ended(self: Any, times: int) -> bool:
        return ended.get(self.group) == times

    async def test_one_that_ends_by_itself_starts_again_when_a_socket_joins(self: Any) -> None:
        async with connect(f"/game/{self.group}/") as one:
            await one.receive()
            stop = await sync_to_async(User.objects.create)(username="stop")
            await receive_until(one, "over")
            await until(lambda: ended.get(self.group) == 1)
            await sync_to_async(stop.delete)()
            await asyncio.sleep(0.3)  # It is asked for again meanwhile, and is not started.
            self.assertEqual(started[self.group], 1)
            async with connect(f"/game/{self.group}/"):
                self.assertEqual(await one.receive_json(), 1)
            self.assertEqual(started[self.group], 2)

    async def test_an_exception_is_reported_and_ends_the_task_but_no_member(self: Any) -> None:
        with self.assertLogs("django.request", "ERROR") as logs:
            async with connect(f"/failing/{self.group}/") as client:
                self.assertEqual(await client.receive(), "failing")
                await client.send_text("still here")
                self.assertEqual(await client.receive(), "still here")
                await until(lambda: logs.records)
        self.assertIn(self.group, logs.records[0].getMessage())
        self.assertIn("This task fails.", str(logs.records[0].exc_info))

    async def test_a_task_that_was_called_is_a_mistake_that_is_named(self: Any) -> None:
        async with connect("/mistaken/") as client:
            self.assertIn("task= takes a function, as in task=run_game", await client.receive())

    async def test_its_cleanup_is_finished_before_it_starts_again(self: Any) -> None:
        async with connect(f"/saving/{self.group}/") as client:
            self.assertEqual(await client.receive(), "began")
        async with connect(f"/saving/{self.group}/") as client:  # Comes back in time.
            await asyncio.sleep(0)
        await until(lambda: "saving" in events.get(self.group, []))
        async with connect(f"/saving/{self.group}/") as client:
            self.assertEqual(await client.receive(), "began")
            await close_hub()
        self.assertEqual(events[self.group], ["began", "saving", "saved"] * 2)

    async def test_it_ends_with_the_server(self: Any) -> None:
        async with connect(f"/game/{self.group}/") as client:
            await client.receive()
            await close_hub()
            self.assertEqual(ended[self.group], 1)

    async def test_what_it_publishes_at_its_end_opens_no_hub_beside_the_one_that_closes(
        self: Any,
    ) -> None:
        hub = get_hub()
        async with listen(self.group) as inbox:
            hub.join_task(self.group, farewell)
            self.assertEqual(await inbox.receive(), "hello")
            with mock.patch.object(hub, "disconnect") as disconnect:
                await close_hub()
                self.assertEqual(await inbox.receive(), "farewell")
                await hub.close()  # As the event loop does in the end.
        self.assertNotIn(hub.loop, hubs)
        disconnect.assert_awaited_once_with()
        await hub.disconnect()

    async def test_its_cleanup_is_finished_before_the_event_loop_ends(self: Any) -> None:
        async def run() -> None:
            get_hub().join_task(self.group, saved)
            await until(lambda: self.group in events)

        await asyncio.to_thread(asyncio.run, run())
        self.assertEqual(events[self.group], ["began", "saving", "saved"])

    async def test_it_ends_with_the_event_loop_which_is_no_error(self: Any) -> None:
        async def run(function: Any) -> None:
            get_hub().join_task(self.group, function)
            await until(lambda: self.group in events)

        for function, times, expected in ((quiet, 1, []), (stubborn, 2, ["WARNING"])):
            events.pop(self.group, None)
            with (
                self.subTest(function.__name__),
                mock.patch.object(tasks, "CANCEL", 0.1),
                self.assertLogs("django.request", "WARNING") as logs,
            ):
                logging.getLogger("django.request").warning("This one is expected.")
                await asyncio.to_thread(asyncio.run, run(function))
                self.assertEqual([record.levelname for record in logs.records[1:]], expected)
            self.assertEqual(events[self.group], ["began", "cancelled"] * times)


@override_settings(ROOT_URLCONF=__name__)
class MemoryTests(Everything, TransactionTestCase):
    pass


# A process that has a member of a group with a task, until it is killed or told to leave.
OTHER = """
import asyncio, os, sys, django
django.setup()
from unittest import mock
from django.test import override_settings
from websocket.groups import apublish, close_hub, get_hub, presence, tasks

async def play(group):
    print("playing", flush=True)
    while True:
        await apublish(group, f"other {os.getpid()}")
        await asyncio.sleep(0.01)

async def main(url, group, lease):
    presence.RETURN, tasks.LEASE, tasks.RENEW, tasks.CANCEL = 1.0, float(lease), 0.1, 1.0
    with override_settings(WEBSOCKET_REDIS_URL=url):
        get_hub().join_task(group, play)
        await asyncio.to_thread(sys.stdin.readline)
        await close_hub()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def other_process(url: str, group: str) -> AsyncIterator[Any]:
    """Run another process that wants a group's task."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OTHER, url, group, str(tasks.LEASE)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def playing_process(url: str, group: str) -> AsyncIterator[Any]:
    """Run another process that has a group's task."""
    async with other_process(url, group) as process:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"playing\n"
        yield process


@override_settings(ROOT_URLCONF=__name__)
class RedisTests(Everything, OnRedis, TransactionTestCase):
    async def test_it_runs_in_one_of_two_processes_and_not_only_while_that_has_members(
        self,
    ) -> None:
        async with connect(f"/game/{self.group}/") as client, self.redis_client() as redis:
            await client.receive()
            async with other_process(self.redis.url, self.group):
                async with asyncio.timeout(30):
                    while await redis.zcard(conf.redis_key(self.group, "w")) < 2:
                        await asyncio.sleep(0.01)
                await client.send_text("leave")
                await until(lambda: not get_hub().tasks[self.group].members)
                await asyncio.sleep(1.5)  # Longer than a member has to come back.
                self.assertEqual((started[self.group], ended.get(self.group)), (1, None))
            # Now no process has a member any more.
            await until(lambda: ended.get(self.group) == 1)

    async def test_another_process_takes_over_from_one_that_was_killed(self) -> None:
        async with (
            playing_process(self.redis.url, self.group) as process,
            connect(f"/game/{self.group}/") as client,
        ):
            self.assertEqual(await client.receive(), f"other {process.pid}")
            process.kill()
            await receive_until(client, "1")
            self.assertEqual(started[self.group], 1)

    async def test_another_process_takes_over_from_one_that_stops(self) -> None:
        self.enterContext(mock.patch.object(tasks, "LEASE", 60.0))
        async with (
            playing_process(self.redis.url, self.group) as process,
            connect(f"/game/{self.group}/") as client,
        ):
            self.assertEqual(await client.receive(), f"other {process.pid}")
            process.stdin.write(b"\n")
            await receive_until(client, "1")

    async def test_a_process_that_cannot_renew_has_ended_before_another_one_starts(self) -> None:
        async with connect(f"/game/{self.group}/") as client:
            await client.receive()
            self.redis.freeze()
            try:
                began = asyncio.get_running_loop().time()
                await until(lambda: ended.get(self.group) == 1)
                self.assertLess(asyncio.get_running_loop().time() - began, tasks.LEASE)
            finally:
                self.redis.thaw()
            await until(lambda: started[self.group] == 2)

    async def test_nothing_of_a_task_stays_in_redis(self) -> None:
        self.enterContext(mock.patch.object(tasks, "LEASE", 60.0))  # It does not just expire.
        async with connect(f"/game/{self.group}/") as client:
            await client.receive()
        async with self.redis_client() as redis, asyncio.timeout(30):
            while not ended.get(self.group) or await redis.keys(f"*{self.group}*"):
                await asyncio.sleep(0.01)

    async def test_a_task_goes_on_when_redis_was_emptied(self) -> None:
        async with connect(f"/game/{self.group}/") as client, self.redis_client() as redis:
            await client.receive()
            await redis.flushall()
            number = await client.receive_json()
            await receive_until(client, str(number + 30))
            self.assertEqual(started[self.group], 1)
            self.assertTrue(await redis.keys(f"*{self.group}*:t"))
