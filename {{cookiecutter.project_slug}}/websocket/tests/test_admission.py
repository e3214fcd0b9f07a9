"""Handshakes that wait for their turn, and those that are refused because too many wait."""

import asyncio
import gc
import weakref
from unittest import mock

from django.http import HttpResponse
from django.test import SimpleTestCase, override_settings
from django.urls import path

from websocket import admission, conf, metrics, sweep
from websocket.admission import Queue, get_queue
from websocket.link import Link
from websocket.testing import connect, connections_kept
from websocket.tests import uvicorn_server
from websocket.tests.uvicorn_server import uvicorn_serves
from websocket.tests.wire import ServerWithTransport, connect_to, serving, until
from websocket.threads import HANDSHAKE_THREADS


async def echo(socket):
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


urlpatterns = [path("page/", lambda request: HttpResponse("page"))]


def link():
    return Link(ServerWithTransport().send)


@override_settings(WEBSOCKET_THREADS=1)  # A new thread, without an earlier test's connection.
class EventLoopTests(SimpleTestCase):
    def test_an_event_loop_that_has_ended_is_not_kept_once_another_serves(self):
        async def main():
            async with connect_to(echo):
                pass
            return weakref.ref(asyncio.get_running_loop())

        ended, _ = asyncio.run(main()), asyncio.run(main())
        gc.collect()
        self.assertIsNone(ended())


def soon(awaitable):
    return asyncio.wait_for(awaitable, 30)


async def fill(queue):
    """Take all places that handshakes have at once."""
    for _ in range(conf.HANDSHAKES):
        assert await queue.enter(link())


class QueueTests(SimpleTestCase):
    def setUp(self):
        # Nothing starts because time passes, unless a test is about that.
        self.enterContext(mock.patch.object(admission, "PAUSE", 3600))
        self.entered: list[int] = []

    def come(self, queue, count):
        """Let so many handshakes come, and return their tasks."""

        async def enter(number):
            if await queue.enter(link()):
                self.entered.append(number)

        return [asyncio.create_task(enter(number)) for number in range(count)]

    async def line_up(self, queue, count):
        """Let so many handshakes wait, and return their tasks."""
        tasks = self.come(queue, count)
        await until(lambda: len(queue.waiting) == count)
        return tasks

    async def test_handshakes_start_in_the_order_in_which_they_came(self):
        queue = Queue()
        await fill(queue)
        tasks = await self.line_up(queue, 5)
        for number in range(5):
            self.assertEqual(self.entered, list(range(number)))
            queue.leave()
            await soon(tasks[number])
        self.assertEqual(self.entered, [0, 1, 2, 3, 4])

    async def test_a_newcomer_does_not_overtake(self):
        queue = Queue()
        await fill(queue)
        tasks = await self.line_up(queue, 1)
        queue.leave()
        newcomer = asyncio.create_task(queue.enter(link()))
        await soon(tasks[0])
        self.assertFalse(newcomer.done())
        queue.leave()
        self.assertTrue(await soon(newcomer))

    async def test_one_that_is_cancelled_frees_its_place_in_the_queue(self):
        queue = Queue()
        await fill(queue)
        tasks = await self.line_up(queue, 3)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]], timeout=30)
        self.assertEqual(len(queue.waiting), 2)
        queue.leave()
        await soon(tasks[1])
        self.assertEqual(self.entered, [1])

    async def test_one_that_is_cancelled_as_its_turn_comes_passes_it_on(self):
        for first in ("leave", "cancel"):
            with self.subTest(first):
                queue, self.entered = Queue(), []
                await fill(queue)
                tasks = await self.line_up(queue, 2)
                if first == "leave":
                    queue.leave()
                    tasks[0].cancel()
                else:
                    tasks[0].cancel()
                    queue.leave()
                await soon(tasks[1])
                self.assertEqual(self.entered, [1])
                self.assertTrue(tasks[0].cancelled())
                self.assertEqual(queue.running, conf.HANDSHAKES)

    async def test_while_handshakes_take_long_one_more_starts_every_few_milliseconds(self):
        with mock.patch.object(admission, "PAUSE", 0.001):
            queue = Queue()
            await fill(queue)
            most = HANDSHAKE_THREADS * conf.THREADS
            tasks = self.come(queue, most)
            await until(lambda: len(self.entered) == most - conf.HANDSHAKES)
            await asyncio.sleep(0.01)  # After which there could be another, if there were a place.
            self.assertEqual(queue.running, most)
            self.assertEqual(self.entered, list(range(most - conf.HANDSHAKES)))
            for _ in range(most):
                queue.leave()
            await asyncio.wait(tasks, timeout=30)
            self.assertEqual(self.entered, list(range(most)))

    @override_settings(WEBSOCKET_HANDSHAKE_QUEUE=2)
    async def test_beyond_the_bound_none_waits(self):
        queue = Queue()
        await fill(queue)
        tasks = await self.line_up(queue, 2)
        self.assertFalse(await soon(queue.enter(link())))
        queue.leave()
        await soon(tasks[0])
        waiting = asyncio.create_task(queue.enter(link()))
        await until(lambda: len(queue.waiting) == 2)
        waiting.cancel()
        tasks[1].cancel()

    async def test_a_server_that_stops_refuses_those_that_wait_and_all_that_come(self):
        queue = Queue()
        await fill(queue)
        tasks = await self.line_up(queue, 2)
        queue.close()
        await asyncio.wait(tasks, timeout=30)
        self.assertEqual(self.entered, [])
        queue.leave()
        self.assertFalse(await soon(queue.enter(link())))

    async def test_a_client_that_has_left_by_its_turn_passes_it_on(self):
        queue, server = Queue(), ServerWithTransport()
        await fill(queue)
        entering = asyncio.create_task(queue.enter(Link(server.send)))
        await until(lambda: len(queue.waiting) == 1)
        task = await self.line_up_behind(queue)
        server.transport.closing = True
        queue.leave()
        self.assertFalse(await soon(entering))
        await soon(task)
        self.assertEqual(self.entered, [0])

    async def line_up_behind(self, queue):
        async def enter():
            if await queue.enter(link()):
                self.entered.append(0)

        task = asyncio.create_task(enter())
        await until(lambda: len(queue.waiting) == 2)
        return task


@override_settings(
    ALLOWED_HOSTS=["localhost", "testserver"], WEBSOCKET_HANDSHAKES=1, WEBSOCKET_HANDSHAKE_QUEUE=2
)
class ServerTests(SimpleTestCase):
    def setUp(self):
        self.enterContext(mock.patch.object(admission, "PAUSE", 3600))
        self.enterContext(mock.patch.object(sweep, "INTERVAL", 0.01))
        self.enterContext(connections_kept())

    def serve(self):
        from project.asgi import application

        return uvicorn_serves(application, timeout_graceful_shutdown=1)

    async def test_beyond_the_bound_a_client_gets_503_and_the_others_their_turn(self):
        before = metrics.count()
        async with self.serve() as (_, port):
            with serving(echo):
                queue = get_queue()
                await fill(queue)
                clients = [await uvicorn_server.connect(port) for _ in range(2)]
                await until(lambda: len(queue.waiting) == 2)
                self.assertIn("websocket_handshakes_waiting 2\n", metrics.prometheus())
                with self.assertLogs("django") as logs:
                    reader, writer = await uvicorn_server.connect(port)
                    answer = await reader.read()
                self.assertEqual(
                    logs.output,
                    ["WARNING:django.websocket:WebSocket /ws/ 127.0.0.1 - refused: 503"],
                )
                self.assertTrue(answer.startswith(b"HTTP/1.1 503 "), answer)
                self.assertIn(b"\r\nretry-after: 5\r\n", answer.lower())
                queue.leave()
                for reader, _ in clients:
                    answer = await reader.readuntil(b"\r\n\r\n")
                    self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), answer)
                for _, writer in clients:
                    writer.close()
        counted = metrics.count() - before
        self.assertEqual((counted["waited"], counted["handshake 503"]), (2, 1))

    async def test_a_client_that_leaves_while_it_waits_frees_its_place(self):
        async with self.serve() as (server, port):
            with serving(echo):
                queue = get_queue()
                await fill(queue)
                with self.assertNoLogs(level="WARNING"):
                    clients = [await uvicorn_server.connect(port) for _ in range(2)]
                    await until(lambda: len(queue.waiting) == 2)
                    clients[0][1].close()
                    await until(lambda: len(queue.waiting) == 1)
                    reader, writer = await uvicorn_server.connect(port)
                    await until(lambda: len(queue.waiting) == 2)
                    await until(lambda: len(server.server_state.tasks) == 2)
                queue.leave()
                for stream in (clients[1][0], reader):
                    answer = await stream.readuntil(b"\r\n\r\n")
                    self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), answer)
                writer.close()
                clients[1][1].close()

    @override_settings(ROOT_URLCONF=__name__)
    async def test_pages_do_not_wait(self):
        await fill(get_queue())
        response = await self.async_client.get("/page/")
        self.assertEqual(response.content, b"page")

    async def test_views_that_wait_for_each_other_before_the_accept_hold_up_nobody(self):
        both_came = asyncio.Barrier(2)

        async def view(socket):
            await both_came.wait()
            await socket.accept()

        async def visit():
            async with connect("/ws/") as client:
                return await client.wait_closed()

        with serving(view):
            async with asyncio.timeout(30):
                self.assertEqual(await asyncio.gather(visit(), visit()), [1000, 1000])

    async def test_a_handshake_that_fails_gives_its_place_back(self):
        def fail(socket):
            raise ZeroDivisionError

        with self.assertLogs("django.request", "ERROR"), self.assertRaises(ZeroDivisionError):
            async with connect_to(fail):
                pass
        self.assertEqual(get_queue().running, 0)
