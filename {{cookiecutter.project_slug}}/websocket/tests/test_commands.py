"""The management commands: `sockets` lists what is mounted, `publish` reaches groups."""

from __future__ import annotations

from io import StringIO
from typing import Any

from asgiref.sync import sync_to_async
from django.conf.urls.i18n import i18n_patterns
from django.contrib.auth.decorators import login_required
from django.core.management import CommandError, call_command
from django.http import HttpResponse
from django.test import SimpleTestCase, override_settings
from django.urls import include, path, set_script_prefix

from websocket.testing import listen
from websocket.tests.redis_server import OnRedis
from websocket.urls import re_websocket, websocket
from websocket.views import WebSocketView


@login_required
async def room(socket, name):
    """Never run."""


class Tally(WebSocketView):
    """Never run."""


def page(request):
    return HttpResponse()


rooms = [path("", page), websocket("<slug:name>/", room, name="room")]
urlpatterns = [
    path("page/", page, name="page"),
    websocket("tally/", Tally.as_view()),
    re_websocket(r"^re/(?P<name>[a-z$]+)/$", room, name="re"),
    path("public/", include((rooms, "rooms"), namespace="public")),
    path("<int:pk>/", include(([path("in/", include((rooms, "rooms")))], "outer"))),
    *i18n_patterns(websocket("translated/", Tally.as_view(), name="translated")),
    *i18n_patterns(websocket("in/", Tally.as_view()), prefix_default_language=False),
]


def call(*args: str, **options: Any) -> tuple[str, str]:
    """Call a command, and return what it writes to stdout and to stderr."""
    out, err = StringIO(), StringIO()
    call_command(*args, stdout=out, stderr=err, no_color=True, **options)
    return out.getvalue(), err.getvalue()


class SocketsTests(SimpleTestCase):
    @override_settings(ROOT_URLCONF=__name__)
    def test_it_lists_the_sockets_with_their_views_and_names_in_order(self):
        out, err = call("sockets")
        self.assertEqual(
            [line.split() for line in out.splitlines()],
            [
                ["/tally/", f"{__name__}.Tally"],
                ["/re/(?P<name>[a-z$]+)/", f"{__name__}.room", "re"],
                ["/public/<slug:name>/", f"{__name__}.room", "public:room"],
                ["/<int:pk>/in/<slug:name>/", f"{__name__}.room", "outer:rooms:room"],
                ["/<language>/translated/", f"{__name__}.Tally", "translated"],
                ["/[<language>/]in/", f"{__name__}.Tally"],
            ],
        )
        # The columns are aligned.
        self.assertEqual(len({line.index(__name__) for line in out.splitlines()}), 1)
        self.assertEqual(err, "")

    @override_settings(ROOT_URLCONF=(websocket("ws/", Tally.as_view()),))
    def test_it_shows_the_prefix_of_a_site_that_is_not_at_the_root(self):
        set_script_prefix("/site/")
        self.addCleanup(set_script_prefix, "/")
        self.assertEqual(call("sockets")[0], f"/site/ws/  {__name__}.Tally\n")

    @override_settings(ROOT_URLCONF=(path("page/", page),))
    def test_without_a_socket_it_says_how_to_mount_one(self):
        self.assertEqual(
            call("sockets"), ("", "The URLconf has no sockets: mount one with websocket().\n")
        )


class PublishTests(SimpleTestCase):
    async def published(self, *args: str, **options: Any) -> Any:
        """Return what reaches a group's members."""
        async with listen("news") as inbox:
            await sync_to_async(call)("publish", "news", *args, **options)
            return await inbox.receive()

    async def test_json_is_published_as_its_value_and_all_else_as_text(self):
        self.assertEqual(await self.published('{"text": "hello"}'), {"text": "hello"})
        self.assertEqual(await self.published("[1, null]"), [1, None])
        self.assertEqual(await self.published("Back in five."), "Back in five.")

    async def test_json_can_be_published_as_text(self):
        self.assertEqual(await self.published("[1]", text=True), "[1]")

    def assertFails(self, message: str, *args: str) -> None:
        with self.assertRaisesMessage(CommandError, message) as caught:
            call("publish", *args)
        self.assertNotIn("\n", str(caught.exception))

    @override_settings(WEBSOCKET_REDIS_URL="")
    def test_without_redis_nobody_can_be_reached_from_another_process(self):
        with self.assertNoLogs("django.websocket"):
            self.assertFails("Nobody can be reached", "news", "hello")

    def test_a_groups_name_has_to_be_one(self):
        self.assertFails("A group name has 1 to 100", "the news", "hello")


class OnRedisTests(OnRedis):
    async def test_a_message_reaches_the_members_in_all_processes(self):
        async with listen("news") as inbox:
            # In another thread than the members' event loop, as in another process.
            await sync_to_async(call)("publish", "news", "hello")
            self.assertEqual(await inbox.receive(), "hello")

    def test_what_begins_like_json_has_to_be_json(self):
        with self.assertRaisesMessage(CommandError, "begins like JSON, but is not (") as caught:
            call("publish", "news", '{"text": hello}')
        self.assertIn("add --text", str(caught.exception))

    def test_redis_has_to_answer(self):
        self.redis.kill()
        with self.assertRaisesMessage(CommandError, "Redis did not take a message to 'news': "):
            call("publish", "news", "hello")
