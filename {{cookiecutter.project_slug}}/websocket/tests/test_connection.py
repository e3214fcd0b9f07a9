import asyncio
import datetime
import decimal
import uuid
from typing import Any

from django.test import SimpleTestCase, override_settings
from django.utils.translation import gettext_lazy

from websocket.connection import InvalidMessage, State, WebSocket, WebSocketDisconnect
from websocket.protocol import Event
from websocket.tests.wire import (
    CONNECT,
    GoneServer,
    Server,
    ServerWithTransport,
    binary,
    left,
    make_scope,
    open_socket,
    text,
)


def make_socket(server: Server, **scope: object) -> WebSocket:
    return WebSocket(make_scope(**scope), server.receive, server.send)


class ScopeTests(SimpleTestCase):
    def test_a_socket_tells_what_its_client_asked_for(self):
        socket = make_socket(
            Server(),
            scheme="wss",
            path="/ws/café/",
            query_string=b"room=lobby&x=%C3%A9",
            subprotocols=["v2", "v1"],
        )
        self.assertEqual(socket.scheme, "wss")
        self.assertEqual(socket.path, "/ws/café/")
        self.assertEqual(socket.query_string, "room=lobby&x=%C3%A9")
        self.assertEqual(socket.query_params.get("room"), "lobby")
        self.assertEqual(socket.query_params["x"], "é")
        self.assertEqual(socket.subprotocols, ["v2", "v1"])
        self.assertEqual(socket.headers["Host"], "testserver")
        self.assertEqual(socket.scope["path"], "/ws/café/")

    def test_what_a_server_leaves_out_has_a_default(self):
        socket = make_socket(Server(), headers=[])
        self.assertEqual(socket.scheme, "ws")
        self.assertEqual(socket.query_string, "")
        self.assertIsNone(socket.query_params.get("room"))
        self.assertEqual(socket.subprotocols, [])

    def test_every_socket_has_an_id_of_its_own(self):
        one, other = make_socket(Server()), make_socket(Server())
        self.assertEqual(one.id, one.id)
        self.assertNotEqual(one.id, other.id)

    def test_a_subclass_may_have_its_own_init(self):
        class Player(WebSocket):
            def __init__(self, scope, receive, send):
                super().__init__(scope, receive, send)
                self.name = self.query_params.get("name", "anonymous")

        server = Server()
        player = Player(make_scope(query_string=b"name=ada"), server.receive, server.send)
        self.assertEqual(player.name, "ada")
        self.assertEqual(repr(player), "<WebSocket /ws/ CONNECTING>")
        self.assertEqual(
            repr(make_socket(Server(), path="/a\nb/")), "<WebSocket /a%0Ab/ CONNECTING>"
        )

    def test_a_socket_without_a_handshake_has_no_request(self):
        with self.assertRaisesMessage(AttributeError, "has no attribute 'request'"):
            _ = make_socket(Server()).request
        with self.assertRaisesMessage(AttributeError, "has no attribute 'request'"):
            _ = make_socket(Server()).user


class AcceptTests(SimpleTestCase):
    async def test_accepting_takes_the_connect_and_sends_an_accept(self):
        server = Server(CONNECT)
        socket = make_socket(server)
        self.assertEqual((socket.client_state, socket.app_state), (State.CONNECTING,) * 2)
        await socket.accept()
        self.assertEqual((socket.client_state, socket.app_state), (State.CONNECTED,) * 2)
        self.assertEqual(
            server.sent, [{"type": "websocket.accept", "subprotocol": None, "headers": []}]
        )

    async def test_a_connect_that_the_view_received_is_not_waited_for_again(self):
        socket = make_socket(Server(CONNECT))
        self.assertEqual(await socket.receive(), CONNECT)
        self.assertEqual(socket.client_state, State.CONNECTED)
        await socket.accept()
        self.assertEqual(socket.app_state, State.CONNECTED)

    async def test_accepting_names_a_subprotocol_and_headers(self):
        server = Server(CONNECT)
        await make_socket(server).accept("v2", headers=[("X-Node", "a"), (b"X-Zone", b"\xe9")])
        [accept] = server.sent
        self.assertEqual(accept["subprotocol"], "v2")
        self.assertEqual(accept["headers"], [(b"x-node", b"a"), (b"x-zone", b"\xe9")])

    async def test_headers_may_be_a_dictionary(self):
        server = Server(CONNECT)
        await make_socket(server).accept(headers={"X-Node": "a"})
        self.assertEqual(server.sent[0]["headers"], [(b"x-node", b"a")])

    async def test_a_subprotocol_that_was_not_offered_is_a_mistake_that_is_named(self):
        with self.assertLogs("django.websocket", "WARNING") as logs:
            await make_socket(Server(CONNECT)).accept("chat")
        self.assertIn("accepts the subprotocol 'chat', which its client does not", logs.output[0])

    async def test_a_header_must_not_smuggle_another(self):
        server = Server(CONNECT)
        socket = make_socket(server)
        for header in [("X-Name", "a\r\nSet-Cookie: b=c"), ("X-Na\nme", "a"), ("X-Name", "a\0")]:
            with self.assertRaisesMessage(ValueError, "must not contain control characters"):
                await socket.accept(headers=[header])
        for subprotocol in ("a\r\nSet-Cookie: b=c", "a\0"):
            with self.assertRaisesMessage(ValueError, "must not contain control characters"):
                await socket.accept(subprotocol)
        self.assertEqual(server.sent, [])
        await socket.accept()

    async def test_accepting_twice_is_a_mistake_that_is_named(self):
        socket, _ = await open_socket()
        with self.assertRaisesMessage(
            RuntimeError, "Cannot send 'websocket.accept' while the connection is CONNECTED"
        ):
            await socket.accept()

    async def test_sending_before_the_accept_is_a_mistake_that_is_named(self):
        server = Server(CONNECT)
        with self.assertRaisesMessage(
            RuntimeError,
            "Cannot send 'websocket.send' while the connection is CONNECTING: "
            "call `await socket.accept()` first.",
        ):
            await make_socket(server).send_text("early")
        self.assertEqual(server.sent, [])

    async def test_receiving_before_the_accept_is_a_mistake_that_is_named(self):
        for receive in ("receive_text", "receive_bytes", "receive_json", "__anext__"):
            with self.subTest(receive):
                socket = make_socket(Server(CONNECT))
                for _ in "first", "again":
                    with self.assertRaisesMessage(
                        RuntimeError,
                        "Cannot receive a message while the connection is CONNECTING: "
                        "call `await socket.accept()` first.",
                    ):
                        await getattr(socket, receive)()

    async def test_a_client_may_leave_before_the_accept(self):
        socket = make_socket(Server(left(1006)))
        with self.assertRaises(WebSocketDisconnect) as caught:
            await socket.accept()
        self.assertEqual(caught.exception.code, 1006)

    async def test_a_client_may_leave_during_the_accept(self):
        socket = make_socket(GoneServer(CONNECT))
        with self.assertRaises(WebSocketDisconnect):
            await socket.accept()
        self.assertEqual(socket.app_state, State.DISCONNECTED)

    async def test_the_accept_is_logged_even_without_a_handshake(self):
        with self.assertLogs("django.websocket", "INFO") as logs:
            await open_socket()
        self.assertIn("WebSocket /ws/ - - open", logs.output[0])


class ReceiveTests(SimpleTestCase):
    async def test_messages_are_received_as_what_they_are(self):
        socket, _ = await open_socket(text("é"), binary(b"\0"), text('{"a": 1}'), binary(b"[1]"))
        self.assertEqual(await socket.receive_text(), "é")
        self.assertEqual(await socket.receive_bytes(), b"\0")
        self.assertEqual(await socket.receive_json(), {"a": 1})
        self.assertEqual(await socket.receive_jsonb(), [1])

    async def test_a_message_may_be_empty(self):
        socket, _ = await open_socket(text(""), binary(b""), text(""), binary(b""))
        self.assertEqual(await socket.receive_text(), "")
        self.assertEqual(await socket.receive_bytes(), b"")
        self.assertEqual(await anext(socket), "")
        self.assertEqual(await anext(socket), b"")

    async def test_an_event_may_have_both_keys_and_one_none(self):
        events: list[Event] = [
            {"type": "websocket.receive", "text": "a", "bytes": None},
            {"type": "websocket.receive", "text": None, "bytes": b"b"},
        ]
        socket, _ = await open_socket(*events, *events, *events[::-1])
        self.assertEqual(await socket.receive_text(), "a")
        self.assertEqual(await socket.receive_bytes(), b"b")
        self.assertEqual([await anext(socket), await anext(socket)], ["a", b"b"])
        with self.assertRaises(InvalidMessage):
            await socket.receive_text()
        with self.assertRaises(InvalidMessage):
            await socket.receive_bytes()

    async def test_a_message_of_the_wrong_kind_is_invalid(self):
        socket, _ = await open_socket(binary(b"a"), text("b"), binary(b"{}"), text("{}"), text("c"))
        for receive, message in [
            (socket.receive_text, "Expected a text message, and got a binary one."),
            (socket.receive_bytes, "Expected a binary message, and got a text one."),
            (socket.receive_json, "Expected a text message, and got a binary one."),
            (socket.receive_jsonb, "Expected a binary message, and got a text one."),
        ]:
            with self.assertRaisesMessage(InvalidMessage, message) as caught:
                await receive()
            self.assertEqual(caught.exception.code, 1003)
        self.assertEqual(await socket.receive_text(), "c")  # A view may go on.

    async def test_a_message_that_does_not_parse_is_invalid(self):
        malformed = ["", "{", "{'a': 1}", "[" * 100_000, "1" * 5_000, "\ufeff1"]
        malformed += ["NaN", "[-Infinity]", "1e999"]  # As other clients' parsers find.
        socket, _ = await open_socket(*map(text, malformed), text("1"))
        for data in malformed:
            with (
                self.subTest(data[:20]),
                self.assertRaisesMessage(InvalidMessage, "Expected JSON") as caught,
            ):
                await socket.receive_json()
            self.assertEqual(caught.exception.code, 1007)
        self.assertEqual(await socket.receive_json(), 1)

    async def test_binary_json_has_to_be_unicode(self):
        socket, _ = await open_socket(binary(b'"\xff"'))
        with self.assertRaises(InvalidMessage) as caught:
            await socket.receive_jsonb()
        self.assertEqual(caught.exception.code, 1007)

    async def test_a_message_without_data_is_invalid(self):
        empty = {"type": "websocket.receive", "text": None, "bytes": None}
        socket, _ = await open_socket(empty, empty, empty)
        for receive in (socket.receive_text, socket.receive_bytes, socket.__anext__):
            with self.assertRaises(InvalidMessage):
                await receive()

    async def test_an_event_out_of_order_is_invalid(self):
        socket, _ = await open_socket(CONNECT)
        with self.assertRaises(InvalidMessage) as caught:
            await socket.receive()
        self.assertEqual(caught.exception.code, 1002)

    async def test_iterating_gives_messages_until_the_client_leaves(self):
        socket, _ = await open_socket(text("a"), binary(b"b"), left())
        self.assertEqual([message async for message in socket], ["a", b"b"])
        self.assertEqual([message async for message in socket], [])

    async def test_iterating_over_one_kind_of_message(self):
        socket, _ = await open_socket(text("a"), left())
        self.assertEqual([data async for data in socket.iter_text()], ["a"])
        socket, _ = await open_socket(binary(b"a"), left())
        self.assertEqual([data async for data in socket.iter_bytes()], [b"a"])
        socket, _ = await open_socket(text("[1]"), text("2"), left())
        self.assertEqual([data async for data in socket.iter_json()], [[1], 2])

    async def test_iterating_over_one_kind_of_message_refuses_the_other(self):
        socket, _ = await open_socket(text("a"), binary(b"b"))
        messages = socket.iter_text()
        self.assertEqual(await anext(messages), "a")
        with self.assertRaises(InvalidMessage):
            await anext(messages)

    async def test_a_client_that_left_is_told_by_one_exception(self):
        for receive in ("receive_text", "receive_bytes", "receive_json", "receive_jsonb"):
            with self.subTest(receive):
                socket, _ = await open_socket(left(1001, "going away"))
                for _ in "first", "again":
                    with self.assertRaises(WebSocketDisconnect) as caught:
                        await getattr(socket, receive)()
                    self.assertEqual(caught.exception.code, 1001)
                    self.assertEqual(caught.exception.reason, "going away")
                self.assertEqual((socket.client_state, socket.app_state), (State.DISCONNECTED,) * 2)
                self.assertEqual((socket.close_code, socket.close_reason), (1001, "going away"))

    async def test_a_disconnect_without_a_code_is_1005(self):
        socket, _ = await open_socket({"type": "websocket.disconnect"})
        with self.assertRaises(WebSocketDisconnect) as caught:
            await socket.receive_text()
        self.assertEqual((caught.exception.code, caught.exception.reason), (1005, ""))

    async def test_the_disconnect_is_an_event_too(self):
        socket, _ = await open_socket(left(4000))
        self.assertEqual(await socket.receive(), left(4000))
        with self.assertRaises(WebSocketDisconnect):
            await socket.receive()

    async def test_nothing_is_received_after_a_close(self):
        socket, _ = await open_socket(text("late"))
        await socket.close(4000, "enough")
        with self.assertRaises(WebSocketDisconnect) as caught:
            await socket.receive_text()
        self.assertEqual((caught.exception.code, caught.exception.reason), (4000, "enough"))
        self.assertEqual([message async for message in socket], [])

    async def test_only_one_task_may_receive(self):
        socket, server = await open_socket()
        first = asyncio.create_task(socket.receive_text())
        await asyncio.sleep(0)
        with self.assertRaisesMessage(RuntimeError, "Another task is receiving"):
            await socket.receive_text()
        server.events.put_nowait(text("for the first"))
        self.assertEqual(await first, "for the first")

    async def test_one_task_receives_while_another_sends(self):
        socket, server = await open_socket()
        received = []

        async def receiver():
            while True:
                received.append(await socket.receive_text())

        async def sender():
            for number in range(3):
                await socket.send_text(str(number))
                server.events.put_nowait(text(f"reply to {number}"))
                await asyncio.sleep(0)
            server.events.put_nowait(left())

        with self.assertRaises(WebSocketDisconnect):
            await asyncio.gather(receiver(), sender())
        self.assertEqual([event["text"] for event in server.sent], ["0", "1", "2"])
        self.assertEqual(received, [f"reply to {number}" for number in range(3)])

    @override_settings(WEBSOCKET_MAX_MESSAGE_SIZE=4)
    async def test_a_message_may_have_so_many_bytes(self):
        socket, server = await open_socket(text("abcd"), binary(b"abcd"), text("éé"), text("ééé"))
        self.assertEqual([await anext(socket) for _ in range(3)], ["abcd", b"abcd", "éé"])
        with self.assertRaises(WebSocketDisconnect) as caught:
            await socket.receive_text()
        self.assertEqual(caught.exception.code, 1009)
        await socket.close()
        [close] = server.sent
        self.assertEqual(close["code"], 1009)
        self.assertEqual(close["reason"], "A message may have 4 bytes; this one has 6.")


class SendTests(SimpleTestCase):
    async def test_messages_are_sent_as_what_they_are(self):
        socket, server = await open_socket()
        await socket.send_text("a")
        await socket.send_bytes(b"b")
        await socket.send_bytes("é")
        await socket.send_message("c")
        await socket.send_message(b"d")
        await socket.send({"type": "websocket.send", "text": "e"})
        self.assertEqual(
            [event.get("text", event.get("bytes")) for event in server.sent],
            ["a", b"b", b"\xc3\xa9", "c", b"d", "e"],
        )
        self.assertEqual({event["type"] for event in server.sent}, {"websocket.send"})

    async def test_json_is_sent_in_either_kind_of_message(self):
        socket, server = await open_socket()
        await socket.send_json({"a": [1, None]})
        await socket.send_jsonb({"a": "é"})
        await socket.send_json({"b": 1, "a": "é"}, sort_keys=True, ensure_ascii=False)
        self.assertEqual(server.sent[0]["text"], '{"a":[1,null]}')
        self.assertEqual(server.sent[1]["bytes"], rb'{"a":"\u00e9"}')
        self.assertEqual(server.sent[2]["text"], '{"a": "é", "b": 1}')

    async def test_json_holds_what_django_json_does(self):
        socket, server = await open_socket()
        data = [
            datetime.date(2024, 2, 29),
            decimal.Decimal("1.10"),
            uuid.UUID(int=1),
            gettext_lazy("lazy"),
        ]
        expected = '["2024-02-29","1.10","00000000-0000-0000-0000-000000000001","lazy"]'
        await socket.send_json(data)
        await socket.send_json(data, separators=(",", ":"))
        self.assertEqual([event["text"] for event in server.sent], [expected, expected])
        with self.assertRaises(TypeError):
            await socket.send_json(object())

    async def test_sending_to_a_client_that_left_tells_so(self):
        socket, _ = await open_socket(left(1001))
        self.assertEqual([message async for message in socket], [])
        with self.assertRaises(WebSocketDisconnect) as caught:
            await socket.send_text("too late")
        self.assertEqual(caught.exception.code, 1001)

    async def test_a_server_that_cannot_send_tells_that_the_client_left(self):
        for error in (ConnectionResetError(), RuntimeError("after 'websocket.close'")):
            with self.subTest(repr(error)):
                socket, _ = await open_socket(text("the last words"), left(1001))

                async def fail(event, error=error):
                    raise error

                socket._connection.server_send = fail
                with self.assertRaises(WebSocketDisconnect) as caught:
                    await socket.send_text("too late")
                self.assertIs(caught.exception.__cause__, error)
                self.assertEqual(socket.app_state, State.DISCONNECTED)
                # What the client sent before it left is still there, and then its close code.
                self.assertEqual(await socket.receive_text(), "the last words")
                with self.assertRaises(WebSocketDisconnect) as caught:
                    await socket.receive_text()
                self.assertEqual(caught.exception.code, 1001)

    async def test_a_message_of_the_wrong_type_is_a_mistake_that_is_named(self):
        socket, server = await open_socket()
        for method, value, sentence in [
            ("send", "hello", "not 'hello': to send a message, use send_text(), send_bytes() or"),
            ("send", {"text": "hello"}, "an ASGI event with a type, not {'text': 'hello'}: to"),
            ("send", None, "an ASGI event with a type, not None: to send a message"),
            ("send_text", {}, "send_text() takes a str, not a dict: use send_json()."),
            ("send_text", b"", "send_text() takes a str, not a bytes: use send_bytes()."),
            ("send_bytes", [1], "A message is a str or bytes, not a list: to send JSON, use"),
            ("send_message", None, "A message is a str or bytes, not a NoneType: to send JSON"),
        ]:
            with self.subTest(method, value=value), self.assertRaisesMessage(TypeError, sentence):
                await getattr(socket, method)(value)
        self.assertEqual(server.sent, [])

    async def test_only_the_events_of_a_websocket_are_sent(self):
        socket, server = await open_socket()
        with self.assertRaisesMessage(RuntimeError, "Cannot send 'http.response.start'"):
            await socket.send({"type": "http.response.start"})
        self.assertEqual(server.sent, [])


class BusyServer(Server):
    """A server whose `send` waits until its client has read: as uvicorn's, before it writes."""

    def __init__(self, *events: Event) -> None:
        super().__init__(*events)
        self.is_writable = asyncio.Event()
        self.is_writable.set()

    async def send(self, event: Event) -> None:
        await self.is_writable.wait()
        await super().send(event)


class CancelTests(SimpleTestCase):
    async def open_socket(self) -> tuple[WebSocket, BusyServer]:
        server = BusyServer(CONNECT)
        socket = make_socket(server)
        await socket.accept()
        server.sent.clear()
        return socket, server

    async def cancel(self, coroutine: Any) -> None:
        """Cancel a coroutine while it waits."""
        task = asyncio.ensure_future(coroutine)
        for _ in range(5):
            await asyncio.sleep(0)
        self.assertFalse(task.done())
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task

    async def test_canceling_a_receive_loses_no_message(self):
        socket, server = await self.open_socket()
        for receive in (socket.receive, socket.receive_text, socket.receive_json):
            await self.cancel(receive())
        server.events.put_nowait(text("a"))
        self.assertEqual(await socket.receive_text(), "a")

    async def test_canceling_a_send_that_waits_sends_nothing_and_others_can_be_sent(self):
        socket, server = await self.open_socket()
        server.is_writable.clear()
        for sending in (socket.send_text("a"), socket.send_json("b"), socket.send_bytes(b"c")):
            await self.cancel(sending)
        server.is_writable.set()
        await socket.send_text("d")
        self.assertEqual([event.get("text") for event in server.sent], ["d"])


class CloseTests(SimpleTestCase):
    async def test_closing_sends_a_code_and_a_reason(self):
        socket, server = await open_socket()
        await socket.close(3003, "Not for you.")
        self.assertEqual(
            server.sent, [{"type": "websocket.close", "code": 3003, "reason": "Not for you."}]
        )
        self.assertEqual(socket.app_state, State.DISCONNECTED)

    async def test_closing_by_an_event_is_closing(self):
        socket, server = await open_socket()
        await socket.send({"type": "websocket.close"})
        self.assertEqual(server.sent, [{"type": "websocket.close", "code": 1000, "reason": ""}])
        await socket.close()
        self.assertEqual(len(server.sent), 1)

    async def test_closing_twice_is_harmless(self):
        socket, server = await open_socket()
        await socket.close()
        await socket.close(1011)
        self.assertEqual([event["code"] for event in server.sent], [1000])
        self.assertEqual(socket.close_code, 1000)

    async def test_closing_after_the_client_is_harmless(self):
        socket, server = await open_socket(left(1001))
        await socket.receive()
        await socket.close()
        self.assertEqual(server.sent, [])
        self.assertEqual(socket.close_code, 1001)

    async def test_closing_when_the_client_was_faster_is_harmless(self):
        socket = make_socket(GoneServer())
        await socket.close()
        self.assertEqual(socket.app_state, State.DISCONNECTED)

    async def test_closing_before_the_accept_refuses(self):
        server = Server(CONNECT)
        await make_socket(server).close()
        self.assertEqual([event["type"] for event in server.sent], ["websocket.close"])

    async def test_sending_after_a_close_tells_that_it_is_over(self):
        socket, _ = await open_socket()
        await socket.close(1001)
        with self.assertRaises(WebSocketDisconnect) as caught:
            await socket.send_text("too late")
        self.assertEqual(caught.exception.code, 1001)
        with self.assertRaises(WebSocketDisconnect):
            await socket.accept()

    async def test_a_code_has_to_be_one_that_may_be_sent(self):
        socket, server = await open_socket()
        fresh_server = Server(CONNECT)
        fresh = make_socket(fresh_server)
        codes: list[Any] = [0, 999, 1004, 1005, 1006, 1015, 1100, 2999, 5000, "bye"]
        closes: list[Any] = [socket.close, socket._connection.close_soon, fresh.reject]
        for code in codes:
            for close in closes:
                with (
                    self.subTest(close, code=code),
                    self.assertRaisesMessage(ValueError, f"{code!r} is not a close code"),
                ):
                    await close(code)
        self.assertEqual(server.sent + fresh_server.sent, [])
        for code in (1000, 1001, 1003, 1008, 1014, 3000, 4999):
            socket, server = await open_socket()
            await socket.close(code)
            self.assertEqual(server.sent[0]["code"], code)

    async def test_a_reason_has_to_fit_its_frame(self):
        socket, server = await open_socket()
        with self.assertRaisesMessage(ValueError, "123 bytes at the most"):
            await socket.close(4000, "é" * 62)
        await socket.close(4000, "é" * 61)
        self.assertEqual(server.sent[0]["reason"], "é" * 61)

    async def test_rejecting_accepts_and_closes(self):
        server = Server(CONNECT)
        await make_socket(server).reject(3000, "Log in first.")
        accept, close = server.sent
        self.assertEqual(accept["type"], "websocket.accept")
        self.assertEqual((close["code"], close["reason"]), (3000, "Log in first."))

    async def test_a_task_that_receives_sees_the_close_of_another(self):
        socket, server = await open_socket()
        receiver = asyncio.create_task(socket.receive_text())
        await asyncio.sleep(0)
        await socket.close(4000, "enough")
        server.events.put_nowait(left(4000, "enough"))
        with self.assertRaises(WebSocketDisconnect) as caught:
            await receiver
        self.assertEqual(caught.exception.code, 4000)

    async def test_aborting_drops_the_transport_where_the_server_shows_it(self):
        server = ServerWithTransport()
        make_socket(server).abort()
        self.assertTrue(server.transport.aborted)
        make_socket(Server()).abort()  # Elsewhere it does nothing.

    async def test_a_group_is_joined_after_the_accept(self):
        with self.assertRaisesMessage(
            RuntimeError,
            "Cannot join a group while the connection is CONNECTING: call `await socket.accept()` "
            "first.",
        ):
            await make_socket(Server(CONNECT)).join("group")

    async def test_what_is_started_has_to_be_called(self):
        async def tick():
            raise AssertionError

        socket, _ = await open_socket()
        mistakes: list[tuple[Any, str]] = [(tick, "function"), (None, "NoneType")]
        for mistake, name in mistakes:
            with self.assertRaisesMessage(TypeError, f"socket.start(tick(socket)), not a {name}."):
                socket.start(mistake)

    async def test_nothing_is_started_outside_of_a_running_view(self):
        socket, _ = await open_socket()
        with self.assertRaisesMessage(RuntimeError, "start() can be called only while"):
            socket.start(socket.send_text("never"))
