import asyncio
import contextlib
import gc
import threading
import time
import warnings
import weakref
from typing import Any
from unittest import mock

from asgiref.sync import sync_to_async
from django.core.exceptions import PermissionDenied
from django.core.signals import got_request_exception
from django.http import Http404, HttpRequest, HttpResponse
from django.test import SimpleTestCase, override_settings

from websocket import internals, metrics, middleware, supervisor, sweep
from websocket.connection import InvalidMessage, State, WebSocket, WebSocketDisconnect
from websocket.groups import apublish
from websocket.pacing import call_in_turn
from websocket.testing import HandshakeRefused, connect
from websocket.tests.wire import (
    CONNECT,
    Server,
    ServerWithTransport,
    connect_to,
    left,
    make_scope,
    serving,
    text,
    until,
)
from websocket.urls import websocket


async def wait_for_nothing():
    """Sleep, as a view does that is done with its client."""
    await asyncio.Event().wait()


async def fail():
    raise ZeroDivisionError


class LifeTestCase(SimpleTestCase):
    """What happens after a second, and after another two, happens at once here."""

    def setUp(self):
        self.enterContext(mock.patch.object(sweep, "INTERVAL", 0.01))
        self.enterContext(override_settings(WEBSOCKET_DISCONNECT_GRACE=0.05))


class LeavingTests(LifeTestCase):
    async def test_a_view_that_receives_ends_quietly_when_its_client_leaves(self):
        ended = asyncio.Event()

        async def view(socket):
            await socket.accept()
            try:
                while True:
                    await socket.receive_text()
            finally:
                ended.set()

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                await client.send_text("hello")
                await client.close(1001)
                await ended.wait()

    async def test_a_view_that_only_pushes_ends_when_its_client_leaves(self):
        codes = []

        async def view(socket):
            await socket.accept()
            try:
                while True:
                    await socket.send_text("tick")
                    await asyncio.sleep(0)
            except WebSocketDisconnect as gone:
                codes.append(gone.code)
                raise

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                self.assertEqual(await client.receive_text(), "tick")
                await client.close(1001)
                await client.wait_closed()
        self.assertIn(codes, ([1001], [1006]))  # Whether it was seen to leave, or just gone.

    async def test_a_view_that_sleeps_is_cancelled_when_its_client_leaves(self):
        cancelled = asyncio.Event()

        async def view(socket):
            await socket.accept()
            try:
                await wait_for_nothing()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                await client.close(1001)
                await client.wait_closed()
        self.assertTrue(cancelled.is_set())

    async def test_a_view_that_sleeps_before_the_accept_is_cancelled_too(self):
        server = Server(CONNECT, left(1006))
        cancelled = []

        async def view(socket):
            try:
                await wait_for_nothing()
            finally:
                cancelled.append(socket.client_state)

        with self.assertNoLogs("django.request"), serving(view):
            self.assertEqual(await server.serve(), [])
        self.assertEqual(cancelled, [State.DISCONNECTED])

    async def test_a_view_that_is_busy_gets_the_grace_to_finish(self):
        busy, may_finish, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def view(socket):
            await socket.accept()
            await socket.receive_text()
            busy.set()
            await until(lambda: socket.client_state is State.DISCONNECTED)
            await may_finish.wait()
            finished.set()

        with override_settings(WEBSOCKET_DISCONNECT_GRACE=5):
            async with connect_to(view) as client:
                await client.send_text("work")
                await busy.wait()
                await client.close()
                may_finish.set()
                await client.wait_closed()
        self.assertTrue(finished.is_set())

    async def test_what_the_client_sent_before_it_left_is_still_received(self):
        may_receive, received = asyncio.Event(), []

        async def view(socket):
            await socket.accept()
            await until(lambda: socket.client_state is State.DISCONNECTED)
            await may_receive.wait()
            async for message in socket:
                received.append(message)

        with override_settings(WEBSOCKET_DISCONNECT_GRACE=5):
            async with connect_to(view) as client:
                for number in range(5):
                    await client.send_text(str(number))
                await client.close()
                may_receive.set()
                await client.wait_closed()
        self.assertEqual(received, ["0", "1", "2", "3", "4"])

    @override_settings(WEBSOCKET_DISCONNECT_GRACE=1)
    async def test_a_view_that_still_receives_is_not_cancelled(self):
        loop = asyncio.get_running_loop()
        real_time, received = loop.time, []

        async def view(socket):
            await socket.accept()
            await until(lambda: socket.client_state is State.DISCONNECTED)
            async for message in socket:
                received.append(message)  # And 0.7 seconds pass: in all, more than the grace.
                await asyncio.sleep(0)

        async with connect_to(view) as client:
            with mock.patch.object(loop, "time", lambda: real_time() + 0.7 * len(received)):
                for number in range(4):
                    await client.send_text(str(number))
                await client.close()
                await client.wait_closed()
        self.assertEqual(received, ["0", "1", "2", "3"])

    async def test_a_view_that_goes_on_after_its_own_close_is_cancelled(self):
        ended = asyncio.Event()

        async def view(socket):
            await socket.accept()
            await socket.close(4000)
            try:
                await wait_for_nothing()
            finally:
                ended.set()

        async with connect_to(view) as client:
            self.assertEqual(await client.wait_closed(), 4000)
        self.assertTrue(ended.is_set())

    async def test_a_client_that_leaves_mid_iteration_is_no_error(self):
        async def view(socket):
            await socket.accept()
            async for message in socket:
                while True:  # The client is gone before the last reply.
                    await socket.send_message(message)
                    await asyncio.sleep(0)

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                await client.send_text("again and again")
                await client.receive_text()

    async def test_a_client_that_leaves_a_task_group_is_no_error(self):
        async def view(socket):
            await socket.accept()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(socket.receive_text())
                tasks.create_task(wait_for_nothing())

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                await client.close()

    async def test_a_view_that_gathers_ends_when_its_client_leaves(self):
        received, ended = asyncio.Event(), []

        async def view(socket):
            async def receiver():
                while True:
                    await socket.receive_text()
                    received.set()

            async def sender():
                try:
                    while True:
                        await socket.send_text("tick")
                        await asyncio.sleep(0.001)
                finally:
                    ended.append("sender")

            await socket.accept()
            await asyncio.gather(receiver(), sender())

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                await client.send_text("hello")
                await received.wait()
                self.assertEqual(await client.receive_text(), "tick")
                await client.close()
                await client.wait_closed()
                # gather() leaves the other coroutine to end by itself.
                await until(lambda: bool(ended))


class EndingTests(LifeTestCase):
    async def test_a_view_that_returns_closes_its_socket(self):
        async def view(socket):
            await socket.accept()
            await socket.send_text("bye")

        async with connect_to(view) as client:
            self.assertEqual(await client.receive_text(), "bye")
            with self.assertRaises(WebSocketDisconnect) as caught:
                await client.receive()
            self.assertEqual(caught.exception.code, 1000)

    async def test_a_response_after_the_accept_is_a_mistake_that_is_named(self):
        async def view(socket):
            await socket.accept()
            return HttpResponse("No.", status=403)

        with self.assertLogs("django.request", "WARNING") as logs:
            async with connect_to(view) as client:
                self.assertEqual(await client.wait_closed(), 1000)
        self.assertIn("a response after accept(), which no client sees", logs.output[0])

    async def test_a_view_that_neither_accepts_nor_refuses_is_a_bug(self):
        async def view(socket):
            pass

        with (
            self.assertLogs("django.request", "ERROR") as logs,
            self.assertRaisesMessage(RuntimeError, "returned without accepting or refusing"),
        ):
            async with connect_to(view):
                pass
        self.assertEqual(len(logs.records), 1)
        with self.assertLogs("django.request", "ERROR"), serving(view):
            start, _ = await Server(CONNECT).serve()
        self.assertEqual(start["status"], 500)

    async def test_a_message_that_the_view_cannot_read_closes_without_an_error(self):
        async def view(socket):
            await socket.accept()
            await socket.receive_json()

        for send, code in [("send_bytes", 1003), ("send_text", 1007)]:
            with self.assertLogs("django.request", "INFO") as logs:
                async with connect_to(view) as client:
                    await getattr(client, send)(b"{" if send == "send_bytes" else "{")
                    self.assertEqual(await client.wait_closed(), code)
            self.assertTrue(client.close_reason.startswith("Expected"))
            self.assertEqual([record.levelname for record in logs.records], ["INFO"])

    async def test_a_message_that_a_task_group_cannot_read_closes_without_an_error(self):
        async def view(socket):
            await socket.accept()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(socket.receive_json())
                tasks.create_task(wait_for_nothing())

        async with connect_to(view) as client:
            await client.send_text("{")
            self.assertEqual(await client.wait_closed(), 1007)

    async def test_a_view_may_go_on_after_a_message_that_it_cannot_read(self):
        async def view(socket):
            await socket.accept()
            with contextlib.suppress(InvalidMessage):
                await socket.receive_json()
            await socket.send_json("Pardon?")

        async with connect_to(view) as client:
            await client.send_text("{")
            self.assertEqual(await client.receive_json(), "Pardon?")

    async def test_what_a_client_sends_cannot_forge_lines_of_the_log(self):
        async def view(socket, name):
            await socket.accept()
            what = await socket.receive_json()
            raise PermissionDenied(what) if name.startswith("my") else InvalidMessage(what)

        with override_settings(ROOT_URLCONF=(websocket("<str:name>/", view),)):
            for name, code in [("x", 1003), ("my", 3003)]:
                with self.assertLogs("django.request", "INFO") as logs:
                    async with connect(f"/{name}%0AINFO forged/") as client:
                        await client.send_json("a\nb \ud800")
                        self.assertEqual(await client.wait_closed(), code)
                line = logs.records[0].getMessage()
                self.assertIn(rf"/{name}%0AINFO%20forged/: a\nb \ud800", line)

    async def test_nor_can_its_name_or_its_address(self):
        user = mock.Mock(is_authenticated=True, get_username=lambda: "ada\nINFO forged")

        async def view(socket):
            socket.request.user = user
            await socket.accept()

        with self.assertLogs("django.websocket", "INFO") as logs, serving(view):
            await Server(CONNECT).serve(client=("1.2.3.4\nINFO forged", 1))
        for record in logs.records:
            line = record.getMessage()
            self.assertIn(r" 1.2.3.4%0AINFO%20forged ada\nINFO forged ", line)
            self.assertNotIn("\n", line)

    @override_settings(WEBSOCKET_MAX_MESSAGE_SIZE=4)
    async def test_a_message_that_is_too_large_closes_and_is_not_seen(self):
        received = []

        async def view(socket):
            await socket.accept()
            async for message in socket:
                received.append(message)

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                await client.send_text("abcd")
                await client.send_text("abcde")
                self.assertEqual(await client.wait_closed(), 1009)
        self.assertEqual(received, ["abcd"])

    async def test_a_socket_is_logged_when_it_opens_and_when_it_closes(self):
        async def view(socket):
            await socket.accept()
            async for message in socket:
                await socket.send_message(message)
                await socket.send_message(message)

        with self.assertLogs("django.websocket", "INFO") as logs:
            async with connect_to(view, "/ws/?token=secret") as client:
                await client.send_text("hello")
                await client.receive_text()
                await client.receive_text()
                await client.close(4000)
        opened, closed = (record.getMessage() for record in logs.records)
        self.assertEqual(opened, "WebSocket /ws/ 127.0.0.1 - open")
        self.assertRegex(closed, r"^WebSocket /ws/ 127\.0\.0\.1 - 4000 \d+\.\d s, 1 in, 2 out$")


class CleanupTests(LifeTestCase):
    async def test_a_view_that_cleans_up_for_too_long_is_cut_off_and_named(self):
        async def clean_up():
            await wait_for_nothing()

        async def view(socket):
            await socket.accept()
            try:
                await socket.receive_text()
            finally:
                await clean_up()

        with self.assertLogs("django.websocket", "WARNING") as logs, serving(view):
            await Server(CONNECT, left()).serve()
        [line] = logs.output
        self.assertRegex(
            line, r"The view \S+\.view was cut off: .* \S+clean_up:\d+ > wait_for_noth"
        )

    @override_settings(WEBSOCKET_DISCONNECT_GRACE=0.5)
    async def test_a_view_that_learns_from_the_cancel_has_time_to_clean_up(self):
        cleaned = []

        async def view(socket):
            await socket.accept()
            try:
                await wait_for_nothing()
            finally:
                await asyncio.sleep(0.01)
                cleaned.append("view")

        with self.assertNoLogs("django.websocket", "WARNING"), serving(view):
            await Server(CONNECT, left()).serve()
        self.assertEqual(cleaned, ["view"])

    @override_settings(WEBSOCKET_REDIS_URL="", WEBSOCKET_DISCONNECT_GRACE=0.5)
    async def test_so_has_a_view_that_published_to_its_group_in_vain(self):
        # The client's connection is lost, but no exception has told the view.
        class LostServer(Server):
            async def send(self, event):
                if event["type"] == "websocket.send":
                    raise ConnectionResetError
                await super().send(event)

        cleaned = []

        async def view(socket):
            await socket.accept()
            await socket.join("room")
            await apublish("room", "hello")
            try:
                await wait_for_nothing()
            finally:
                await asyncio.sleep(0.01)
                cleaned.append("view")

        with self.assertNoLogs("django.websocket", "WARNING"), serving(view):
            await LostServer(CONNECT).serve()
        self.assertEqual(cleaned, ["view"])

    async def test_a_view_that_swallows_being_cut_off_is_cut_off_again_and_named_once(self):
        async def view(socket):
            await socket.accept()
            for _ in range(4):
                with contextlib.suppress(asyncio.CancelledError):
                    await wait_for_nothing()

        with self.assertLogs("django.websocket", "WARNING") as logs, serving(view):
            async with asyncio.timeout(30):
                await Server(CONNECT, left()).serve()
        self.assertEqual(len(logs.output), 1)

    @override_settings(WEBSOCKET_DISCONNECT_GRACE=0)
    async def test_a_view_without_grace_that_waits_for_its_thread_does_not_keep_the_loop_busy(self):
        async def view(socket):
            await socket.accept()
            try:
                await socket.receive_text()
            finally:
                await sync_to_async(time.sleep)(0.5)

        waits = mock.Mock(side_effect=internals.waits_for_thread)
        with serving(view), mock.patch.object(internals, "waits_for_thread", waits):
            await Server(CONNECT, left()).serve()
        self.assertIn(waits.call_count, range(1, 10))

    async def test_a_view_that_catches_every_exception_in_a_loop_stops_nobody_else(self):
        async def view(socket):
            await socket.accept()
            while True:
                with contextlib.suppress(Exception):
                    await socket.receive_text()

        with serving(view):
            async with asyncio.timeout(30):
                await Server(CONNECT, left()).serve()

    @override_settings(DEBUG=True)
    async def test_a_view_that_blocks_the_event_loop_is_told_of_in_development(self):
        self.enterContext(mock.patch.object(sweep, "LATE", 0.05))

        async def view(socket):
            await socket.accept()
            await asyncio.sleep(0.02)  # The first look, a hundredth of a second after the start.
            time.sleep(0.2)
            await asyncio.sleep(0.02)

        with self.assertLogs("django.websocket", "WARNING") as logs, serving(view):
            await Server(CONNECT).serve()
        self.assertIn("Something blocked all sockets for more than a second", logs.output[0])

    async def test_a_view_that_learns_from_the_cancel_and_goes_on_is_cut_off_too(self):
        async def view(socket):
            await socket.accept()
            try:
                await wait_for_nothing()
            finally:
                await wait_for_nothing()

        with self.assertLogs("django.websocket", "WARNING") as logs, serving(view):
            await Server(CONNECT, left()).serve()
        self.assertEqual(len(logs.output), 1)

    async def test_sync_code_that_waits_for_its_thread_may_finish(self):
        clients, finished = 20, []

        async def view(socket):
            await socket.accept()
            try:
                await socket.receive_text()
            finally:
                # All of them in a few threads: far more than the grace in all.
                await sync_to_async(time.sleep)(0.05)
                finished.append(await sync_to_async(lambda: "view")())

        servers = [Server(CONNECT, left()) for _ in range(clients)]
        quiet = self.assertNoLogs("django.websocket", "WARNING")
        with quiet, override_settings(WEBSOCKET_THREADS=2), serving(view):
            await asyncio.gather(*(server.serve() for server in servers))
        self.assertEqual(len(finished), clients)

    @override_settings(WEBSOCKET_THREADS=1)  # A new thread, without an earlier test's connection.
    def test_sync_code_may_finish_wherever_the_view_or_its_tasks_wait_for_it(self):
        def work():
            time.sleep(0.2)  # Four times the grace.

        async def in_a_task_group():
            async with asyncio.TaskGroup() as group:
                group.create_task(sync_to_async(work)())

        async def within_a_timeout():
            await asyncio.wait_for(sync_to_async(work)(), 30)

        async def rows():
            await sync_to_async(work)()
            yield

        async def in_an_async_generator():
            async for _ in rows():
                pass

        async def main(clean_up, is_task, closes):
            finished = []

            async def wait_and_clean_up(waiting):
                try:
                    await waiting
                finally:
                    await clean_up()
                    finished.append(clean_up.__name__)

            async def view(socket):
                await socket.accept()
                if is_task:
                    socket.start(wait_and_clean_up(wait_for_nothing()))
                    if closes:  # Nothing tells the view that its connection is over.
                        await asyncio.sleep(0)
                        await socket.close()
                    else:
                        await socket.receive_text()
                else:
                    await wait_and_clean_up(socket.receive_text())

            server = Server(CONNECT)
            with serving(view):
                connection = asyncio.create_task(server.serve())
                if not closes:
                    await server.drained.wait()
                    server.events.put_nowait(left())
                await connection
            return finished

        # Under asyncio.run, for in an async test, sync code runs in the test's own thread.
        for clean_up in (in_a_task_group, within_a_timeout, in_an_async_generator):
            for is_task, closes in ((False, False), (True, False), (True, True)):
                with self.subTest(clean_up.__name__, is_task=is_task, closes=closes):
                    with self.assertNoLogs("django.websocket", "WARNING"):
                        finished = asyncio.run(main(clean_up, is_task, closes))
                    self.assertEqual(finished, [clean_up.__name__])

    async def test_a_task_that_cleans_up_for_too_long_is_cut_off_with_one_warning(self):
        async def clean_up():
            await wait_for_nothing()

        async def task():
            try:
                await wait_for_nothing()
            finally:
                await clean_up()

        async def view(socket):
            await socket.accept()
            socket.start(task())
            await socket.receive_text()

        server = Server(CONNECT)
        with self.assertLogs("django.websocket", "WARNING") as logs, serving(view):
            connection = asyncio.create_task(server.serve())
            await server.drained.wait()
            server.events.put_nowait(left())
            await connection
        [line] = logs.output
        self.assertRegex(
            line, r"A task of the view \S+\.view was cut off: .* \S+clean_up:\d+ > wait_for_noth"
        )

    async def test_a_task_that_goes_on_alone_keeps_nothing_of_its_view(self):
        kept: list[Any] = []
        tasks = []

        async def view(socket):
            await socket.accept()
            kept.extend(map(weakref.ref, (socket, socket._connection.supervisor)))
            tasks.append(asyncio.create_task(wait_for_nothing()))

        with serving(view):
            await Server(CONNECT).serve()
        gc.collect()
        self.assertEqual([item() for item in kept], [None, None])
        tasks[0].cancel()

    async def test_a_view_that_never_stops_calling_sync_code_is_cut_off(self):
        async def view(socket):
            await socket.accept()
            try:
                await socket.receive_text()
            finally:
                while True:
                    await sync_to_async(time.sleep)(0.01)

        impatient = mock.patch.object(supervisor, "PATIENCE", 0.2)
        with self.assertLogs("django.websocket", "WARNING") as logs, impatient, serving(view):
            await Server(CONNECT, left()).serve()
        self.assertIn("> SyncToAsync.__call__:", logs.output[0])

    async def test_a_close_that_is_given_up_is_sent_all_the_same(self):
        class SlowServer(Server):
            reads = asyncio.Event()

            async def send(self, event):
                if event["type"] == "websocket.close":
                    self.drained.set()
                    await self.reads.wait()
                await super().send(event)

        server = SlowServer(CONNECT)
        socket = WebSocket(make_scope(), server.receive, server.send)
        await socket.accept()
        closing = asyncio.create_task(socket.close(4000, "bye"))
        await server.drained.wait()
        closing.cancel()
        await asyncio.wait([closing])
        server.reads.set()
        await socket.close()
        self.assertEqual((server.sent[-1]["code"], server.sent[-1]["reason"]), (4000, "bye"))

    async def test_a_failing_look_does_not_end_the_looks(self):
        class Broken:
            def look(self):
                raise ZeroDivisionError

        broken = Broken()
        sweep.add(broken)
        with self.assertLogs("django.websocket", "ERROR") as logs:
            await until(lambda: len(logs.records) > 2)
        sweep.discard(broken)

    async def test_the_metrics_never_count_backwards(self):
        counts: list[int] = []

        async def view(socket):
            await socket.accept()
            async for _ in socket:
                pass

        def count():
            while not done.is_set():
                counts.append(metrics.count()["messages_in"])

        done = threading.Event()
        with serving(view):
            counting = asyncio.create_task(asyncio.to_thread(count))
            for _ in range(20):
                await Server(CONNECT, *[text("a")] * 5, left()).serve()
            done.set()
            await counting
        self.assertEqual(counts, sorted(counts))
        self.assertGreater(counts[-1], counts[0])


class ErrorTests(LifeTestCase):
    def setUp(self):
        super().setUp()
        self.signalled: list[HttpRequest] = []
        got_request_exception.connect(self.on_exception)
        self.addCleanup(got_request_exception.disconnect, self.on_exception)

    def on_exception(self, request, **kwargs):
        self.signalled.append(request)

    @contextlib.contextmanager
    def assertReported(self, error):
        """Assert that an error is logged once, as Django does, and signalled once."""
        with self.assertLogs("django.request", "ERROR") as logs:
            yield
        [record] = logs.records
        self.assertIn("/ws/", record.getMessage())
        assert record.exc_info is not None
        self.assertIsInstance(record.exc_info[1], error)
        self.assertEqual(getattr(record, "status_code", None), 500)
        self.assertEqual(getattr(record, "request", None), self.signalled[0])
        self.assertEqual([request.path for request in self.signalled], ["/ws/"])

    async def test_before_the_accept_it_is_a_500(self):
        async def view(socket):
            raise ZeroDivisionError

        with self.assertReported(ZeroDivisionError), serving(view):
            start, body = await Server(CONNECT).serve()
        self.assertEqual(start["status"], 500)
        self.assertNotIn(b"ZeroDivisionError", body["body"])

    async def test_after_the_accept_it_is_a_1011(self):
        async def view(socket):
            await socket.accept()
            raise ZeroDivisionError

        with self.assertReported(ZeroDivisionError), serving(view):
            accept, close = await Server(CONNECT).serve()
        self.assertEqual(accept["type"], "websocket.accept")
        self.assertEqual((close["code"], close["reason"]), (1011, ""))

    async def test_permission_denied_after_the_accept_is_the_clients_fault_and_a_3003(self):
        async def view(socket):
            await socket.accept()
            raise PermissionDenied("Not yours.")

        with serving(view), self.assertLogs("django.request", "WARNING") as logs:
            _, close = await Server(CONNECT).serve()
        self.assertEqual(close["code"], 3003)
        self.assertEqual(logs.records[0].getMessage(), "PermissionDenied: /ws/: Not yours.")
        self.assertEqual(self.signalled, [])

    async def test_too_many_query_fields_after_the_accept_are_a_1008(self):
        async def view(socket):
            await socket.accept()
            socket.query_params.get("x")

        with serving(view), self.assertLogs("django.request", "WARNING"):
            _, close = await Server(CONNECT).serve(query_string=b"a&" * 2000)
        self.assertEqual(close["code"], 1008)

    async def test_a_view_that_returns_what_is_no_response_is_a_500(self):
        async def view(socket):
            return "ok"

        with self.assertReported(RuntimeError), serving(view):
            start, _ = await Server(CONNECT).serve()
        self.assertEqual(start["status"], 500)

    async def test_in_a_decorator_it_is_a_500(self):
        def broken(view):
            def wrapper(socket):
                raise ZeroDivisionError

            return wrapper

        @broken
        async def view(socket):
            pass

        with self.assertReported(ZeroDivisionError), serving(view):
            start, _ = await Server(CONNECT).serve()
        self.assertEqual(start["status"], 500)

    async def test_in_a_started_task_it_ends_the_view(self):
        cleaned = []

        async def view(socket):
            await socket.accept()
            socket.start(fail())
            try:
                await socket.receive_text()
            finally:
                cleaned.append("view")

        with self.assertReported(ZeroDivisionError), serving(view):
            _, close = await Server(CONNECT).serve()
        self.assertEqual(close["code"], 1011)
        self.assertEqual(cleaned, ["view"])

    async def test_in_a_task_that_the_views_end_has_cancelled_it_is_reported_too(self):
        async def view(socket):
            async def fail():
                try:
                    await wait_for_nothing()
                finally:
                    await asyncio.sleep(0)
                    raise ZeroDivisionError

            await socket.accept()
            socket.start(fail())
            await asyncio.sleep(0)

        with self.assertReported(ZeroDivisionError), serving(view):
            _, close = await Server(CONNECT).serve()
        self.assertEqual(close["code"], 1011)

    async def test_a_view_that_a_failed_task_has_stopped_may_still_clean_up(self):
        cleaned = []

        async def view(socket):
            await socket.accept()
            socket.start(fail())
            with contextlib.suppress(asyncio.CancelledError):
                await socket.receive_text()
            await socket.send_text("bye")
            async with asyncio.timeout(1):
                await asyncio.sleep(0)
            cleaned.append("view")

        with self.assertReported(ZeroDivisionError), serving(view):
            _, message, close = await Server(CONNECT).serve()
        self.assertEqual((message["text"], close["code"]), ("bye", 1011))
        self.assertEqual(cleaned, ["view"])

    async def test_a_view_that_a_failed_task_could_not_stop_is_cancelled_when_its_client_leaves(
        self,
    ):
        async def view(socket):
            await socket.accept()
            socket.start(fail())
            try:
                await wait_for_nothing()
            finally:
                await wait_for_nothing()

        with self.assertReported(ZeroDivisionError), serving(view):
            await Server(CONNECT, left()).serve()

    async def test_while_cleaning_up_it_is_reported_too(self):
        async def view(socket):
            await socket.accept()
            try:
                await socket.receive_text()
            finally:
                raise ZeroDivisionError

        with self.assertReported(ZeroDivisionError), serving(view):
            await Server(CONNECT, left()).serve()

    async def test_while_cleaning_up_after_a_cancel_it_is_reported_too(self):
        async def view(socket):
            await socket.accept()
            try:
                await wait_for_nothing()
            finally:
                raise ZeroDivisionError

        with self.assertReported(ZeroDivisionError), serving(view):
            await Server(CONNECT, left()).serve()

    async def test_a_timeout_of_the_view_is_an_error_of_the_view(self):
        async def view(socket):
            await socket.accept()
            async with asyncio.timeout(0):
                await wait_for_nothing()

        with self.assertReported(TimeoutError), serving(view):
            _, close = await Server(CONNECT).serve()
        self.assertEqual(close["code"], 1011)

    async def test_awaiting_what_was_cancelled_is_an_error_of_the_view(self):
        async def view(socket):
            await socket.accept()
            task = asyncio.create_task(wait_for_nothing())
            task.cancel()
            await task

        with self.assertReported(RuntimeError), serving(view):
            _, close = await Server(CONNECT).serve()
        self.assertEqual(close["code"], 1011)

    async def test_misuse_of_the_socket_is_an_error_of_the_view(self):
        async def view(socket):
            await socket.send_text("early")

        with self.assertReported(RuntimeError), serving(view):
            start, _ = await Server(CONNECT).serve()
        self.assertEqual(start["status"], 500)

    async def test_iterating_before_the_accept_is_an_error_of_the_view(self):
        async def view(socket):
            async for _ in socket:
                pass

        with self.assertReported(RuntimeError), serving(view):
            start, _ = await Server(CONNECT).serve()
        self.assertEqual(start["status"], 500)

    async def test_a_task_group_whose_error_the_view_handles_is_no_error(self):
        async def view(socket):
            await socket.accept()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(fail())
            except* ZeroDivisionError:
                await socket.send_text("handled")

        with self.assertNoLogs("django.request"), serving(view):
            _, message, close = await Server(CONNECT).serve()
        self.assertEqual((message["text"], close["code"]), ("handled", 1000))

    async def test_several_errors_are_all_reported(self):
        async def view(socket):
            await socket.accept()
            socket.start(fail())
            try:
                await wait_for_nothing()
            finally:
                raise KeyError("in the view")

        with self.assertLogs("django.request", "ERROR") as logs, serving(view):
            await Server(CONNECT).serve()
        errors = {type(record.exc_info[1]) for record in logs.records if record.exc_info}
        self.assertEqual(errors, {KeyError, ZeroDivisionError})

    async def test_what_django_answers_without_an_error_is_none(self):
        for error, status in [(Http404, 404), (PermissionDenied, 403)]:

            async def view(socket, error=error):
                raise error

            with self.assertRaises(HandshakeRefused) as caught:
                async with connect_to(view):
                    pass
            self.assertEqual(caught.exception.status_code, status)
        self.assertEqual(self.signalled, [])


class StartTests(LifeTestCase):
    async def test_a_task_pushes_while_the_view_waits_for_its_client(self):
        async def view(socket):
            async def push():
                for number in range(3):
                    await socket.send_text(str(number))

            await socket.accept()
            socket.start(push())
            async for message in socket:
                await socket.send_message(message)

        async with connect_to(view) as client:
            self.assertEqual([await client.receive_text() for _ in range(3)], ["0", "1", "2"])
            await client.send_text("echo")
            self.assertEqual(await client.receive_text(), "echo")

    async def test_a_task_is_cancelled_and_awaited_when_the_view_ends(self):
        order = []

        async def view(socket):
            async def push():
                try:
                    await wait_for_nothing()
                finally:
                    await asyncio.sleep(0)
                    await socket.send_text("bye")
                    order.append("task")

            await socket.accept()
            socket.start(push())
            await socket.receive_text()
            order.append("view")

        async with connect_to(view) as client:
            await client.send_text("end")
            self.assertEqual(await client.receive_text(), "bye")
            self.assertEqual(await client.wait_closed(), 1000)
        self.assertEqual(order, ["view", "task"])

    async def test_a_task_that_finds_the_client_gone_does_not_end_the_view(self):
        received = []

        async def view(socket):
            async def push():
                while True:
                    await socket.send_text("tick")
                    await asyncio.sleep(0)

            await socket.accept()
            task = socket.start(push())
            await asyncio.wait([task])
            async for message in socket:
                received.append(message)

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                await client.send_text("the last words")
                await client.receive_text()
                await client.close()
                await client.wait_closed()
        self.assertEqual(received, ["the last words"])

    async def test_a_task_group_in_a_task_that_finds_the_client_gone_does_not_either(self):
        received = []

        async def view(socket):
            async def push():
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(socket.send_text("too late"))

            await socket.accept()
            await until(lambda: socket.client_state is State.DISCONNECTED)
            await asyncio.wait([socket.start(push())])
            async for message in socket:
                received.append(message)

        with serving(view):
            await Server(CONNECT, text("the last words"), left()).serve()
        self.assertEqual(received, ["the last words"])

    async def test_a_task_may_end_before_the_view_or_be_cancelled_by_it(self):
        async def view(socket):
            await socket.accept()
            done = socket.start(socket.send_text("one"))
            await asyncio.wait([done])
            forever = socket.start(wait_for_nothing())
            forever.cancel()
            await asyncio.wait([forever])
            await socket.send_text("two")

        async with connect_to(view) as client:
            self.assertEqual(await client.receive_text(), "one")
            self.assertEqual(await client.receive_text(), "two")
            self.assertEqual(await client.wait_closed(), 1000)

    async def test_a_task_may_be_cancelled_before_it_has_begun(self):
        async def view(socket):
            await socket.accept()
            socket.start(wait_for_nothing())

        with warnings.catch_warnings(record=True, action="always") as caught:
            async with connect_to(view) as client:
                self.assertEqual(await client.wait_closed(), 1000)
        self.assertEqual(caught, [])  # None says that wait_for_nothing() was never awaited.

    async def test_a_task_that_goes_on_is_cancelled_again_when_its_client_leaves(self):
        cancelled = []

        async def view(socket):
            async def go_on():
                for _ in range(2):
                    try:
                        await wait_for_nothing()
                    except asyncio.CancelledError:
                        cancelled.append("task")

            await socket.accept()
            socket.start(go_on())
            await asyncio.sleep(0)
            await socket.receive_text()

        with serving(view):
            await Server(CONNECT, left()).serve()
        self.assertEqual(cancelled, ["task", "task"])

    async def test_what_is_no_exception_leaves_a_task_as_it_leaves_a_view(self):
        class Outcome(BaseException):
            pass

        async def view(socket):
            async def fail():
                raise Outcome

            await socket.accept()
            socket.start(fail())
            await socket.receive_text()

        with serving(view), self.assertRaises(Outcome):
            await Server(CONNECT).serve()

    async def test_nothing_is_started_after_the_view(self):
        sockets = []

        async def view(socket):
            sockets.append(socket)
            await socket.accept()

        async with connect_to(view) as client:
            await client.wait_closed()
        with self.assertRaisesMessage(RuntimeError, "start() can be called only while"):
            sockets[0].start(wait_for_nothing())


@override_settings(WEBSOCKET_REDIS_URL="")  # With it, a process also listens to Redis.
class ServerTests(LifeTestCase):
    async def test_a_server_that_stops_is_not_held_up(self):
        cleaned = []

        async def view(socket):
            await socket.accept()
            try:
                await wait_for_nothing()
            finally:
                cleaned.append("view")

        server = Server(CONNECT)
        with serving(view):
            connection = asyncio.create_task(server.serve())
            await until(server.drained.is_set)
            server.events.put_nowait(left(1012))
            server.events.put_nowait(left(1012))  # uvicorn's second, from the transport.
            await connection
        self.assertEqual(cleaned, ["view"])

    async def test_a_server_may_cancel_a_connection(self):
        cleaned = []

        async def view(socket):
            await socket.accept()
            socket.start(wait_for_nothing())
            try:
                await wait_for_nothing()
            finally:
                cleaned.append("view")

        server = Server(CONNECT)
        with serving(view), self.assertLogs("django.websocket", "INFO") as logs:
            connection = asyncio.create_task(server.serve())
            await until(server.drained.is_set)
            connection.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await connection
        self.assertEqual(cleaned, ["view"])
        self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})
        # Even so, the log has its end.
        self.assertRegex(logs.output[-1], r"/ws/ - - 1006 [\d.]+ s, 0 in, 0 out$")

    async def test_a_server_may_cancel_a_connection_whose_tasks_clean_up(self):
        cleaned = []
        cleaning = asyncio.Event()

        async def view(socket):
            async def clean_up():
                try:
                    await wait_for_nothing()
                finally:
                    try:
                        cleaning.set()
                        await wait_for_nothing()
                    finally:
                        await asyncio.sleep(0)
                        cleaned.append("task")

            await socket.accept()
            socket.start(clean_up())
            await asyncio.sleep(0)

        server = Server(CONNECT)
        with serving(view):
            connection = asyncio.create_task(server.serve())
            await cleaning.wait()
            connection.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await connection
        self.assertEqual(cleaned, ["task"])
        self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})

    async def test_what_goes_wrong_when_a_server_cancels_is_reported(self):
        async def view(socket):
            await socket.accept()
            try:
                await wait_for_nothing()
            finally:
                raise ZeroDivisionError

        server = Server(CONNECT)
        with serving(view), self.assertLogs("django.request", "ERROR"):
            connection = asyncio.create_task(server.serve())
            await until(server.drained.is_set)
            connection.cancel()
            await asyncio.wait([connection])
        self.assertEqual(server.sent[-1]["code"], 1011)

    async def test_nothing_is_left_of_a_connection(self):
        async def view(socket):
            await socket.accept()
            socket.start(wait_for_nothing())
            await wait_for_nothing()

        with serving(view):
            await Server(CONNECT, text("unread"), left()).serve()
        self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})
        self.assertFalse(sweep._open.get(asyncio.get_running_loop()))

    async def test_a_client_that_does_not_read_is_dropped_when_the_view_ends(self):
        class StuckServer(ServerWithTransport):
            async def send(self, event):
                if event["type"] == "websocket.close":
                    await wait_for_nothing()

        async def view(socket):
            await socket.accept()

        with serving(view):
            server = StuckServer(CONNECT)
            await server.serve()
        self.assertTrue(server.transport.aborted)


class ScopeTests(SimpleTestCase):
    async def test_the_lifespan_is_answered(self):
        server = Server({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
        sent = await server.serve(type="lifespan")
        self.assertEqual(
            [event["type"] for event in sent],
            ["lifespan.startup.complete", "lifespan.shutdown.complete"],
        )

    async def test_what_is_no_websocket_goes_to_the_wrapped_application(self):
        async def pages(scope, receive, send):
            await send({"type": "seen", "path": scope["path"]})

        server = Server()
        application = middleware.websockets(pages)
        await application(make_scope(type="http", path="/page/"), server.receive, server.send)
        self.assertEqual(server.sent, [{"type": "seen", "path": "/page/"}])

    async def test_a_close_that_fails_keeps_those_behind_it_from_nothing(self):
        closed = []

        def close():
            closed.append(True)
            return True

        def fail():
            raise RuntimeError("This close fails.")

        with self.assertLogs("django.websocket", "ERROR") as logs:
            for function in (close, fail, close, fail):
                call_in_turn(function)
            await until(lambda: len(logs.records) == 2)
        call_in_turn(close)
        self.assertEqual(len(closed), 3)
        self.assertIn("This close fails.", logs.output[0])

    async def test_pages_are_served_beside_the_sockets(self):
        response = await self.async_client.get("/admin/login/")
        self.assertEqual(response.status_code, 200)
