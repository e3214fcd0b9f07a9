import asyncio
import contextlib
import json
import traceback
import urllib.request
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.http import HttpResponse
from django.test import (
    AsyncClient,
    SimpleTestCase,
    TestCase,
    TransactionTestCase,
    override_settings,
)
from django.urls import path
from websockets.sync.client import connect as connect_for_real

from websocket import sweep, testing
from websocket.connection import WebSocketDisconnect
from websocket.groups import apublish, get_hub, publish
from websocket.middleware import websockets
from websocket.testing import ASGILiveServerTestCase, HandshakeRefused, connect, listen
from websocket.tests.wire import connect_to, serving
from websocket.urls import websocket


async def echo(socket):
    await socket.accept()
    async for message in socket:
        await socket.send_message(message)


class ClientTests(SimpleTestCase):
    async def test_a_client_sends_and_receives(self):
        async with connect_to(echo) as client:
            await client.send_text("text")
            self.assertEqual(await client.receive_text(), "text")
            await client.send_bytes(b"bytes")
            self.assertEqual(await client.receive_bytes(), b"bytes")
            await client.send_json({"json": True})
            self.assertEqual(await client.receive_json(), {"json": True})
            await client.send_text("whatever")
            self.assertEqual(await client.receive(), "whatever")

    async def test_a_client_expects_a_kind_of_message(self):
        async with connect_to(echo) as client:
            await client.send_text("text")
            with self.assertRaisesMessage(AssertionError, "Expected a binary message, got 'text'."):
                await client.receive_bytes()
            await client.send_bytes(b"bytes")
            with self.assertRaisesMessage(AssertionError, "Expected a text message, got b'bytes'."):
                await client.receive_text()

    async def test_a_timeout_leaves_the_view_alone(self):
        async with connect_to(echo) as client:
            with self.assertRaisesMessage(TimeoutError, "Waited 0.001 s for a message."):
                await client.receive_text(timeout=0.001)
            await client.send_text("still there")
            self.assertEqual(await client.receive_text(), "still there")

    async def test_a_client_receives_nothing_for_a_while(self):
        async with connect_to(echo) as client:
            await client.receive_nothing(0.001)
            await client.send_text("text")
            with self.assertRaisesMessage(
                AssertionError, "Expected no message for 5 s, got 'text'."
            ):
                await client.receive_nothing(5)
            await client.close()
            with self.assertRaises(WebSocketDisconnect):  # Of this client, nothing is no news.
                await client.receive_nothing(5)

    async def test_a_client_iterates_until_the_view_closes(self):
        async def view(socket):
            await socket.accept()
            await socket.send_text("one")
            await socket.send_bytes(b"two")
            await socket.close(4000, "enough")

        async with connect_to(view) as client:
            self.assertEqual([message async for message in client], ["one", b"two"])
            self.assertEqual((client.close_code, client.close_reason), (4000, "enough"))
            with self.assertRaises(WebSocketDisconnect) as caught:
                await client.receive()
            self.assertEqual((caught.exception.code, caught.exception.reason), (4000, "enough"))
            with self.assertRaises(WebSocketDisconnect):
                await client.send_text("too late")

    async def test_a_client_leaves_with_a_code_and_a_reason(self):
        seen = []

        async def view(socket):
            await socket.accept()
            try:
                await socket.receive_text()
            except WebSocketDisconnect as gone:
                seen.append((gone.code, gone.reason))

        async with connect_to(view) as client:
            await client.close(4001, "bye")
        async with connect_to(view):
            pass
        self.assertEqual(seen, [(4001, "bye"), (1000, "")])

    async def test_a_client_offers_subprotocols_and_headers(self):
        async def view(socket):
            await socket.accept(
                socket.subprotocols[1], headers=[("X-Token", socket.headers["x-token"])]
            )

        headers = {"X-Token": "abc"}
        async with connect_to(view, subprotocols=["v2", "v1"], headers=headers) as client:
            self.assertEqual(client.subprotocol, "v1")
            self.assertEqual(client.headers["X-Token"], "abc")

    async def test_a_client_sends_a_path_as_a_server_does(self):
        async def view(socket):
            await socket.accept()
            await socket.send_json([socket.path, socket.query_string])

        async with connect_to(view, "/%77s/?q=%C3%A9") as client:
            self.assertEqual(await client.receive_json(), ["/ws/", "q=%C3%A9"])

    async def test_clients_do_not_disturb_each_other(self):
        async def talk(word):
            async with connect("/ws/") as client:
                await client.send_text(word)
                return await client.receive_text()

        words = [str(number) for number in range(20)]
        with serving(echo):
            self.assertEqual(await asyncio.gather(*map(talk, words)), words)

    async def test_settings_that_middleware_has_read_may_be_overridden(self):
        for policy in ("origin", "no-referrer"):
            with (
                override_settings(SECURE_REFERRER_POLICY=policy),
                self.assertRaises(HandshakeRefused) as caught,
            ):
                async with connect("/no/such/socket/"):
                    pass
            self.assertEqual(caught.exception.headers["referrer-policy"], policy)

    async def test_afterwards_requests_look_at_connections_as_before(self):
        async with connect_to(echo):
            pass
        for signal in (request_started, request_finished):
            self.assertTrue(signal.disconnect(close_old_connections))
            signal.connect(close_old_connections)


class ListenTests(SimpleTestCase):
    async def test_a_test_waits_for_a_groups_message(self):
        async with listen("news", "more") as groups:
            await sync_to_async(publish)("news", {"text": "hello"})
            await apublish("more", "text")
            self.assertEqual(await groups.receive(), {"text": "hello"})
            self.assertEqual(await groups.receive(), "text")

    async def test_a_test_does_not_wait_for_ever(self):
        async with listen("news") as group:
            message = "Waited 0.001 s for a message to the group."
            with self.assertRaisesMessage(TimeoutError, message):
                await group.receive(timeout=0.001)
            await apublish("news", "after all")
            self.assertEqual(await group.receive(), "after all")

    async def test_a_group_gets_nothing_for_a_while(self):
        async with listen("news") as group:
            await apublish("others", "text")
            await group.receive_nothing(0.001)
            await apublish("news", "text")
            with self.assertRaisesMessage(AssertionError, "no message for 5 s, got 'text'."):
                await group.receive_nothing(5)

    async def test_a_group_is_left_at_the_end_of_the_block(self):
        async with listen("news"):
            self.assertIn("news", get_hub().members)
        self.assertNotIn("news", get_hub().members)


class RefusalTests(SimpleTestCase):
    async def test_a_refusal_is_an_error_with_the_response(self):
        async def view(socket):
            response = HttpResponse("Full.", status=503)
            response["Retry-After"] = "60"
            return response

        with self.assertRaisesMessage(HandshakeRefused, "refused with status 503") as caught:
            async with connect_to(view):
                pass
        self.assertEqual(caught.exception.status_code, 503)
        self.assertEqual(caught.exception.headers["Retry-After"], "60")
        self.assertEqual(caught.exception.content, b"Full.")

    async def test_a_close_before_the_accept_is_what_a_server_makes_of_it(self):
        async def view(socket):
            await socket.close(4000)

        with self.assertRaises(HandshakeRefused) as caught:
            async with connect_to(view):
                pass
        self.assertEqual((caught.exception.status_code, caught.exception.content), (403, b""))


class FailureTests(SimpleTestCase):
    """A view that fails makes its test fail, with the view's own traceback."""

    def setUp(self):
        self.enterContext(mock.patch.object(sweep, "INTERVAL", 0.01))
        self.enterContext(override_settings(WEBSOCKET_DISCONNECT_GRACE=0.05))
        self.enterContext(self.assertLogs("django.request"))

    @contextlib.contextmanager
    def assertFails(self, function):
        """Assert that the block raises an error with a function in its traceback."""
        try:
            yield
        except ZeroDivisionError as error:
            names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            self.assertIn(function, names)
        else:
            self.fail("No error was raised.")

    async def test_before_the_accept(self):
        async def failing_view(socket):
            raise ZeroDivisionError

        with self.assertFails("failing_view"):
            async with connect_to(failing_view):
                pass

    async def test_while_the_client_waits(self):
        async def failing_view(socket):
            await socket.accept()
            raise ZeroDivisionError

        with self.assertFails("failing_view"):
            async with connect_to(failing_view) as client:
                await client.receive_text()  # Raises WebSocketDisconnect, which matters less.

    async def test_when_the_client_leaves(self):
        async def failing_view(socket):
            await socket.accept()
            try:
                await socket.receive_text()
            finally:
                raise ZeroDivisionError

        with self.assertFails("failing_view"):
            async with connect_to(failing_view):
                pass

    async def test_in_a_started_task(self):
        async def failing_task():
            raise ZeroDivisionError

        async def view(socket):
            await socket.accept()
            socket.start(failing_task())
            await socket.receive_text()

        with self.assertFails("failing_task"):
            async with connect_to(view) as client:
                await client.wait_closed()

    async def test_under_a_wrapper_that_copies_the_scope(self):
        async def failing_view(socket):
            await socket.accept()
            raise ZeroDivisionError

        with (
            override_settings(ASGI_APPLICATION=f"{__name__}.copying_application"),
            self.assertFails("failing_view"),
        ):
            async with connect_to(failing_view) as client:
                await client.wait_closed()

    async def test_but_not_for_a_connection_that_the_test_does_not_look_at(self):
        async def failing_view(socket):
            raise ZeroDivisionError

        async def view(socket):
            await socket.accept()
            with self.assertFails("failing_view"):
                async with connect("/failing/"):
                    pass
            await socket.send_text("still there")

        with override_settings(
            ROOT_URLCONF=(websocket("ws/", view), websocket("failing/", failing_view))
        ):
            async with connect("/ws/") as client:
                self.assertEqual(await client.receive_text(), "still there")


async def copying_application(scope, receive, send):
    """The sockets under ASGI middleware that leaves the server's scope alone."""
    await websockets(ASGIHandler())({**scope, "copied": True}, receive, send)


class EndTests(SimpleTestCase):
    """A test never hangs for its view."""

    def setUp(self):
        self.enterContext(mock.patch.object(sweep, "INTERVAL", 0.01))
        self.enterContext(override_settings(WEBSOCKET_DISCONNECT_GRACE=0.05))

    async def test_a_view_that_sleeps_is_ended(self):
        async def view(socket):
            await socket.accept()
            await asyncio.Event().wait()

        async with connect_to(view) as client:
            pass
        self.assertTrue(client._task and client._task.done())

    async def test_the_error_of_the_test_is_kept(self):
        async def view(socket):
            await socket.accept()
            await asyncio.Event().wait()

        with self.assertRaisesMessage(AssertionError, "of the test"):
            async with connect_to(view) as client:
                raise AssertionError("of the test")
        self.assertTrue(client._task and client._task.done())

    async def test_a_view_that_does_not_end_is_told_of(self):
        async def view(socket):
            await socket.accept()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.Event().wait()

        with self.assertRaisesMessage(TimeoutError, "Waited 0.1 s for the view's end."):
            async with connect_to(view) as client:
                self.enterContext(mock.patch.object(testing, "TIMEOUT", 0.1))
        self.assertTrue(client._task and client._task.done())

    async def test_a_view_that_does_not_answer_is_told_of(self):
        async def view(socket):
            await asyncio.Event().wait()

        with (
            mock.patch.object(testing, "TIMEOUT", 0.5),
            self.assertRaisesMessage(TimeoutError, "Waited 0.5 s for an answer"),
        ):
            async with connect_to(view):
                pass


class LoginTests(TestCase):
    user: Any

    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")

    async def test_a_user_is_logged_in(self):
        async def view(socket):
            await socket.accept()
            await socket.send_text(str(socket.user))

        async with connect_to(view, user=self.user) as client:
            self.assertEqual(await client.receive_text(), "ada")
        async with connect_to(view) as client:
            self.assertEqual(await client.receive_text(), "AnonymousUser")

    async def test_cookies_are_those_of_djangos_client(self):
        async def view(socket):
            await socket.accept(headers=[("Set-Cookie", "fresh=yes; Path=/")])
            await socket.send_json([str(socket.user), socket.COOKIES.get("fresh")])

        client = AsyncClient()
        await sync_to_async(client.force_login)(self.user)
        async with connect_to(view, client=client) as socket:
            self.assertEqual(await socket.receive_json(), ["ada", None])
        self.assertEqual(client.cookies["fresh"].value, "yes")
        async with connect_to(view, client=client) as socket:
            self.assertEqual(await socket.receive_json(), ["ada", "yes"])


@pytest.mark.django_db
def test_a_plain_function_connects_too():
    async def view(socket):
        await socket.accept()
        await socket.send_json(await sync_to_async(get_user_model().objects.count)())

    @async_to_sync
    async def count():
        async with connect_to(view) as client:
            return await client.receive_json()

    get_user_model().objects.create_user("ada")
    assert count() == 1


def count_users(request):
    return HttpResponse(get_user_model().objects.count())


async def create_user(socket):
    await socket.accept()
    async for name in socket.iter_text():
        await sync_to_async(get_user_model().objects.create_user)(name)
        await socket.send_json(await sync_to_async(get_user_model().objects.count)())


urlpatterns = [path("count/", count_users), websocket("create/", create_user)]


@override_settings(ROOT_URLCONF=__name__)
class LiveServerTests(ASGILiveServerTestCase):
    def get(self, path):
        with urllib.request.urlopen(self.live_server_url + path) as response:
            return response.read()

    def test_the_server_and_the_test_share_the_database(self):
        get_user_model().objects.create_user("ada")
        self.assertEqual(self.get("/count/"), b"1")
        with connect_for_real(self.live_server_url.replace("http", "ws") + "/create/") as client:
            client.send("grace")
            self.assertEqual(json.loads(client.recv()), 2)
        self.assertTrue(get_user_model().objects.filter(username="grace").exists())

    def test_static_files_are_served(self):
        self.assertIn(b"{", self.get("/static/admin/css/base.css"))


class LiveServerSettingsTests(TransactionTestCase):
    def test_the_settings_are_as_before_when_the_server_has_stopped(self):
        class Tests(ASGILiveServerTestCase):
            pass

        @override_settings(ROOT_URLCONF=__name__)
        class OverridingTests(ASGILiveServerTestCase):
            pass

        before = settings.ROOT_URLCONF, settings.ALLOWED_HOSTS
        for case in (Tests, OverridingTests):
            case.setUpClass()
            self.assertIn(case.host, settings.ALLOWED_HOSTS)
            case.tearDownClass()
            case.doClassCleanups()
            self.assertEqual((settings.ROOT_URLCONF, settings.ALLOWED_HOSTS), before)
