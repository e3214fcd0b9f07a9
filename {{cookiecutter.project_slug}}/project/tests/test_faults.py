"""What goes wrong in production, on a real uvicorn and a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import TransactionTestCase, override_settings
from django.urls import reverse
from django.utils.module_loading import import_string
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from users.views import WALL
from websocket import conf
from websocket.groups import PublishError, apublish
from websocket.tests.redis_server import OnRedis, impatient
from websocket.tests.uvicorn_server import uvicorn_serves


@override_settings(ALLOWED_HOSTS=["127.0.0.1"])
class FaultTests(OnRedis, TransactionTestCase):
    @asynccontextmanager
    async def site(self) -> AsyncIterator[str]:
        """Serve the project for a block, and yield its address."""
        application = import_string(settings.ASGI_APPLICATION)
        async with uvicorn_serves(application, lifespan="on") as (_, port):
            yield f"127.0.0.1:{port}"

    @impatient
    async def test_pages_connect_again_after_redis_was_killed_under_load(self) -> None:
        async with self.site() as site, AsyncExitStack() as stack:
            pages = [await stack.enter_async_context(wall(site)) for _ in range(20)]
            async with publishing() as has_failed:
                await asyncio.gather(*(until(page, "under load") for page in pages))
                self.redis.kill()
                await has_failed.wait()
                self.redis.start()
                # They may have missed something, and are told to connect again.
                codes = await asyncio.gather(*map(close_code, pages))
            self.assertEqual(set(codes), {1012})
            pages = [await stack.enter_async_context(wall(site)) for _ in range(20)]
            await apublish(WALL, "again")
            await asyncio.gather(*(until(page, "again") for page in pages))

    @override_settings(WEBSOCKET_OUTBOX_SIZE=200_000)
    async def test_a_client_that_does_not_read_is_dropped_and_delays_nobody(self) -> None:
        async with self.site() as site, wall(site) as reader, wall(site, max_queue=4) as sluggard:
            for number in range(200):  # More than the system keeps for a client.
                await apublish(WALL, f"number {number} {'x' * 100_000}")
                await until(reader, f"number {number} ")
            with self.assertRaises(ConnectionClosed):
                await until(sluggard, f"number {number} ")

    async def test_a_page_of_another_site_is_refused(self) -> None:
        async with self.site() as site:
            echo, own = f"ws://{site}{reverse('echo')}", f"http://{site}"
            for origin in ("https://evil.example", "null", f"{own}.evil.example"):
                with self.assertRaises(InvalidStatus) as refused:
                    async with connect(echo, origin=Origin(origin)):
                        pass
                self.assertEqual(refused.exception.response.status_code, 403)
            async with connect(echo, origin=Origin(own)) as client:
                await client.send("hello")
                await until(client, "hello")

    async def test_a_logout_closes_the_users_sockets_and_no_others(self) -> None:
        user = await sync_to_async(get_user_model().objects.create_user)("ada")
        await sync_to_async(self.client.force_login)(user)
        session = self.client.cookies[settings.SESSION_COOKIE_NAME].value
        cookie = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={session}"}
        async with (
            self.site() as site,
            wall(site) as stranger,
            wall(site, additional_headers=cookie) as ada,
        ):
            await sync_to_async(self.client.post)(reverse("logout"), HTTP_HOST="127.0.0.1")
            self.assertEqual(await close_code(ada), 1012)
            await apublish(WALL, "still here")
            await until(stranger, "still here")

    async def test_fragments_are_one_message_and_no_way_around_its_limit(self) -> None:
        async with self.site() as site, connect(f"ws://{site}{reverse('echo')}") as client:
            await client.send(["frag", "", "ments"])
            self.assertEqual(await client.recv(), "fragments")
            piece = "x" * (conf.MAX_MESSAGE_SIZE // 10)
            with suppress(ConnectionClosed):
                await client.send(piece for _ in range(11))
            self.assertEqual(await close_code(client), 1009)


@asynccontextmanager
async def wall(
    site: str, max_queue: int | None = None, **options: Any
) -> AsyncIterator[ClientConnection]:
    """Connect a member of the wall's group; it reads on until `max_queue` messages are unread."""
    url = f"ws://{site}{reverse('wall')}"
    async with connect(url, compression=None, max_queue=max_queue, **options) as client:
        await until(client, '"here"')
        yield client


async def until(client: ClientConnection, text: str) -> None:
    """Receive until a message has the text in it."""
    while text not in str(await client.recv()):
        pass


async def close_code(client: ClientConnection) -> int | None:
    """Return the code with which the server closes the connection, whatever comes before."""
    with suppress(ConnectionClosed):
        while True:
            await client.recv()
    return client.close_code


@asynccontextmanager
async def publishing() -> AsyncIterator[asyncio.Event]:
    """Publish to the wall during a block; yield an event that is set when that has failed."""
    has_failed, may_stop = asyncio.Event(), asyncio.Event()

    async def go_on() -> None:
        while not may_stop.is_set():
            try:
                await apublish(WALL, "under load")
            except PublishError:
                has_failed.set()
            await asyncio.sleep(0.001)

    task = asyncio.create_task(go_on())
    try:
        yield has_failed
    finally:
        may_stop.set()
        await task
