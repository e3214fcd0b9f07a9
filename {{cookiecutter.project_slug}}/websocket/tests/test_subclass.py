"""A view may serve its client with a subclass of `WebSocket` that it creates of its socket.

This is how code written for the recipe adds methods of its own.
"""

import functools

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.test import TestCase, override_settings

from websocket.connection import ReceiveEvent, SendEvent, State, WebSocket, WebSocketDisconnect
from websocket.groups import apublish, get_hub
from websocket.tests.wire import CONNECT, Server, connect_to, left, serving, text


class Upper(WebSocket):
    """A socket that shouts, with the events of the recipe."""

    def __init__(self, scope, receive, send):
        self.seen = []
        super().__init__(scope, receive, send)

    async def accept(self, subprotocol=None):  # type: ignore[override]
        await self._receive()
        await self._send({"type": SendEvent.ACCEPT, "subprotocol": subprotocol})

    async def receive(self):
        event = await self._receive()
        self.seen.append(event["type"])
        return event

    async def send(self, event):
        if event["type"] == SendEvent.SEND:
            event = {**event, "text": event["text"].upper()}
        await self._send(event)

    async def send_message(self, message):
        await self.send({"type": SendEvent.SEND, "text": message})

    async def close(self, code=1000, reason=""):
        await self._send({"type": SendEvent.CLOSE, "code": code, "reason": reason})


@override_settings(WEBSOCKET_REDIS_URL="")
class SubclassTests(TestCase):
    async def test_it_serves_the_client_and_no_error_is_logged(self):
        class Greeter(WebSocket):
            async def greet(self):
                await self.send_text("hello")

        async def view(socket):
            greeter = Greeter(socket.scope, socket._receive, socket._send)
            await greeter.accept()
            await greeter.greet()
            async for message in greeter:
                await greeter.send_message(message)

        with (
            self.assertNoLogs("django.request"),
            self.assertLogs("django.websocket", "INFO") as caught,
        ):
            async with connect_to(view) as client:
                self.assertEqual(await client.receive_text(), "hello")
                await client.send_text("a")
                self.assertEqual(await client.receive_text(), "a")
                await client.close(4000)
        self.assertRegex(caught.output[-1], "4000 .* 1 in, 2 out$")

    async def test_when_its_view_returns_the_connection_is_closed(self):
        async def view(socket):
            await Upper(socket.scope, socket._receive, socket._send).accept()

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                self.assertEqual(await client.wait_closed(), 1000)

    async def test_its_methods_may_replace_those_of_the_socket(self):
        sockets = []

        async def view(socket):
            upper = Upper(socket.scope, socket._receive, socket._send)
            sockets.append(upper)
            await upper.accept()
            async for message in upper:
                await upper.send_message(message)
                if message == "close":
                    await upper.close(4000, "done")

        with self.assertNoLogs("django.request"):
            async with connect_to(view) as client:
                await client.send_text("a")
                self.assertEqual(await client.receive_text(), "A")
                await client.send_text("close")
                self.assertEqual(await client.receive_text(), "CLOSE")
                self.assertEqual(await client.wait_closed(), 4000)
        self.assertEqual(sockets[0].seen, [ReceiveEvent.RECEIVE] * 2)

    async def test_it_is_the_same_connection(self):
        async def view(socket):
            upper = Upper(socket.scope, socket._receive, socket._send)
            again = Upper(upper.scope, upper._receive, upper._send)
            await again.accept()
            self.assertIs(socket.app_state, State.CONNECTED)
            self.assertEqual((upper.id, upper.user), (socket.id, socket.user))
            socket.start(again.send_message("started"))
            await again.receive_text()
            self.assertEqual(socket.messages_in, 1)
            await socket.close(4000)
            with self.assertRaises(WebSocketDisconnect):
                await upper.send_message("late")

        user = await sync_to_async(get_user_model().objects.create_user)("ada")
        async with connect_to(view, user=user) as client:
            self.assertEqual(await client.receive_text(), "STARTED")
            await client.send_text("a")
            self.assertEqual(await client.wait_closed(), 4000)

    async def test_the_public_methods_lead_to_the_same_connection_too(self):
        async def view(socket):
            upper = WebSocket(socket.scope, socket.receive, socket.send)
            await upper.accept()
            self.assertIs(socket.app_state, State.CONNECTED)
            await upper.send_text(upper.id)

        async with connect_to(view) as client:
            self.assertEqual(len(await client.receive_text()), 32)

    async def test_it_gets_what_middleware_sets_for_the_accept(self):
        def visit(view):
            @functools.wraps(view)
            def wrapper(socket):
                socket.session["visits"] = 1
                return view(Upper(socket.scope, socket._receive, socket._send))

            return wrapper

        @visit
        async def view(socket):
            await socket.accept()

        async with connect_to(view) as client:
            self.assertIn("sessionid=", client.headers["set-cookie"])

    async def test_it_leaves_its_groups_with_the_connection(self):
        async def view(socket):
            upper = Upper(socket.scope, socket._receive, socket._send)
            await upper.accept()
            await upper.join("room")
            await apublish("room", "hello")
            await upper.receive()

        with serving(view), self.assertNoLogs("django.request"):
            server = Server(CONNECT, text("a"))
            await server.serve()
        self.assertEqual(server.sent[1]["text"], "hello")
        self.assertNotIn("room", get_hub().members)

    async def test_its_view_may_still_refuse(self):
        async def view(socket):
            await Upper(socket.scope, socket._receive, socket._send).close()

        with serving(view), self.assertNoLogs("django.request"):
            server = Server(CONNECT, left())
            await server.serve()
        self.assertEqual([event["type"] for event in server.sent], [SendEvent.CLOSE])
