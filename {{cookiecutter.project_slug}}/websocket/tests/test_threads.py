import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryDirectory
from unittest import mock, skipIf

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.contrib.auth import get_user_model
from django.db import DatabaseError, close_old_connections, connection, connections
from django.db.backends.signals import connection_created
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from websocket.testing import connect
from websocket.tests.wire import connect_to, serving
from websocket.threads import enter_shared_thread, get_threads


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

    @mock.patch("websocket.threads.SLOW_AFTER", 60)  # On a busy machine, too, no call is slow.
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

    def test_slow_calls_in_all_threads_hold_up_no_handshake(self):
        may_go_on = threading.Event()

        async def view(socket):
            await socket.accept()
            if await socket.receive_text() == "wait":
                await sync_to_async(may_go_on.wait)(5)
            await socket.send_text("done")

        async def main():
            with serving(view):
                async with connect("/ws/") as one, connect("/ws/") as other:
                    await one.send_text("wait")
                    await other.send_text("wait")
                    async with connect("/ws/") as third:
                        await third.send_text("hello")
                        self.assertEqual(await third.receive_text(), "done")
                    may_go_on.set()
                    self.assertEqual(await one.receive_text(), "done")
                    self.assertEqual(await other.receive_text(), "done")

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
class StuckThreadsTests(SimpleTestCase):
    """A job that goes on and on: nothing new is put behind it, and it is reported once."""

    def setUp(self):
        get_threads.cache_clear()
        self.threads = get_threads()
        self.may_go_on = threading.Event()
        self.addCleanup(self.may_go_on.set)
        for name in ("SLOW_AFTER", "STUCK_AFTER"):
            self.enterContext(mock.patch(f"websocket.threads.{name}", 0))

    def hold(self, thread):
        started = threading.Event()

        def wait_long():
            started.set()
            self.may_go_on.wait(10)

        job = thread.submit(wait_long)
        started.wait()
        return job

    def test_sockets_are_dealt_to_the_other_threads(self):
        contexts = list(self.threads.sockets)
        self.assertEqual([self.threads.for_socket() for _ in range(4)], contexts * 2)
        self.hold(self.threads.sockets[contexts[0]])
        self.assertEqual({self.threads.for_socket() for _ in range(4)}, {contexts[1]})
        self.assertFalse(self.threads.are_stuck())
        self.hold(self.threads.sockets[contexts[1]])
        self.assertEqual({self.threads.for_socket() for _ in range(4)}, set(contexts))
        self.assertTrue(self.threads.are_stuck())

    def test_handshakes_get_other_threads_up_to_a_limit(self):
        for number in range(8):
            self.assertEqual(self.threads.count_stuck(), number)
            self.assertFalse(self.threads.are_stuck())
            self.hold(self.threads.handshakes[self.threads.for_handshake()])
        self.assertIn(self.threads.for_handshake(), self.threads.handshakes)
        self.assertEqual(len(self.threads.handshakes), 8)
        self.assertTrue(self.threads.are_stuck())

    def test_an_idle_thread_takes_the_next_handshake(self):
        first = self.threads.for_handshake()
        self.assertIs(self.threads.for_handshake(), first)
        with mock.patch("websocket.threads.SLOW_AFTER", 3600):
            self.hold(self.threads.handshakes[first])
            second = self.threads.for_handshake()
            self.hold(self.threads.handshakes[second])
            self.threads.handshakes[first].submit(int)
            self.assertIs(self.threads.for_handshake(), second)
            self.assertEqual(list(self.threads.handshakes), [first, second])

    def test_the_log_says_once_for_each_job_where_it_is(self):
        thread, _ = self.threads.sockets.values()
        for _ in range(2):
            self.may_go_on.clear()
            job = self.hold(thread)
            with self.assertLogs("django.websocket", "WARNING") as log:
                self.assertTrue(self.threads.look())
                self.assertTrue(self.threads.look())
            [line] = log.output
            self.assertIn("held up websocket-0", line)
            self.assertIn("self.may_go_on.wait(10)", line)
            self.assertEqual(self.threads.count_stuck(), 1)
            self.may_go_on.set()
            job.result()


@override_settings(WEBSOCKET_THREADS=2)
@skipIf(
    connections.databases["default"].get("OPTIONS", {}).get("pool"),
    "A pool has the connections, and threads only borrow them.",
)
class ConnectionsTests(TransactionTestCase):
    def setUp(self):
        get_threads.cache_clear()  # Threads without a connection yet.
        self.addCleanup(self.close_connections)

    def close_connections(self):
        for thread in get_threads().sockets.values():
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


def connect_to_database():
    connection.ensure_connection()
    return connection.connection


def start_to_read():
    cursor = connection.cursor()
    cursor.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")
    return cursor


@override_settings(WEBSOCKET_THREADS=1)
class AgeTests(SimpleTestCase):
    """When a thread closes its connection: between its jobs, and never under a cursor."""

    databases = {"default"}

    def setUp(self):
        get_threads.cache_clear()
        [self.thread] = get_threads().sockets.values()
        self.addCleanup(self.run_job, connections.close_all)
        if connection.vendor == "sqlite":
            # Django never closes a database in memory.
            path = f"{self.enterContext(TemporaryDirectory())}/db.sqlite3"
            database = connections["default"].settings_dict
            self.enterContext(mock.patch.dict(database, NAME=path, CONN_MAX_AGE=0))

    def run_job(self, job):
        return self.thread.submit(job).result()

    def grow_old(self):
        """Let the connection be too old, and its thread idle for long enough."""
        while self.thread.jobs:  # Its last one is over, and about to be taken out.
            time.sleep(0)
        self.assertEqual(self.thread.close_at.keys(), {"default"})
        self.thread.close_at["default"] = self.thread.idle_since = 0

    def test_jobs_share_a_connection_for_a_second_at_least(self):
        first = self.run_job(connect_to_database)
        self.assertIs(self.run_job(connect_to_database), first)
        self.grow_old()
        self.assertIsNot(self.run_job(connect_to_database), first)

    def test_a_connection_outlives_the_handshake_that_has_opened_it(self):
        def shake_hands():
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            close_old_connections()  # As Django does where a request ends.
            return connection.connection

        first = self.run_job(shake_hands)
        if connection.settings_dict["OPTIONS"].get("pool"):
            self.assertIsNone(first)  # It is back in its pool.
        else:
            self.assertIsNotNone(first)
            self.assertIs(self.run_job(shake_hands), first)

    def test_an_old_connection_is_kept_while_a_cursor_lives(self):
        cursor = self.run_job(start_to_read)
        first = self.run_job(connect_to_database)
        self.assertEqual(self.run_job(cursor.fetchone), (1,))
        self.grow_old()
        self.assertTrue(self.thread.look())
        self.run_job(close_old_connections)  # As Django does where a request ends.
        self.assertIs(self.run_job(connect_to_database), first)
        self.assertEqual(self.run_job(cursor.fetchall), [(2,), (3,)])
        del cursor
        self.assertIsNot(self.run_job(connect_to_database), first)

    def test_a_connection_is_replaced_where_a_job_left_a_transaction_open(self):
        def begin():
            connection.set_autocommit(False)
            return start_to_read()

        cursor = self.run_job(begin)
        self.assertTrue(self.run_job(lambda: connection.get_autocommit()))
        if connection.vendor == "sqlite":  # Other drivers have read all rows already.
            with self.assertRaises(DatabaseError):
                self.run_job(cursor.fetchone)

    def test_an_idle_thread_closes_its_old_connection(self):
        def is_connected():
            look = ThreadPoolExecutor.submit  # Unlike a job, it leaves the connection alone.
            return look(self.thread, lambda: connection.connection is not None).result()

        self.assertFalse(self.thread.look())
        self.run_job(connect_to_database)
        self.assertTrue(self.thread.look())
        self.assertTrue(is_connected())
        self.grow_old()
        self.thread.idle_since = time.monotonic()  # It works again and again.
        self.assertTrue(self.thread.look())
        self.assertTrue(is_connected())
        self.grow_old()
        self.assertTrue(self.thread.look())
        self.assertFalse(is_connected())
        self.assertFalse(self.thread.look())
