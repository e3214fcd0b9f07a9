"""Event streams and the end of the server: what the application is told, and what the client gets.

The template's tests stop a real server.
"""

import asyncio
from typing import Any
from unittest import mock

from django.test import SimpleTestCase

from websocket import internals, streams, sweep
from websocket.protocol import Event, Receive, Scope, Send

START: Event = {"type": "http.response.start", "status": 200}
END: Event = {"type": "http.response.body"}


async def client_stays() -> Event:
    """Receive on behalf of a client that says nothing more."""
    await asyncio.Event().wait()
    raise AssertionError


class EventStreamTests(SimpleTestCase):
    def setUp(self) -> None:
        self.heard: Event = {}
        self.sent: list[Event] = []

    async def serve(self, media_type: str, stopping: asyncio.Event, app: Any = None) -> list[Event]:
        """Return what a client gets from an application that waits until its client has left."""

        async def wait(scope: Scope, receive: Receive, send: Send) -> None:
            await send({**START, "headers": [(b"Content-Type", media_type.encode())]})
            stopping.set()
            self.heard = await receive()

        async def send(event: Event) -> None:
            self.sent.append(event)

        with mock.patch.object(internals, "is_stopping", stopping.is_set):
            async with asyncio.timeout(30):
                await streams.serve(app or wait, {}, client_stays, send)
        return self.sent

    async def test_a_stream_is_told_that_its_client_has_left_and_is_completed(self) -> None:
        sent = await self.serve("text/event-stream; charset=utf-8", asyncio.Event())
        self.assertEqual(self.heard, {"type": "http.disconnect"})
        self.assertEqual(sent[-1], END)
        self.assertNotIn(streams.Response, map(type, sweep.everything()))

    async def test_a_stream_that_begins_to_listen_late_is_told_as_well(self) -> None:
        async def listen_late(scope: Scope, receive: Receive, send: Send) -> None:
            await send({**START, "headers": [(b"content-type", b"text/event-stream")]})
            (stream,) = (item for item in sweep.everything() if type(item) is streams.Response)
            stream.look()
            self.heard = await receive()
            await send(END)

        stopping = asyncio.Event()
        stopping.set()
        sent = await self.serve("", stopping, listen_late)
        self.assertEqual(self.heard, {"type": "http.disconnect"})
        # It was complete, and nothing was added.
        self.assertEqual(sent[1:], [END])

    async def test_any_other_response_may_take_its_time(self) -> None:
        stopping = asyncio.Event()
        serving = asyncio.create_task(self.serve("text/csv", stopping))
        await stopping.wait()
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(serving), 2 * sweep.INTERVAL)
        serving.cancel()
        await asyncio.wait([serving])
        self.assertTrue(serving.cancelled())

    async def test_a_task_that_others_cancel_too_is_cancelled(self) -> None:
        async def cancel_itself(scope: Scope, receive: Receive, send: Send) -> None:
            await send({**START, "headers": [(b"content-type", b"text/event-stream")]})
            (stream,) = (item for item in sweep.everything() if type(item) is streams.Response)
            reader = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            stream.look()
            reader.cancel()
            await asyncio.wait([reader])
            self.assertTrue(reader.cancelled())

        stopping = asyncio.Event()
        stopping.set()
        await self.serve("", stopping, cancel_itself)
