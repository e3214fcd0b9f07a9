"""What `manage.py check` says about groups."""

from typing import Any
from unittest import mock

from django.core.checks import Error, Info, run_checks
from django.test import SimpleTestCase, override_settings

REDIS = "redis://localhost"


def found(*, deploy: bool = False) -> dict[str, type]:
    """Return the messages about groups, by their ids."""
    ids = ("websocket.E002", "websocket.E003", "websocket.I001")
    messages = run_checks(include_deployment_checks=deploy)
    return {message.id: type(message) for message in messages if message.id in ids}


class GroupChecksTests(SimpleTestCase):
    def test_a_deployment_is_told_that_groups_live_in_one_process(self) -> None:
        with override_settings(WEBSOCKET_REDIS_URL=""):
            self.assertEqual(found(deploy=True), {"websocket.I001": Info})
            self.assertEqual(found(), {})
        with override_settings(WEBSOCKET_REDIS_URL=REDIS), version_of_redis((6, 0)):
            self.assertEqual(found(deploy=True), {})

    def test_what_becomes_of_slow_clients_is_to_close_or_to_drop(self) -> None:
        for choice in ("close", "drop"):
            with override_settings(WEBSOCKET_SLOW_CLIENT=choice):
                self.assertEqual(found(), {})
        with override_settings(WEBSOCKET_SLOW_CLIENT="wait"):
            self.assertEqual(found(), {"websocket.E002": Error})

    def test_redis_needs_its_package(self) -> None:
        with override_settings(WEBSOCKET_REDIS_URL=REDIS), version_of_redis(None):
            self.assertEqual(found(), {"websocket.E003": Error})


def version_of_redis(version: tuple[int, ...] | None) -> Any:
    return mock.patch("websocket.checks._version", return_value=version)
