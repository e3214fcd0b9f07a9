import asyncio
import threading
from unittest import skipIf

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.contrib.auth import get_user_model
from django.db import connection, connections
from django.db.backends.signals import connection_created
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from websocket.testing import connect
from websocket.tests.wire import connect_to, serving
from websocket.threads import (
    DatabaseThread,
    close_idle_connections,
    enter_shared_thread,
    get_contexts,
)


async def say_thread(socket):
    """Tell for every message in which thread sync code runs."""
    await socket.accept()
    async for _ in socket:
        await socket.send_json(await sync_to_async(threading.get_ident)())


async def count_users(socket):
    await socket.accept()
    await socket.send_json(await sync_to_async(get_user_model().objects.count)())


class TestCaseTests(TestCase):
    """Inside a `TestCase`, sync code runs in the test's thread, and so in its transaction."""

    async def test_a_socket_sees_the_rows_of_the_test(self):
        await sync_to_async(get_user_model().objects.create_user)("ada")
        async with connect_to(count_users) as client:
            self.assertEqual(await client.receive_json(), 1)

    async def test_the_rows_of_a_socket_are_of_the_transaction_of_the_test(self):
        def create_user():
            get_user_model().objects.create_user("ada")
            return connection.in_atomic_block

        async def view(socket):
            await socket.accept()
            await socket.send_json(await sync_to_async(create_user)())

        async with connect_to(view) as client:
            self.assertIs(await client.receive_json(), True)
        self.assertEqual(await sync_to_async(get_user_model().objects.count)(), 1)

    async def test_sync_code_runs_in_the_thread_of_the_test(self):
        async with connect_to(say_thread) as client:
            await client.send_text("where?")
            self.assertEqual(await client.receive_json(), threading.main_thread().ident)


@override_settings(WEBSOCKET_THREADS=2)
class SharedThreadsTests(SimpleTestCase):
    """Under a server, which `asyncio.run` stands for here, sockets share a few threads."""

    def test_sockets_share_threads_and_each_stays_in_its_own(self):
        async def main():
            with serving(say_thread):
                return await asyncio.gather(*(talk() for _ in range(10)))

        async def talk():
            async with connect("/ws/") as client:
                threads = set()
                for _ in range(3):
                    await client.send_text("where?")
                    threads.add(await client.receive_json())
                [thread] = threads
                return thread

        threads = asyncio.run(main())
        self.assertEqual(len(set(threads)), 2)
        self.assertEqual({threads.count(thread) for thread in threads}, {5})
        self.assertNotIn(threading.get_ident(), threads)

    def test_a_slow_call_holds_up_the_sockets_of_its_thread_alone(self):
        may_go_on = threading.Event()

        async def view(socket):
            await socket.accept()
            async for message in socket:
                if message == "wait":
                    await sync_to_async(may_go_on.wait)(5)
                await socket.send_message(message)

        async def main():
            with serving(view):
                async with connect("/ws/") as slow, connect("/ws/") as quick:
                    await slow.send_text("wait")
                    await quick.send_text("hello")
                    self.assertEqual(await quick.receive_text(), "hello")
                    may_go_on.set()
                    self.assertEqual(await slow.receive_text(), "wait")

        asyncio.run(main())

    def test_a_context_that_is_there_is_kept(self):
        async def main():
            async with ThreadSensitiveContext() as context:
                enter_shared_thread()
                self.assertIs(SyncToAsync.thread_sensitive_context.get(), context)
            enter_shared_thread()
            first = SyncToAsync.thread_sensitive_context.get()
            enter_shared_thread()
            self.assertIs(SyncToAsync.thread_sensitive_context.get(), first)

        asyncio.run(main())


@override_settings(WEBSOCKET_THREADS=2)
@skipIf(
    connections.databases["default"].get("OPTIONS", {}).get("pool"),
    "A pool has the connections, and threads only borrow them.",
)
class ConnectionsTests(TransactionTestCase):
    def setUp(self):
        get_contexts.cache_clear()  # Threads without a connection yet.
        self.addCleanup(self.close_connections)

    def close_connections(self):
        for thread in get_contexts()[0]:
            thread.submit(connections.close_all).result()

    def test_there_are_no_more_connections_than_threads(self):
        opened = []

        def on_connect(**kwargs):
            opened.append(threading.get_ident())

        async def talk():
            async with connect("/ws/") as client:
                return await client.receive_json()

        async def main():
            with serving(count_users):
                return await asyncio.gather(*(talk() for _ in range(10)))

        get_user_model().objects.create_user("ada")
        connection_created.connect(on_connect)
        self.addCleanup(connection_created.disconnect, on_connect)
        self.assertEqual(asyncio.run(main()), [1] * 10)
        self.assertEqual(len(opened), 2)
        self.assertEqual(len(set(opened)), 2)

    def test_a_job_starts_with_a_look_at_the_connections(self):
        def fail():
            connection.ensure_connection()
            connection.errors_occurred = True

        def look():
            return connection.errors_occurred

        [thread, other] = get_contexts()[0]
        self.assertFalse(close_idle_connections())
        thread.submit(fail).result()
        self.assertFalse(thread.submit(look).result())
        self.assertEqual((thread.connected, other.connected), (True, False))

    def test_idle_threads_look_at_their_connections_too(self):
        looked = threading.Event()

        class Thread(DatabaseThread):
            def submit(self, fn, /, *args, **kwargs):
                future = super().submit(fn, *args, **kwargs)
                future.add_done_callback(lambda future: looked.set())
                return future

        [thread, _] = get_contexts()[0]
        thread.submit(lambda: connection.ensure_connection()).result()
        thread.__class__ = Thread
        self.assertTrue(close_idle_connections())
        self.assertFalse(looked.is_set())  # It has worked less than a second ago.
        thread.last_job -= 1
        self.assertTrue(close_idle_connections())
        self.assertTrue(looked.wait(5))
