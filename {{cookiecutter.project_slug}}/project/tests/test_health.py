"""What load balancers and monitors see."""

from unittest import mock

from asgiref.sync import sync_to_async
from django.db import connections
from django.test import TestCase, override_settings

from project import health
from websocket.testing import HandshakeRefused, connect


class HealthTests(TestCase):
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

    def test_without_the_database_it_is_not_ready_and_the_log_says_why(self) -> None:
        wrapper = type(connections["default"])
        with (
            mock.patch.object(wrapper, "create_cursor", side_effect=OSError("gone")),
            self.assertLogs("project.health", "ERROR") as log,
        ):
            response = self.client.get("/health/ready")
        assert response.status_code == 503
        assert response.json()["database"] is False
        assert "ask_database failed: gone" in log.output[0]

    async def test_a_database_that_hangs_holds_up_nothing_beyond_the_timeout(self) -> None:
        with (
            mock.patch.object(health, "TIMEOUT", 0),
            self.assertLogs("project.health", "ERROR") as log,
        ):
            response = await self.async_client.get("/health/ready")
        assert response.status_code == 503
        assert "TimeoutError" in log.output[0]

    @override_settings(WEBSOCKET_REDIS_URL="redis://127.0.0.1:1")
    def test_without_the_redis_of_the_settings_it_is_not_ready(self) -> None:
        try:
            import redis  # noqa: F401
        except ImportError:
            self.skipTest("The package redis is not installed.")
        with self.assertLogs("project.health", "ERROR"):
            response = self.client.get("/health/ready")
        assert response.status_code == 503
        assert response.json() == {"database": True, "redis": False}


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
