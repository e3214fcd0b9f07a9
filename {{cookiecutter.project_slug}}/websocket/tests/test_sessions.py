"""A socket does not outlive its session, nor WEBSOCKET_MAX_AGE."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.db import DatabaseError
from django.test import AsyncClient, TransactionTestCase, override_settings
from django.utils import timezone

from websocket import sessions, sweep
from websocket.connection import WebSocket
from websocket.logins import get_watcher
from websocket.testing import connect
from websocket.tests.wire import until
from websocket.urls import websocket


async def greet(socket: WebSocket) -> None:
    """Greet the user, then echo."""
    await socket.accept()
    await socket.send_text(f"Hello, {socket.user.get_username()}.")
    async for message in socket:
        await socket.send_message(message)


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


urlpatterns = [websocket("echo/", echo), websocket("greet/", greet)]

ENGINES = [
    f"django.contrib.sessions.backends.{name}"
    for name in ("db", "cached_db", "cache", "file", "signed_cookies")
]


class AwayCache(LocMemCache):
    def get(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("The cache is away.")

    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("The cache is away.")


def expire_all() -> None:
    """Let all sessions expire that are kept in the database or in the cache."""
    Session.objects.update(expire_date=timezone.now())
    cache.clear()


@override_settings(ROOT_URLCONF=__name__)
class SessionTests(TransactionTestCase):
    def setUp(self) -> None:
        self.ada = get_user_model().objects.create_user("ada")
        self.bob = get_user_model().objects.create_user("bob")
        self.enterContext(mock.patch.object(sweep, "INTERVAL", 0.01))
        self.enterContext(mock.patch.object(sessions, "CHECK_EVERY", 0.05))
        self.looks = 0

    async def until_looked_up(self, times: int = 3) -> None:
        """Wait until the sessions have been looked up again."""
        find_ended, self.looks = sessions.find_ended, 0

        def count(found: Any) -> Any:
            self.looks += 1
            return find_ended(found)

        with mock.patch.object(sessions, "find_ended", count):
            async with asyncio.timeout(30):
                while self.looks < times:
                    await asyncio.sleep(0.01)

    async def test_it_closes_when_the_session_expires_wherever_sessions_are_kept(self) -> None:
        for engine in ENGINES:
            with self.subTest(engine), override_settings(SESSION_ENGINE=engine):
                async with (
                    connect("/greet/", user=self.ada) as one,
                    connect("/greet/", user=self.ada) as two,
                ):
                    for client in (one, two):
                        self.assertEqual(await client.receive(), "Hello, ada.")
                    await self.until_looked_up()
                    await one.send_text("still here")
                    self.assertEqual(await one.receive(), "still here")
                    await sync_to_async(expire_all)()
                    with override_settings(SESSION_COOKIE_AGE=0):  # For the other backends.
                        for client in (one, two):
                            self.assertEqual(await client.wait_closed(), 1012)
                            self.assertEqual(client.close_reason, "The session has expired.")

    async def test_it_closes_when_the_session_is_deleted_and_no_other_does(self) -> None:
        client = AsyncClient()
        async with (
            connect("/greet/", client=client, user=self.ada) as one,
            connect("/greet/", user=self.bob) as other,
        ):
            self.assertEqual(await one.receive(), "Hello, ada.")
            self.assertEqual(await other.receive(), "Hello, bob.")
            mine = Session.objects.filter(pk=client.cookies["sessionid"].value)
            await sync_to_async(mine.delete)()
            self.assertEqual(await one.wait_closed(), 1012)
            await self.until_looked_up()
            await other.send_text("still here")
            self.assertEqual(await other.receive(), "still here")

    async def test_one_that_never_looked_at_the_user_stays(self) -> None:
        async with connect("/echo/", user=self.ada) as client:
            await sync_to_async(expire_all)()
            looking = get_watcher().sessions
            async with asyncio.timeout(30):
                while looking.due or looking.task:  # A session that has ended is due no more.
                    await asyncio.sleep(0.01)
            await client.send_text("still here")
            self.assertEqual(await client.receive(), "still here")

    async def test_many_sessions_are_looked_up_by_few_queries(self) -> None:
        stores = []
        for _ in range(600):
            store = SessionStore()
            store["a"] = 1
            stores.append(store)

        def find_ended() -> set[Any]:
            for store in stores[1:]:
                store.create()
            stores[0]._session_key = "a" * 32
            with self.assertNumQueries(1):
                return sessions.find_ended(stores)

        self.assertEqual(await sync_to_async(find_ended)(), {stores[0]})

    async def test_a_database_that_is_away_closes_nothing_and_is_asked_again(self) -> None:
        async with connect("/greet/", user=self.ada) as client:
            await client.receive()
            with (
                self.assertLogs("django.websocket", "WARNING") as logs,
                mock.patch.object(sessions, "find_ended", side_effect=DatabaseError("away")),
            ):
                await until(lambda: bool(logs.records))
            await client.send_text("still here")
            self.assertEqual(await client.receive(), "still here")
            await sync_to_async(expire_all)()
            self.assertEqual(await client.wait_closed(), 1012)

    @override_settings(
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "away": {"BACKEND": "websocket.tests.test_sessions.AwayCache"},
        },
    )
    async def test_a_cache_that_is_away_closes_nothing(self) -> None:
        async with connect("/greet/", user=self.ada) as client:
            await client.receive()
            with (
                self.assertLogs("django.websocket", "WARNING") as logs,
                override_settings(SESSION_CACHE_ALIAS="away"),
            ):
                await until(lambda: bool(logs.records))
            await client.send_text("still here")
            self.assertEqual(await client.receive(), "still here")

    async def test_nothing_is_looked_up_once_all_sockets_are_closed(self) -> None:
        async with connect("/greet/", user=self.ada) as client:
            await client.receive()
        watcher = get_watcher()
        await until(lambda: not (watcher.sessions.due or watcher.sessions in sweep.everything()))


@override_settings(ROOT_URLCONF=__name__)
class AgeTests(TransactionTestCase):
    def setUp(self) -> None:
        self.enterContext(mock.patch.object(sweep, "INTERVAL", 0.01))

    @override_settings(WEBSOCKET_MAX_AGE=0.2)
    async def test_a_socket_is_asked_to_come_again_after_its_time(self) -> None:
        began = asyncio.get_running_loop().time()
        async with connect("/echo/") as client:
            self.assertEqual(await client.wait_closed(), 1012)
            self.assertEqual(client.close_reason, "Maximum age reached; connect again.")
        self.assertGreater(asyncio.get_running_loop().time() - began, 0.18)
