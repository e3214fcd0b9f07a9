import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from django.core.asgi import get_asgi_application
from django.core.checks import ERROR
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands
from django.test import SimpleTestCase, modify_settings, override_settings
from django.urls import include, path

from websocket import checks, conf
from websocket.middleware import websockets
from websocket.urls import websocket

APP = "websocket.apps.WebSocketConfig"

unwrapped = get_asgi_application()
wrapped = websockets(unwrapped)


def ids(messages):
    return [message.id for message in messages]


class ApplicationTests(SimpleTestCase):
    def test_the_project_is_in_order(self):
        self.assertEqual(checks.check_application(), [])
        self.assertEqual(checks.check_middleware(), [])
        self.assertEqual(checks.check_server(), [])

    def test_the_application_has_to_be_wrapped(self):
        with override_settings(ASGI_APPLICATION=f"{__name__}.wrapped"):
            self.assertEqual(checks.check_application(), [])
        with override_settings(ASGI_APPLICATION=f"{__name__}.unwrapped"):
            self.assertEqual(ids(checks.check_application()), ["websocket.W001"])
        with override_settings(ASGI_APPLICATION=None):
            self.assertEqual(ids(checks.check_application()), ["websocket.W001"])

    def test_the_application_has_to_be_there(self):
        for name in ("nowhere.application", f"{__name__}.nothing", "nothing"):
            with override_settings(ASGI_APPLICATION=name):
                self.assertEqual(ids(checks.check_application()), ["websocket.E001"])


class SettingsTests(SimpleTestCase):
    def test_each_setting_has_values_that_it_cannot_have(self):
        wrong: dict[str, list[Any]] = {
            "DISCONNECT_GRACE": [-1, "2", None, True, float("inf"), float("nan")],
            "DRAIN_SECONDS": [-1, "10", None, True, float("inf")],
            "EXPLAIN_REFUSALS": [None, 1, "false"],
            "HANDSHAKES": [0, 2.0, "4", True],
            "HANDSHAKE_QUEUE": [0, None, True],
            "HISTORY": [["room."], {"room.": 0}, {"room.": True}, {7: 100}],
            "HISTORY_TTL": [-1, None, True],
            "MAX_AGE": [-1, "1800", True],
            "MAX_MESSAGE_SIZE": [0, 1.5, "1 MB", True],
            "OUTBOX_SIZE": [0, None, True],
            "REDIS_PREFIX": [None, b"chat:"],
            "REDIS_TIMEOUT": [0, "2", True],
            "REDIS_URL": [
                *("localhost:6379", "http://localhost", "redis://:a/b@localhost", 6379),
                *("redis://one,redis://two", "redis://one two:6379", "redis+sentinel://one"),
            ],
            "SLOW_CLIENT": ["wait", True],
            "THREADS": [0, -8, 2.0, "8", True],
        }
        self.assertEqual(wrong.keys(), conf.DEFAULTS.keys())
        for name, values in wrong.items():
            for value in values:
                with (
                    self.subTest(name, value=value),
                    override_settings(**{f"WEBSOCKET_{name}": value}),
                ):
                    (error,) = checks.check_settings()
                    self.assertEqual((error.id, error.level), ("websocket.E002", ERROR))
                    self.assertTrue(error.msg.startswith(f"WEBSOCKET_{name} "), error.msg)

    @override_settings(
        WEBSOCKET_DISCONNECT_GRACE=0,
        WEBSOCKET_OUTBOX_SIZE=1,
        WEBSOCKET_REDIS_TIMEOUT=1,
        WEBSOCKET_REDIS_URL="rediss://:p%2Fw@example.com:6380/1?ssl_cert_reqs=none",
        WEBSOCKET_SLOW_CLIENT="drop",
        WEBSOCKET_THREADS=1,
    )
    def test_all_other_values_are_in_order(self):
        with mock.patch.dict(sys.modules, redis=sys):  # Here it need not be installed.
            self.assertEqual(checks.check_settings(), [])

    @override_settings(WEBSOCKET_THREADS=0, WEBSOCKET_SLOW_CLIENT="wait")
    def test_where_checks_are_not_run_the_start_fails_with_what_they_say(self):
        with self.assertRaisesMessage(
            ImproperlyConfigured,
            'WEBSOCKET_SLOW_CLIENT is \'wait\': it has to be "close" or "drop". '
            "WEBSOCKET_THREADS is 0: it has to be a whole number, 1 or more.",
        ):
            websockets(unwrapped)
        self.assertEqual(checks.check_application(), [])  # One message says it, not two.

    def test_the_app_has_to_be_installed(self):
        with (
            modify_settings(INSTALLED_APPS={"remove": ["websocket", APP]}),
            self.assertRaisesMessage(ImproperlyConfigured, 'INSTALLED_APPS lacks "websocket"'),
        ):
            websockets(unwrapped)

    @override_settings(ROOT_URLCONF="nowhere.urls")
    def test_a_urlconf_that_cannot_be_imported_fails_the_start(self):
        with self.assertRaisesMessage(ModuleNotFoundError, "No module named 'nowhere'"):
            websockets(unwrapped)

    @override_settings(WEBSOCKET_REDIS_URL="redis://localhost")
    def test_redis_needs_its_package(self):
        with mock.patch.dict(sys.modules, redis=None):
            self.assertEqual(
                [error.msg for error in checks.check_settings()],
                [
                    "WEBSOCKET_REDIS_URL (REDIS_URL in the environment) is set, but the package "
                    "redis is not installed: pip install -e '.[redis]'"
                ],
            )

    def test_a_setting_that_is_misspelled_is_one_that_has_no_effect(self):
        self.assertEqual(checks.check_names(), [])
        for wrong, right in {
            "WEBSOCKET_THREAD": "WEBSOCKET_THREADS",
            "WEBSOCKETS_MAX_AGE": "WEBSOCKET_MAX_AGE",
            "WEBSOCKET_REDIS": "WEBSOCKET_REDIS_URL",
            "WEBSOCKET_MAX_MESSAGES_SIZE": "WEBSOCKET_MAX_MESSAGE_SIZE",
        }.items():
            with self.subTest(wrong), override_settings(**{wrong: 1}):
                (warning,) = checks.check_names()
                self.assertEqual(warning.id, "websocket.W007")
                self.assertTrue(warning.msg.startswith(f"{wrong} is not a setting"), warning.msg)
                self.assertIn(f"Did you mean {right}?", str(warning.hint))

    @override_settings(WEBSOCKET_HISTORY=["room."])
    def test_the_error_about_histories_has_an_example(self):
        self.assertIn('such as {"room.": 100}', checks.check_settings()[0].msg)

    @override_settings(WEBSOCKET_REDIS_URL="http://:secret@localhost")
    def test_a_password_is_not_shown(self):
        self.assertNotIn("secret", checks.check_settings()[0].msg)

    def test_a_deployment_is_told_that_groups_live_in_one_process(self):
        with override_settings(WEBSOCKET_REDIS_URL=""):
            self.assertEqual(ids(checks.check_processes()), ["websocket.I001"])
        with override_settings(WEBSOCKET_REDIS_URL="redis://localhost"):
            self.assertEqual(checks.check_processes(), [])


class RoutesTests(SimpleTestCase):
    def test_two_sockets_at_one_url_are_one_too_many(self):
        async def first(socket):
            pass

        async def second(socket):
            pass

        inner = ([websocket("<slug:name>/", second)], "rooms")
        for urls, ids_found in (
            ((websocket("ws/", first), websocket("ws/", second)), ["websocket.W008"]),
            ((websocket("a/<slug:name>/", first), path("a/", include(inner))), ["websocket.W008"]),
            ((websocket("ws/", first), websocket("other/", first)), []),
            ((websocket("ws/", first), path("ws/", first)), []),  # A page may share it.
        ):
            with override_settings(ROOT_URLCONF=urls):
                self.assertEqual(ids(checks.check_routes()), ids_found)


class RunserverTests(SimpleTestCase):
    def setUp(self):
        forget = get_commands.cache_clear  # type: ignore[attr-defined]
        forget()
        self.addCleanup(forget)

    @override_settings(DEBUG=True, INSTALLED_APPS=["django.contrib.staticfiles", "websocket"])
    def test_djangos_own_runserver_serves_no_sockets(self):
        self.assertEqual(ids(checks.check_runserver()), ["websocket.W006"])

    @override_settings(DEBUG=False, INSTALLED_APPS=["django.contrib.staticfiles", "websocket"])
    def test_where_debug_is_off_nobody_runs_it(self):
        self.assertEqual(checks.check_runserver(), [])


class MiddlewareTests(SimpleTestCase):
    authentication = "django.contrib.auth.middleware.AuthenticationMiddleware"
    sessions = "django.contrib.sessions.middleware.SessionMiddleware"

    def test_authentication_needs_sessions_before_it(self):
        with modify_settings(MIDDLEWARE={"remove": self.sessions}):
            self.assertEqual(ids(checks.check_middleware()), ["websocket.W005"])
        with override_settings(MIDDLEWARE=[self.authentication, self.sessions]):
            self.assertEqual(ids(checks.check_middleware()), ["websocket.W005"])

    def test_without_authentication_nothing_needs_sessions(self):
        with override_settings(MIDDLEWARE=[]):
            self.assertEqual(checks.check_middleware(), [])


class DistributionTests(SimpleTestCase):
    """What is installed is what lies in a directory of sys.path."""

    def install(self, **distributions):
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name, version in distributions.items():
            info = directory / f"{name}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        self.enterContext(mock.patch.object(sys, "path", [str(directory)]))
        return directory

    def test_uvicorn_needs_a_websocket_library(self):
        self.install(uvicorn="0.60.0")
        self.assertEqual(ids(checks.check_server()), ["websocket.W002"])

    def test_either_websocket_library_will_do(self):
        self.install(uvicorn="0.60.0", wsproto="1.2.0")
        self.assertEqual(checks.check_server(), [])

    def test_uvicorn_has_to_be_new_enough(self):
        self.install(uvicorn="0.52.3", websockets="16.0")
        self.assertEqual(ids(checks.check_server()), ["websocket.W003"])

    def test_uvicorn_may_be_just_new_enough(self):
        self.install(uvicorn="0.52.4", websockets="16.0")
        self.assertEqual(checks.check_server(), [])

    def test_another_server_is_another_matter(self):
        self.install()
        self.assertEqual(checks.check_server(), [])

    def test_websocket_client_may_be_installed_into_another_folder(self):
        self.install()
        self.assertEqual(checks.check_name(), [])
        self.install(websocket_client="1.8.0")
        self.assertEqual(checks.check_name(), [])

    def test_websocket_client_must_not_be_installed_into_this_apps_folder(self):
        directory = self.install(websocket_client="1.8.0")
        (directory / "websocket").symlink_to(Path(checks.__file__).parent)
        self.assertEqual(ids(checks.check_name()), ["websocket.W004"])
