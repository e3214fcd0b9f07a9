import asyncio
import functools
from contextlib import suppress

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.test import SimpleTestCase, TestCase, override_settings
from django.utils.decorators import method_decorator

from websocket.connection import WebSocketDisconnect
from websocket.testing import HandshakeRefused, connect
from websocket.tests.wire import CONNECT, GoneServer, Server, connect_to, left, serving
from websocket.urls import websocket
from websocket.views import WebSocketView, origin_exempt


class Recorder(WebSocketView):
    """A view that notes what happens to it."""

    seen: list[object] = []
    greeting = "hello"

    async def connect(self, *args, **kwargs):
        self.seen.append(("connect", args, kwargs))
        await super().connect(*args, **kwargs)
        await self.socket.send_text(self.greeting)

    async def receive(self, message):
        self.seen.append(("receive", message))
        await self.socket.send_message(message)

    async def disconnect(self, code):
        self.seen.append(("disconnect", code))


urlpatterns = [websocket("ws/<slug:name>/", Recorder.as_view(), {"extra": True})]


@override_settings(ROOT_URLCONF=__name__)
class WebSocketViewTests(SimpleTestCase):
    def setUp(self):
        Recorder.seen.clear()

    async def test_it_connects_receives_and_disconnects(self):
        async with connect("/ws/lobby/") as client:
            self.assertEqual(await client.receive_text(), "hello")
            await client.send_text("a")
            await client.send_bytes(b"b")
            self.assertEqual(await client.receive_text(), "a")
            self.assertEqual(await client.receive_bytes(), b"b")
            await client.close(4000)
        self.assertEqual(
            Recorder.seen,
            [
                ("connect", (), {"name": "lobby", "extra": True}),
                ("receive", "a"),
                ("receive", b"b"),
                ("disconnect", 4000),
            ],
        )

    async def test_by_itself_it_accepts_and_reads(self):
        async with connect_to(WebSocketView.as_view()) as client:
            await client.send_text("nobody cares")
            await client.close()
            self.assertEqual(await client.wait_closed(), 1000)

    async def test_receive_json_gets_decoded_values_and_nothing_else(self):
        class Sums(WebSocketView):
            async def receive_json(self, data):
                await self.socket.send_json(sum(data))

        async with connect_to(Sums.as_view()) as client:
            await client.send_json([1, 2, 3])
            self.assertEqual(await client.receive_json(), 6)
            await client.send_text("[1, 2")
            self.assertEqual(await client.wait_closed(), 1007)
        async with connect_to(Sums.as_view()) as client:
            await client.send_bytes(b"[1, 2]")
            self.assertEqual(await client.wait_closed(), 1003)

    async def test_a_view_with_neither_ignores_what_its_client_sends(self):
        codes = []

        class Ears(WebSocketView):
            async def disconnect(self, code):
                codes.append(code)

        async with connect_to(Ears.as_view()) as client:
            await client.send_text("no JSON")
            await client.send_bytes(b"no text")
            await client.close(4000)
            await client.wait_closed()
        self.assertEqual(codes, [4000])

    async def test_a_view_with_receive_may_pass_some_messages_on_to_receive_json(self):
        class Both(WebSocketView):
            async def receive(self, message):
                if message == "ping":
                    await self.socket.send_text("pong")
                else:
                    await super().receive(message)

            async def receive_json(self, data):
                await self.socket.send_json({"json": data})

        async with connect_to(Both.as_view()) as client:
            await client.send_text("ping")
            self.assertEqual(await client.receive_text(), "pong")
            await client.send_text("null")
            self.assertEqual(await client.receive_json(), {"json": None})

    async def test_there_is_one_instance_for_each_connection(self):
        class Counter(WebSocketView):
            count = 0

            async def receive(self, message):
                self.count += 1
                await self.socket.send_json([self.count, self.kwargs, self.request.path])

        with serving(Counter.as_view()):
            async with connect("/ws/") as one, connect("/ws/") as other:
                for client, count in [(one, 1), (one, 2), (other, 1)]:
                    await client.send_text("count")
                    self.assertEqual(await client.receive_json(), [count, {}, "/ws/"])

    async def test_as_view_takes_attributes(self):
        async with connect_to(Recorder.as_view(greeting="ahoy")) as client:
            self.assertEqual(await client.receive_text(), "ahoy")
        with self.assertRaisesMessage(TypeError, "unknown"):
            Recorder.as_view(unknown=1)

    def test_as_view_is_not_to_be_forgotten(self):
        with self.assertRaisesMessage(TypeError, "Use its as_view()."):
            websocket("ws/", WebSocketView)  # type: ignore[arg-type]

    async def test_connecting_may_refuse_with_a_response(self):
        class Full(Recorder):
            async def connect(self, *args, **kwargs):
                return HttpResponse("Full.", status=503)

        with self.assertRaises(HandshakeRefused) as caught:
            async with connect_to(Full.as_view()):
                pass
        self.assertEqual((caught.exception.status_code, caught.exception.content), (503, b"Full."))
        self.assertEqual(Recorder.seen, [])  # What never connected does not disconnect.

    async def test_it_does_not_disconnect_if_connecting_failed_before_the_accept(self):
        class Private(Recorder):
            async def connect(self, *args, **kwargs):
                raise PermissionDenied

        with self.assertRaises(HandshakeRefused) as caught:
            async with connect_to(Private.as_view()):
                pass
        self.assertEqual(caught.exception.status_code, 403)
        self.assertEqual(Recorder.seen, [])

    async def test_it_disconnects_if_connecting_failed_after_the_accept(self):
        class Broken(Recorder):
            async def connect(self, *args, **kwargs):
                await self.socket.accept()
                raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError), self.assertLogs("django.request"):
            async with connect_to(Broken.as_view()) as client:
                self.assertEqual(await client.wait_closed(), 1011)
        self.assertEqual(Recorder.seen, [("disconnect", 1006)])

    async def test_it_disconnects_if_the_client_left_while_connecting(self):
        class Patient(Recorder):
            async def connect(self, *args, **kwargs):
                await self.socket.accept()
                await self.socket.receive_text()

        with serving(Patient.as_view()):
            await Server(CONNECT, left(1001)).serve()
        self.assertEqual(Recorder.seen, [("disconnect", 1001)])

    async def test_it_disconnects_if_the_accept_found_the_client_gone(self):
        with serving(Recorder.as_view()):
            await GoneServer(CONNECT).serve()
        self.assertEqual(Recorder.seen[1:], [("disconnect", 1006)])

    @override_settings(WEBSOCKET_DISCONNECT_GRACE=0)
    async def test_it_disconnects_if_connecting_was_cancelled(self):
        class Slow(Recorder):
            async def connect(self, *args, **kwargs):
                await self.socket.accept()
                with suppress(WebSocketDisconnect):
                    await self.socket.receive_text()
                await asyncio.sleep(3600)

        with serving(Slow.as_view()):
            await Server(CONNECT, left(1001)).serve()
        self.assertEqual(Recorder.seen, [("disconnect", 1001)])

    async def test_it_disconnects_after_an_error_too(self):
        class Broken(Recorder):
            async def receive(self, message):
                raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError), self.assertLogs("django.request"):
            async with connect_to(Broken.as_view()) as client:
                await client.send_text("break")
                self.assertEqual(await client.wait_closed(), 1011)
        self.assertEqual(Recorder.seen[1:], [("disconnect", 1006)])

    async def test_it_disconnects_after_its_own_close_too(self):
        class Brief(Recorder):
            async def receive(self, message):
                await self.socket.close(4000)

        async with connect_to(Brief.as_view()) as client:
            await client.send_text("close")
            self.assertEqual(await client.wait_closed(), 4000)
        self.assertEqual(Recorder.seen[1:], [("disconnect", 4000)])

    async def test_it_may_be_open_to_all_origins(self):
        @method_decorator(origin_exempt, name="dispatch")
        class Public(WebSocketView):
            pass

        async with connect_to(Public.as_view(), headers={"Origin": "http://other.example.com"}):
            pass
        with self.assertRaises(HandshakeRefused):
            async with connect_to(WebSocketView.as_view(), headers={"Origin": "null"}):
                pass


class Greeter(WebSocketView):
    async def connect(self, *args, **kwargs):
        await self.socket.accept()
        await self.socket.send_text(f"Hello, {self.request.user.username}.")


@override_settings(LOGIN_URL="/accounts/login/")
class DecoratorTests(TestCase):
    user: AbstractUser

    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")

    async def assertNeedsLogin(self, view):
        async with connect_to(view, user=self.user) as client:
            self.assertEqual(await client.receive_text(), "Hello, ada.")
        with self.assertRaises(HandshakeRefused) as caught:
            async with connect_to(view):
                pass
        self.assertEqual(caught.exception.status_code, 302)
        self.assertEqual(caught.exception.headers["location"], "/accounts/login/?next=/ws/")

    async def test_djangos_decorators_work_on_the_class(self):
        @method_decorator(login_required, name="dispatch")
        class Private(Greeter):
            pass

        await self.assertNeedsLogin(Private.as_view())

    async def test_djangos_decorators_work_on_the_view(self):
        await self.assertNeedsLogin(login_required(Greeter.as_view()))

    async def test_djangos_mixins_work(self):
        class Private(LoginRequiredMixin, Greeter):  # type: ignore[misc]
            pass

        await self.assertNeedsLogin(Private.as_view())

    async def test_a_decorator_of_ones_own_works(self):
        def closed(view):
            @functools.wraps(view)
            def wrapper(socket, *args, **kwargs):
                return HttpResponse("Closed.", status=503)

            return wrapper

        @method_decorator(closed, name="dispatch")
        class Private(Greeter):
            pass

        with self.assertRaises(HandshakeRefused) as caught:
            async with connect_to(Private.as_view()):
                pass
        self.assertEqual(caught.exception.status_code, 503)
