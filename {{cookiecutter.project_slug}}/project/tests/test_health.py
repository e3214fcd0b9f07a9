"""What load balancers and monitors see."""

import asyncio
import logging
import threading
from contextlib import AbstractContextManager
from unittest import mock

import django
from asgiref.sync import sync_to_async
from django.core import mail
from django.db import connections
from django.test import TestCase, override_settings
from django.utils.log import AdminEmailHandler

from project import health
from websocket import drain, threads
from websocket.testing import HandshakeRefused, connect

#: As settings have them, since Django 6.0 and before.
ADMINS = ["a@example.com"] if django.VERSION >= (6,) else [("A", "a@example.com")]


def no_database() -> AbstractContextManager[object]:
    wrapper = type(connections["default"])
    return mock.patch.object(wrapper, "create_cursor", side_effect=OSError("gone"))


class HealthTests(TestCase):
    def setUp(self) -> None:
        for service in (health.database, health.redis):
            service.has_answered = service.is_away = False

    def test_a_process_that_serves_is_alive(self) -> None:
        response = self.client.get("/health/live")
        assert (response.status_code, response.content) == (200, b"ok")

    async def test_it_answers_async_handlers_too(self) -> None:
        response = await self.async_client.get("/health/live")
        assert response.status_code == 200

    @override_settings(ALLOWED_HOSTS=["example.com"], SECURE_SSL_REDIRECT=True)
    def test_a_load_balancer_asks_without_tls_and_by_any_host(self) -> None:
        for path in ("/health/live", "/health/ready"):
            assert self.client.get(path, HTTP_HOST="10.0.0.7").status_code == 200
        assert self.client.get("/", HTTP_HOST="example.com").status_code == 301

    def test_a_process_is_ready_when_the_database_answers(self) -> None:
        response = self.client.get("/health/ready")
        assert response.status_code == 200
        assert response.json()["database"] is True
        assert response.json()["stuck_threads"] == 0

    def test_a_process_that_the_database_never_answered_is_not_ready(self) -> None:
        with no_database(), self.assertLogs("project.health", "ERROR") as log:
            response = self.client.get("/health/ready")
        assert response.status_code == 503
        assert response.json()["database"] is False
        assert "The database is away: gone" in log.output[0]

    def test_a_database_that_goes_away_is_reported_and_takes_nobody_out(self) -> None:
        assert self.client.get("/health/ready").status_code == 200
        with no_database(), self.assertLogs("project.health", "ERROR") as log:
            for _ in range(3):
                response = self.client.get("/health/ready")
                assert response.status_code == 200
                assert response.json()["database"] is False
        assert len(log.output) == 1
        with self.assertLogs("project.health", "WARNING") as log:
            assert self.client.get("/health/ready").json()["database"] is True
        assert "The database is back" in log.output[0]

    @override_settings(ADMINS=ADMINS)
    def test_a_process_that_is_not_ready_sends_no_mail(self) -> None:
        with (
            no_database(),
            mock.patch.dict(logging.getLogger("django").__dict__, handlers=[AdminEmailHandler()]),
            self.assertNoLogs("django.request", "INFO"),
        ):
            assert self.client.get("/health/ready").status_code == 503
        assert mail.outbox == []

    async def test_a_database_that_hangs_holds_up_nothing_beyond_the_timeout(self) -> None:
        with (
            mock.patch.object(health, "TIMEOUT", 0),
            self.assertLogs("project.health", "ERROR") as log,
        ):
            response = await self.async_client.get("/health/ready")
        assert response.json()["database"] is False
        assert "TimeoutError" in log.output[0]

    async def test_a_few_threads_that_hang_are_all_that_it_holds_up(self) -> None:
        may_answer = threading.Event()
        self.addCleanup(may_answer.set)
        service = health.Service("The service", lambda: may_answer.wait(10))
        with mock.patch.object(health, "TIMEOUT", 0.01), self.assertLogs("project.health"):
            for _ in range(10):
                assert not await service.answers()
        assert len(service.asking) == health.ASKING
        may_answer.set()
        while service.asking:
            await asyncio.sleep(0)
        assert await service.answers()

    @override_settings(WEBSOCKET_REDIS_URL="redis://127.0.0.1:1")
    def test_without_the_redis_of_the_settings_it_is_ready_and_says_so(self) -> None:
        try:
            import redis  # noqa: F401
        except ImportError:
            self.skipTest("The package redis is not installed.")
        with self.assertLogs("project.health", "ERROR") as log:
            for _ in range(3):
                response = self.client.get("/health/ready")
        assert len(log.output) == 1
        assert response.status_code == 200
        assert response.json() == {
            "database": True,
            "redis": False,
            "stopping": False,
            "stuck_threads": 0,
        }

    def test_a_process_that_closes_its_sockets_in_order_to_stop_is_not_ready(self) -> None:
        with mock.patch.object(drain, "_task", object()):
            response = self.client.get("/health/ready")
        assert (response.status_code, response.json()["stopping"]) == (503, True)
        assert self.client.get("/health/ready").status_code == 200

    @override_settings(WEBSOCKET_THREADS=1)
    def test_a_process_whose_sockets_have_no_thread_left_is_not_ready(self) -> None:
        assert self.client.get("/health/ready").status_code == 200
        may_go_on = threading.Event()
        self.addCleanup(may_go_on.set)
        [thread] = threads.get_threads().sockets.values()
        started = threading.Event()

        def hang() -> None:
            started.set()
            may_go_on.wait(10)

        job = thread.submit(hang)
        started.wait()
        with (
            mock.patch.object(threads, "STUCK_AFTER", 0),
            self.assertLogs("django.websocket", "WARNING") as log,
        ):
            for _ in range(3):
                response = self.client.get("/health/ready")
                assert response.status_code == 503
                assert response.json()["stuck_threads"] == 1
        assert len(log.output) == 1
        assert "may_go_on.wait(10)" in log.output[0]
        may_go_on.set()
        job.result()
        assert self.client.get("/health/ready").status_code == 200


@override_settings(METRICS=True)
class MetricsTests(TestCase):
    def metrics(self) -> dict[str, float]:
        response = self.client.get("/health/metrics")
        assert response["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = response.content.decode().splitlines()
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        }

    @override_settings(METRICS=False)
    def test_nobody_sees_them_unless_the_settings_say_so(self) -> None:
        assert self.client.get("/health/metrics").status_code == 404

    async def test_they_tell_what_sockets_do(self) -> None:
        metrics = sync_to_async(self.metrics)
        before = await metrics()
        async with connect("/ws/") as socket:
            await socket.send_text("hello")
            assert await socket.receive() == "hello"
            during = await metrics()
        after = await metrics()
        assert during["websocket_open"] == before["websocket_open"] + 1
        assert after["websocket_open"] == before["websocket_open"]
        for name in ("messages_in", "messages_out"):
            name = f"websocket_{name}_total"
            assert during[name] == after[name] == before[name] + 1
        accepted = 'websocket_handshakes_total{status="101"}'
        assert after[accepted] == before.get(accepted, 0) + 1

    async def test_they_tell_how_handshakes_are_refused(self) -> None:
        metrics = sync_to_async(self.metrics)
        refused = 'websocket_handshakes_total{status="404"}'
        before = await metrics()
        with self.assertRaises(HandshakeRefused):
            async with connect("/no-such-socket/"):
                pass
        assert (await metrics())[refused] == before.get(refused, 0) + 1
