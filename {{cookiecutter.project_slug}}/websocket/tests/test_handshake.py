import asyncio
import functools
import gc
import sys
import threading
import warnings
from typing import Any, ClassVar
from unittest import mock, skipUnless

import django
from asgiref.sync import async_to_sync, markcoroutinefunction, sync_to_async
from django.conf.urls.i18n import i18n_patterns
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required, permission_required, user_passes_test
from django.contrib.auth.models import AbstractUser
from django.contrib.messages import INFO, MessageFailure, add_message, get_messages
from django.core.exceptions import PermissionDenied
from django.core.handlers import asgi
from django.core.signals import got_request_exception
from django.db import connection
from django.db.transaction import non_atomic_requests
from django.http import (
    Http404,
    HttpResponse,
    HttpResponseForbidden,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.template.response import TemplateResponse
from django.test import (
    AsyncClient,
    Client,
    SimpleTestCase,
    TestCase,
    TransactionTestCase,
    modify_settings,
    override_settings,
)
from django.urls import include, path, re_path, reverse
from django.utils.decorators import (
    async_only_middleware,
    sync_and_async_middleware,
    sync_only_middleware,
)
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt

from websocket.counters import count_refusal, counters
from websocket.handshake import LOGIN_REQUIRED, get_handler
from websocket.testing import HandshakeRefused, connect
from websocket.tests.wire import CONNECT, Server, connect_to, serving
from websocket.urls import re_websocket, websocket
from websocket.views import WebSocketView, origin_exempt


async def show(socket, *args, **kwargs):
    """Tell what the URL captured."""
    await socket.accept()
    await socket.send_json({"args": args, "kwargs": kwargs, "path": socket.path})


async def say_language(socket):
    await socket.accept()
    await socket.send_json([get_language(), _("Yes")])


async def say_address(socket):
    await socket.accept()
    await socket.send_text(reverse("room", args=["lobby"]))


def page(request):
    raise AssertionError("A handshake runs no view of a page.")


rooms = [websocket("room/<slug:name>/", show, name="room")]

urlpatterns = [
    websocket("ws/", show, name="socket"),
    websocket("int/<int:number>/<path:rest>", show, {"extra": True}, name="int"),
    websocket("café/<str:name>/", show, name="cafe"),
    re_websocket(r"^re/(?P<year>[0-9]{4})/$", show, name="re"),
    re_websocket(r"^re/([a-z]+)/$", show),
    path("chat/<int:pk>/", include((rooms, "chat"))),
    *rooms,
    websocket("address/", say_address),
    websocket("language/", say_language),
    path("page/", page),
    *i18n_patterns(websocket("translated/", say_language)),
]

other_urlpatterns = (
    websocket("other/", say_address),
    websocket("r/<str:name>/", show, name="room"),
)


async def refusal_of(url="/ws/", **kwargs):
    """Return the refusal of a handshake, which has to be refused."""
    try:
        async with connect(url, **kwargs):
            raise AssertionError("The handshake was not refused.")
    except HandshakeRefused as refusal:
        return refusal


@override_settings(ROOT_URLCONF=__name__)
class RoutingTests(SimpleTestCase):
    async def answer(self, url):
        async with connect(url) as client:
            return await client.receive_json()

    async def test_a_view_takes_what_its_url_captures(self):
        answer = await self.answer("/int/42/a/b?page=2")
        self.assertEqual(answer["kwargs"], {"number": 42, "rest": "a/b", "extra": True})

    async def test_a_url_may_be_a_regular_expression(self):
        self.assertEqual((await self.answer("/re/2024/"))["kwargs"], {"year": "2024"})
        self.assertEqual((await self.answer("/re/abc/"))["args"], ["abc"])

    async def test_urls_are_included_and_reversed_with_their_namespace(self):
        url = reverse("chat:room", kwargs={"pk": 7, "name": "lobby"})
        self.assertEqual(url, "/chat/7/room/lobby/")
        self.assertEqual((await self.answer(url))["kwargs"], {"pk": 7, "name": "lobby"})

    async def test_paths_are_percent_decoded_once(self):
        url = reverse("cafe", args=["crème brûlée %25"])
        self.assertIn("%2525", url)
        answer = await self.answer(url)
        self.assertEqual(answer["kwargs"], {"name": "crème brûlée %25"})
        self.assertEqual(answer["path"], "/café/crème brûlée %25/")
        self.assertEqual((await self.answer("/café/x/"))["kwargs"], {"name": "x"})

    async def test_the_path_that_the_site_is_mounted_at_is_no_part_of_a_route(self):
        server = Server(CONNECT)
        _, message, _ = await server.serve(root_path="/site", path="/site/address/")
        self.assertEqual(message["text"], "/site/room/lobby/")

    @skipUnless(hasattr(asgi, "get_script_prefix"), "This Django uses the setting for links only.")
    @override_settings(FORCE_SCRIPT_NAME="/site")
    async def test_the_path_that_the_site_is_mounted_at_may_be_a_setting(self):
        async with connect("/site/address/") as client:
            self.assertEqual(await client.receive_text(), "/site/room/lobby/")

    async def test_a_path_that_nothing_routes_is_a_404(self):
        self.assertEqual((await refusal_of("/nowhere/")).status_code, 404)
        self.assertEqual((await refusal_of("/int/x/y")).status_code, 404)

    async def test_a_page_is_no_socket(self):
        with self.assertLogs("django.websocket") as logs:
            self.assertEqual((await refusal_of("/page/")).status_code, 404)
        sentence = (
            f"No socket at /page/: mount {__name__}.page with websocket(), not with path(), "
            "if it is a socket view."
        )
        self.assertEqual(
            [record.getMessage() for record in logs.records],
            [sentence, "WebSocket /page/ 127.0.0.1 - refused: 404"],
        )
        with override_settings(DEBUG=True):
            refusal = await refusal_of("/page/")
        self.assertEqual(refusal.status_code, 404)
        self.assertIn(sentence.encode(), refusal.content)

    def test_a_view_has_to_be_callable(self):
        with self.assertRaisesMessage(TypeError, "not 'users.views.echo'"):
            websocket("ws/", "users.views.echo")  # type: ignore[arg-type]

    async def test_a_view_has_to_be_async(self):
        def view(socket):
            return None

        with self.assertLogs("django.request"), self.assertRaisesMessage(TypeError, "is it async?"):
            async with connect_to(view):
                pass

    async def test_a_view_has_to_send_and_not_to_yield(self):
        async def view(socket):
            yield "tick"

        with (
            self.assertLogs("django.request"),
            self.assertRaisesMessage(TypeError, "must not yield"),
        ):
            async with connect_to(view):
                pass


def show_page(request, **kwargs):
    return HttpResponse(f"{request.method} {request.resolver_match.view_name} {kwargs}")


async def show_async_page(request, **kwargs):
    await asyncio.sleep(0)
    return show_page(request, **kwargs)


@csrf_exempt
def exempt_page(request):
    return show_page(request)


class SharedPathTests(SimpleTestCase):
    """A page and a socket may have the same path, whichever the URLconf has first."""

    pages = (
        path("graphql/", show_page, name="page"),
        path("async/", show_async_page, name="async_page"),
        path("exempt/", exempt_page, name="exempt_page"),
        path("rooms/<slug:slug>/", show_page, name="room_page"),
    )
    sockets = (
        websocket("graphql/", show, name="socket"),
        websocket("async/", show, name="async_socket"),
        websocket("exempt/", show, name="exempt_socket"),
        websocket("rooms/<str:name>/", show, name="room"),
        websocket("alone/", show),
    )

    def either_order(self):
        """Return a context manager for each order."""
        included = (path("", include([*self.sockets])), path("", include([*self.pages])))
        urlconfs = ((*self.pages, *self.sockets), (*self.sockets, *self.pages), included)
        return [override_settings(ROOT_URLCONF=urlconf) for urlconf in urlconfs]

    def test_a_plain_request_gets_the_page(self):
        for order in self.either_order():
            with order:
                self.assertEqual(self.client.get("/graphql/").content, b"GET page {}")
                self.assertEqual(self.client.get("/async/").content, b"GET async_page {}")
                answer = self.client.post("/rooms/lobby/").content
                self.assertEqual(answer, b"POST room_page {'slug': 'lobby'}")
                self.assertEqual(self.client.get("/alone/").status_code, 426)

    async def test_so_does_one_under_asgi(self):
        for order in self.either_order():
            with order:
                for name in ("page", "async_page"):
                    response = await self.async_client.get(reverse(name))
                    self.assertEqual(response.content, b"GET %s {}" % name.encode())

    async def test_a_handshake_gets_the_socket(self):
        for order in self.either_order():
            with order:
                for url in ("/graphql/", "/async/", "/exempt/", "/rooms/lobby/", "/alone/"):
                    async with connect(url) as client:
                        kwargs = {"name": "lobby"} if "rooms" in url else {}
                        answer = {"args": [], "kwargs": kwargs, "path": url}
                        self.assertEqual(await client.receive_json(), answer)

    async def test_each_is_told_its_own_route(self):
        async def say_route(socket):
            await socket.accept()
            await socket.send_text(socket.resolver_match.view_name)

        sockets = (websocket("graphql/", say_route, name="socket"),)
        for urlconf in ((*self.pages, *sockets), (*sockets, *self.pages)):
            with override_settings(ROOT_URLCONF=urlconf):
                async with connect("/graphql/") as client:
                    self.assertEqual(await client.receive_text(), "socket")

    def test_each_is_reversed_by_its_name(self):
        for order in self.either_order():
            with order:
                self.assertEqual(reverse("room", kwargs={"name": "lobby"}), "/rooms/lobby/")
                self.assertEqual(reverse("room_page", kwargs={"slug": "lobby"}), "/rooms/lobby/")

    def test_the_pages_csrf_check_is_made_and_no_other(self):
        client = Client(enforce_csrf_checks=True)
        for order in self.either_order():
            with order:
                self.assertEqual(client.post("/exempt/").status_code, 200)
                with self.assertLogs("django.security.csrf"):
                    self.assertEqual(client.post("/graphql/").status_code, 403)

    @skipUnless(django.VERSION >= (5, 1), "LoginRequiredMiddleware came with Django 5.1.")
    @modify_settings(MIDDLEWARE={"append": LOGIN_REQUIRED})
    async def test_the_page_and_the_socket_each_decide_who_has_to_log_in(self):
        from django.contrib.auth.decorators import login_not_required

        @login_not_required
        def public_page(request):
            return HttpResponse()

        @login_not_required
        async def public_socket(socket):
            await socket.accept()

        pages = (path("page/", public_page), path("socket/", show_page))
        sockets = (websocket("page/", show), websocket("socket/", public_socket))
        for urlconf in ((*pages, *sockets), (*sockets, *pages)):
            with override_settings(ROOT_URLCONF=urlconf, LOGIN_URL="/login/"):
                self.assertEqual((await self.async_client.get("/page/")).status_code, 200)
                self.assertEqual((await self.async_client.get("/socket/")).status_code, 302)
                self.assertEqual((await refusal_of("/page/")).status_code, 302)
                async with connect("/socket/"):
                    pass

    def test_a_namespace_and_a_prefix_are_those_of_the_page(self):
        urlconf = (
            path("<int:pk>/", include(([*self.sockets], "sockets"))),
            path("<int:pk>/", include(([*self.pages], "pages"))),
        )
        with override_settings(ROOT_URLCONF=urlconf):
            answer = self.client.get(reverse("sockets:room", kwargs={"pk": 7, "name": "x"})).content
        self.assertEqual(answer, b"GET pages:room_page {'pk': 7, 'slug': 'x'}")

    @override_settings(ROOT_URLCONF=(*sockets, re_path("", show_page)))
    def test_a_handshake_that_came_as_a_plain_request_gets_no_page(self):
        self.assertEqual(self.client.get("/graphql/").status_code, 200)
        headers: tuple[dict[str, Any], ...]
        headers = ({"HTTP_UPGRADE": "websocket"}, {"HTTP_SEC_WEBSOCKET_KEY": "x"})
        for header in headers:
            with self.assertLogs("django.websocket", "WARNING"):
                self.assertEqual(self.client.get("/graphql/", **header).status_code, 426)

    def test_a_page_without_a_response_is_named(self):
        def forgetful(request) -> Any:
            return None

        with (
            override_settings(ROOT_URLCONF=(websocket("", show), path("", forgetful))),
            self.assertLogs("django.request"),
            self.assertRaisesMessage(ValueError, "forgetful didn't return an HttpResponse"),
        ):
            self.client.get("/")


def use_other_urls(get_response):
    def middleware(request):
        request.urlconf = (
            websocket("other/", say_address),
            websocket("r/<str:name>/", show, name="room"),
        )
        return get_response(request)

    return middleware


seen: list[Any] = []


def sync_middleware(get_response):
    def middleware(request):
        seen.append(("sync", request.scheme, threading.get_ident()))
        response = get_response(request)
        response["X-Sync"] = str(response.status_code)
        return response

    return middleware


@async_only_middleware
def async_middleware(get_response):
    async def middleware(request):
        seen.append(("async", request.scheme, asyncio.get_running_loop()))
        response = await get_response(request)
        response["X-Async"] = str(response.status_code)
        return response

    return middleware


@sync_and_async_middleware
def either_middleware(get_response):
    def middleware(request):
        seen.append(("either", request.scheme, threading.get_ident()))
        response = get_response(request)
        response.set_cookie("seen", "yes")
        response["Content-Length"] = "0"
        return response

    return middleware


def refusing_middleware(get_response):
    def middleware(request):
        get_response(request)
        return HttpResponse("Not now.", status=503)

    return middleware


class ViewMiddleware:
    """Middleware sees the socket's view, as it does a page's."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_view(self, request, view, args, kwargs):
        seen.append((view.__name__, args, kwargs))


class TemplateMiddleware(ViewMiddleware):
    def process_template_response(self, request, response):
        response.context_data["route"] = "seen/"
        return response


class ExceptionMiddleware(ViewMiddleware):
    def process_exception(self, request, exception):
        return HttpResponse(str(exception), status=418)


def middleware(*names):
    return modify_settings(MIDDLEWARE={"append": [f"{__name__}.{name}" for name in names]})


@override_settings(ROOT_URLCONF=__name__)
class MiddlewareTests(SimpleTestCase):
    def setUp(self):
        seen.clear()

    async def test_every_kind_runs_once_and_has_finished_before_the_view(self):
        async def view(socket):
            seen.append("view")
            await socket.accept()

        with middleware("sync_middleware", "async_middleware", "either_middleware"):
            async with connect_to(view) as client:
                pass
        self.assertEqual([entry[0] for entry in seen[:-1]], ["sync", "async", "either"])
        self.assertEqual(seen[-1], "view")
        self.assertEqual([entry[1] for entry in seen[:-1]], ["http"] * 3)
        # What it put on the response goes out with the accept.
        self.assertEqual((client.headers["x-sync"], client.headers["x-async"]), ("101", "101"))
        self.assertIn("seen=yes", client.headers["set-cookie"])
        # But for what is about content: a 101 has none.
        for name in ("content-length", "content-type", "vary", "x-frame-options"):
            self.assertNotIn(name, client.headers)

    @middleware("sync_middleware", "either_middleware")
    async def test_all_of_it_runs_in_one_thread(self):
        async with connect("/ws/"):
            pass
        self.assertEqual(seen[0][2], seen[1][2])

    @middleware("use_other_urls")
    async def test_a_urlconf_of_the_request_is_used(self):
        async with connect("/other/") as client:
            self.assertEqual(await client.receive_text(), "/r/lobby/")
        self.assertEqual((await refusal_of("/ws/")).status_code, 404)

    @middleware("refusing_middleware")
    async def test_a_response_in_the_place_of_the_view_refuses(self):
        refusal = await refusal_of()
        self.assertEqual((refusal.status_code, refusal.content), (503, b"Not now."))

    @middleware("refusing_middleware")
    async def test_a_view_that_is_not_run_is_not_missed(self):
        with warnings.catch_warnings(record=True, action="always") as caught:
            await refusal_of()
        told = [str(warning.message) for warning in caught]
        self.assertFalse([text for text in told if "was never awaited" in text], told)

    @middleware("ViewMiddleware")
    async def test_view_middleware_sees_the_view(self):
        async with connect("/int/1/x"):
            pass
        self.assertEqual(seen, [("show", (), {"number": 1, "rest": "x", "extra": True})])

    @modify_settings(MIDDLEWARE={"append": "django.middleware.locale.LocaleMiddleware"})
    async def test_the_language_of_the_handshake_is_active_in_the_view(self):
        async with connect("/language/", headers={"Accept-Language": "de"}) as client:
            self.assertEqual(await client.receive_json(), ["de", "Ja"])
        async with connect("/language/", headers={"Accept-Language": "fr"}) as client:
            self.assertEqual(await client.receive_json(), ["fr", "Oui"])

    @modify_settings(MIDDLEWARE={"append": "django.middleware.locale.LocaleMiddleware"})
    async def test_a_language_prefix_is_part_of_the_path(self):
        async with connect("/de/translated/", headers={"Accept-Language": "fr"}) as client:
            self.assertEqual(await client.receive_json(), ["de", "Ja"])


class RequestTests(TestCase):
    user: AbstractUser

    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")

    async def test_a_view_has_the_request_and_what_middleware_put_on_it(self):
        async def view(socket):
            await socket.accept()
            await socket.send_json(
                {
                    "user": socket.user.username,
                    "session": socket.session.session_key,
                    "request": [socket.request.method, socket.request.path],
                    "from the request": [socket.GET["x"], socket.method, socket.is_secure()],
                }
            )

        client = AsyncClient()
        async with connect_to(view, "/ws/?x=1", client=client, user=self.user) as socket:
            answer = await socket.receive_json()
        self.assertEqual(answer["user"], "ada")
        self.assertEqual(answer["session"], client.cookies["sessionid"].value)
        self.assertEqual(answer["request"], ["GET", "/ws/"])
        self.assertEqual(answer["from the request"], ["1", "GET", False])

    async def test_messages_for_the_user_are_there_but_not_kept_by_open_sockets(self):
        kept = []

        def page(request):
            add_message(request, INFO, "Saved.")
            return HttpResponse()

        async def view(socket):
            await socket.accept()
            kept.append("_messages" in vars(socket.request))
            await socket.send_json([str(message) for message in get_messages(socket.request)])

        client = AsyncClient()
        with override_settings(ROOT_URLCONF=(path("page/", page), websocket("ws/", view))):
            await client.get("/page/")
            async with connect("/ws/", client=client) as socket:
                self.assertEqual(await socket.receive_json(), ["Saved."])
        self.assertEqual(kept, [False])

    async def test_a_message_that_a_decorator_adds_is_there_too(self):
        async def view(socket):
            await socket.accept()
            await socket.send_json([str(message) for message in get_messages(socket.request)])

        @functools.wraps(view)
        def decorated(socket):
            add_message(socket.request, INFO, "Welcome.")
            return view(socket)

        async with connect_to(decorated) as client:
            self.assertEqual(await client.receive_json(), ["Welcome."])

    @modify_settings(MIDDLEWARE={"remove": "django.contrib.messages.middleware.MessageMiddleware"})
    async def test_without_their_middleware_there_are_no_messages(self):
        async def view(socket):
            await socket.accept()
            await socket.send_json(len(get_messages(socket.request)))
            add_message(socket.request, INFO, "Saved.")

        with self.assertRaises(MessageFailure):
            async with connect_to(view) as client:
                self.assertEqual(await client.receive_json(), 0)
                await client.wait_closed()

    async def test_what_is_the_same_in_all_requests_is_kept_once(self):
        requests = []

        async def view(socket):
            requests.append(socket.request)
            await socket.accept()

        for value in ("one", "other"):
            async with connect_to(view, headers={"X-Name": value}):
                pass
        one, other = ({name: name for name in request.META} for request in requests)
        self.assertIs(one["HTTP_X_NAME"], other["HTTP_X_NAME"])
        self.assertIsNone(requests[0].resolver_match.tried)

    def test_an_anonymous_handshake_makes_no_query(self):
        async def view(socket):
            await socket.accept()
            await socket.send_json([socket.user.is_anonymous, socket.session.is_empty()])

        async def handshake():
            async with connect_to(view) as client:
                self.assertEqual(await client.receive_json(), [True, True])

        with self.assertNumQueries(0):
            async_to_sync(handshake)()

    async def test_the_user_is_loaded_before_the_view(self):
        async def view(socket):
            await socket.accept()  # In the event loop, where Django allows no query.
            await socket.send_json([str(socket.user), socket.user.is_staff])

        async with connect_to(view, user=self.user) as client:
            self.assertEqual(await client.receive_json(), ["ada", False])

    async def test_a_session_that_is_made_sets_its_cookie_on_the_accept(self):
        def counting(view):
            @functools.wraps(view)
            def wrapper(socket):
                socket.session["visits"] = socket.session.get("visits", 0) + 1
                return view(socket)

            return wrapper

        @counting
        async def view(socket):
            await socket.accept()
            await socket.send_json(socket.session["visits"])

        client = AsyncClient()
        for visits in (1, 2):
            async with connect_to(view, client=client) as socket:
                self.assertEqual(await socket.receive_json(), visits)
                self.assertIn("sessionid=", socket.headers["set-cookie"])
            self.assertIn("sessionid", client.cookies)

    async def test_a_view_may_change_the_session_and_save_it(self):
        async def view(socket):
            await socket.accept()
            socket.session["seen"] = True
            await sync_to_async(socket.session.save)()

        client = AsyncClient()
        async with connect_to(view, client=client, user=self.user) as socket:
            await socket.wait_closed()
        self.assertTrue(await sync_to_async(lambda: client.session["seen"])())

    async def test_sockets_work_where_requests_are_atomic(self):
        async def view(socket):
            await socket.accept()
            await socket.send_json(await sync_to_async(get_user_model().objects.count)())

        with mock.patch.dict(connection.settings_dict, ATOMIC_REQUESTS=True):
            async with connect_to(view) as client:
                self.assertEqual(await client.receive_json(), 1)


async def private(socket):
    await socket.accept()
    await socket.send_text(f"Hello, {socket.user.username}.")


class AtomicPageTests(TransactionTestCase):
    def test_a_page_behind_a_socket_has_the_transaction_that_it_asks_for(self):
        def atomic(request):
            return HttpResponse(str(connection.in_atomic_block))

        @non_atomic_requests
        def non_atomic(request):
            return atomic(request)

        for view, answer in ((atomic, b"True"), (non_atomic, b"False")):
            urlconf = (websocket("", show), path("", view))
            with (
                mock.patch.dict(connection.settings_dict, ATOMIC_REQUESTS=True),
                override_settings(ROOT_URLCONF=urlconf),
            ):
                self.assertEqual(self.client.get("/").content, answer)


@override_settings(LOGIN_URL="/accounts/login/")
class DecoratorTests(TestCase):
    admin: AbstractUser
    user: AbstractUser

    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")
        cls.admin = get_user_model().objects.create_superuser("root")

    async def assertLetsIn(self, view, user):
        async with connect_to(view, user=user) as client:
            self.assertEqual(await client.receive_text(), f"Hello, {user.username}.")

    async def assertSendsToLogin(self, view, user=None):
        with serving(view):
            refusal = await refusal_of("/ws/?x=1", user=user)
        self.assertEqual(refusal.status_code, 302)
        self.assertEqual(refusal.headers["location"], "/accounts/login/?next=/ws/%3Fx%3D1")

    async def test_login_required(self):
        view = login_required(private)
        await self.assertLetsIn(view, self.user)
        await self.assertSendsToLogin(view)

    async def test_permission_required(self):
        view = permission_required(f"{get_user_model()._meta.app_label}.change_user")(private)
        await self.assertLetsIn(view, self.admin)
        await self.assertSendsToLogin(view, self.user)

    async def test_permission_required_raising(self):
        view = permission_required(
            f"{get_user_model()._meta.app_label}.change_user", raise_exception=True
        )(private)
        await self.assertLetsIn(view, self.admin)
        with serving(view):
            self.assertEqual((await refusal_of(user=self.user)).status_code, 403)

    async def test_user_passes_test(self):
        view = user_passes_test(lambda user: user.is_staff)(private)
        await self.assertLetsIn(view, self.admin)
        await self.assertSendsToLogin(view, self.user)

    async def test_a_decorator_may_query(self):
        def only_one_user(view):
            @functools.wraps(view)
            def wrapper(socket):
                if get_user_model().objects.count() > 1:
                    return HttpResponse("Too many.", status=503)
                return view(socket)

            return wrapper

        with serving(only_one_user(private)):
            refusal = await refusal_of(user=self.user)
        self.assertEqual((refusal.status_code, refusal.content), (503, b"Too many."))

    async def test_a_decorator_may_be_async(self):
        def polite(view):
            @functools.wraps(view)
            async def wrapper(socket):
                if "please" not in socket.query_params:
                    return HttpResponse("Say please.", status=400)
                return await view(socket)

            return wrapper

        async with connect_to(polite(private), "/ws/?please", user=self.user) as client:
            self.assertEqual(await client.receive_text(), "Hello, ada.")
        with serving(polite(private)):
            self.assertEqual((await refusal_of()).content, b"Say please.")

    async def test_a_decorator_may_mark_what_it_returns_as_async(self):
        def decorator(view):
            @functools.wraps(view)
            def wrapper(socket):
                return view(socket)

            return markcoroutinefunction(wrapper)

        await self.assertLetsIn(decorator(private), self.user)

    @skipUnless(django.VERSION >= (5, 1), "LoginRequiredMiddleware came with Django 5.1.")
    @modify_settings(MIDDLEWARE={"append": LOGIN_REQUIRED})
    async def test_the_middleware_that_requires_a_login(self):
        from django.contrib.auth.decorators import login_not_required

        await self.assertLetsIn(private, self.user)
        await self.assertSendsToLogin(private)

        @login_not_required
        async def public(socket):
            await socket.accept()

        async with connect_to(public):
            pass


def fail(*args):
    raise ZeroDivisionError


def failing_middleware(get_response):
    """Middleware that puts a cookie on each response that no header can hold."""

    def middleware(request):
        response = get_response(request)
        response.set_cookie("name", "\u0142")
        return response

    return middleware


class FailingRefusalTests(SimpleTestCase):
    """A response that fails, however late, is Django's 500, reported once."""

    def failing_template(self, socket):
        return TemplateResponse(socket.request, "no/such/template.html", status=403)

    def failing_callback(self, socket):
        response = TemplateResponse(socket.request, "websocket/console.html", {"route": "ws/"})
        response.add_post_render_callback(fail)
        return response

    def failing_stream(self, socket):
        return StreamingHttpResponse(map(fail, [b"one", b"two"]), status=403)

    def failing_async_stream(self, socket):
        async def chunks():
            yield b"one"
            raise ZeroDivisionError

        return StreamingHttpResponse(chunks(), status=403)

    def failing_cookie(self, socket):
        response = HttpResponse("No.", status=403)
        response.set_cookie("name", "\u0142")
        return response

    def failing_path(self, socket):
        response = HttpResponse("No.", status=403)
        response.set_cookie("name", "value", path="/\r\nX-Name: value")
        return response

    def failing_close(self, socket):
        response = StreamingHttpResponse([b"No."], status=403)
        response.close = fail  # type: ignore[method-assign]
        return response

    async def assertAnsweredWith500(self, view):
        reported = []

        def note(request, **kwargs):
            reported.append((request.path, sys.exc_info()[1] is not None))

        got_request_exception.connect(note)
        self.addCleanup(got_request_exception.disconnect, note)
        with serving(view), self.assertLogs("django.request", "ERROR") as logs:
            start, body = await Server(CONNECT).serve()
        got_request_exception.disconnect(note)
        self.assertEqual(start["status"], 500)
        self.assertIn(b"Server Error", body["body"])
        self.assertEqual(reported, [("/ws/", True)])
        logged = [record.getMessage() for record in logs.records]
        self.assertEqual(logged, ["Internal Server Error: /ws/"])

    async def test_whether_a_view_returns_it_or_a_decorator(self):
        def in_view(refuse):
            async def view(socket):
                return refuse(socket)

            return view

        for name in dir(self):
            if name.startswith("failing_"):
                with self.subTest(name, by="a view"):
                    await self.assertAnsweredWith500(in_view(getattr(self, name)))
                with self.subTest(name, by="a decorator"):
                    await self.assertAnsweredWith500(getattr(self, name))

    @middleware("failing_middleware")
    async def test_so_is_a_101(self):
        gc.collect()
        with warnings.catch_warnings(record=True, action="always") as caught:
            await self.assertAnsweredWith500(show)
            gc.collect()
        told = [str(warning.message) for warning in caught]
        self.assertFalse([text for text in told if "'show' was never awaited" in text], told)

    async def test_a_server_that_cannot_send_responses_still_closes(self):
        async def view(socket):
            return self.failing_template(socket)

        with serving(view), self.assertLogs("django.request", "ERROR"):
            sent = await Server(CONNECT).serve(extensions={})
        self.assertEqual([event["type"] for event in sent], ["websocket.close"])


@override_settings(ROOT_URLCONF=__name__)
class RefusalTests(SimpleTestCase):
    async def test_a_host_that_is_not_allowed_is_a_400(self):
        with self.assertLogs("django.security.DisallowedHost"):
            refusal = await refusal_of(headers={"Host": "evil.example.com"})
        self.assertEqual(refusal.status_code, 400)

    async def test_a_path_that_is_no_text_is_a_400(self):
        start, _ = await Server(CONNECT).serve(query_string=b"\xff")
        self.assertEqual(start["status"], 400)

    @override_settings(SECURE_SSL_REDIRECT=True, ALLOWED_HOSTS=["testserver"])
    async def test_ws_is_redirected_where_https_is_a_must_and_wss_is_not(self):
        refusal = await refusal_of("/ws/?x=1")
        self.assertEqual(refusal.status_code, 301)
        self.assertEqual(refusal.headers["location"], "https://testserver/ws/?x=1")
        for scheme in ("wss", "https"):
            accept, *_ = await Server(CONNECT).serve(scheme=scheme)
            self.assertEqual(accept["type"], "websocket.accept")
        with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
            async with connect("/ws/", headers={"X-Forwarded-Proto": "https"}):
                pass

    async def test_a_view_refuses_with_a_response(self):
        async def view(socket):
            response = HttpResponse("Full.", status=503)
            response["Retry-After"] = "60"
            response.set_cookie("waiting", "yes")
            return response

        with serving(view), middleware("sync_middleware"):
            refusal = await refusal_of()
        self.assertEqual((refusal.status_code, refusal.content), (503, b"Full."))
        self.assertEqual(refusal.headers["retry-after"], "60")
        self.assertIn("waiting=yes", refusal.headers["set-cookie"])
        self.assertEqual(refusal.headers["x-sync"], "101")  # Middleware's headers go out as well.

    async def test_a_view_refuses_with_a_template(self):
        async def view(socket):
            return TemplateResponse(
                socket.request, "websocket/console.html", {"route": "ws/"}, status=403
            )

        with serving(view):
            refusal = await refusal_of()
        self.assertEqual(refusal.status_code, 403)
        self.assertIn(b"<!doctype html>", refusal.content)

    async def test_a_page_that_answers_a_handshake_is_logged_with_what_to_do(self):
        def page(request):
            return HttpResponse("Hello.")

        async def async_page(request):
            return HttpResponse("Hello.")

        for view in (page, async_page):
            with serving(view), self.assertLogs("django.websocket") as logs:
                self.assertEqual((await refusal_of()).status_code, 200)
            self.assertEqual(
                [record.getMessage() for record in logs.records],
                [
                    "The handshake at /ws/ was answered with a page (status 200): mount a page's "
                    "view with path(), not with websocket(), and refuse a handshake with an "
                    "error status.",
                    "WebSocket /ws/ 127.0.0.1 - refused: 200",
                ],
            )

    async def test_a_redirect_for_good_is_logged_with_what_to_do(self):
        with self.assertLogs("django.websocket") as logs:
            self.assertEqual((await refusal_of("/ws?token=1")).status_code, 301)
        self.assertEqual(
            [record.getMessage() for record in logs.records],
            [
                "The handshake at /ws was redirected, which no browser follows: connect to /ws/.",
                "WebSocket /ws 127.0.0.1 - refused: 301",
            ],
        )

    @override_settings(SECURE_SSL_REDIRECT=True)
    async def test_a_redirect_to_tls_is_logged_with_the_url_of_the_socket_and_the_proxys_part(self):
        with self.assertLogs("django.websocket") as logs:
            self.assertEqual((await refusal_of("/ws/")).status_code, 301)
        self.assertEqual(
            logs.records[0].getMessage(),
            "The handshake at /ws/ was redirected, which no browser follows: connect to "
            "wss://testserver/ws/. If it connects there, set SECURE_PROXY_SSL_HEADER: Django takes "
            "it for ws://.",
        )

    @skipUnless(django.VERSION >= (4, 2), "Async streaming came with Django 4.2.")
    async def test_a_socket_that_is_closed_meanwhile_is_not_refused_too(self):
        async def view(socket):
            async def chunks():
                socket._connection.close_soon(1012)
                yield b"late"

            return StreamingHttpResponse(chunks(), status=403)

        with serving(view):
            sent = await Server(CONNECT).serve()
        self.assertEqual([event["type"] for event in sent], ["websocket.close"])

    @middleware("TemplateMiddleware")
    async def test_middleware_of_templates_sees_the_template(self):
        async def view(socket):
            return TemplateResponse(socket.request, "websocket/console.html", {}, status=403)

        with serving(view):
            self.assertIn(b"<title>seen/", (await refusal_of()).content)

    @middleware("ExceptionMiddleware")
    async def test_middleware_of_exceptions_sees_what_a_view_raises(self):
        async def view(socket):
            raise ZeroDivisionError("on purpose")

        with serving(view):
            refusal = await refusal_of()
        self.assertEqual((refusal.status_code, refusal.content), (418, b"on purpose"))

    async def test_a_streamed_body_is_sent_whole_and_closed(self):
        closed = []

        class Chunks(list[bytes]):
            def close(self):
                closed.append(True)

        async def view(socket):
            return StreamingHttpResponse(Chunks([b"one ", b"two"]), status=503)

        with serving(view):
            self.assertEqual((await refusal_of()).content, b"one two")
        self.assertEqual(closed, [True])

    @skipUnless(django.VERSION >= (4, 2), "Async streaming came with Django 4.2.")
    async def test_an_async_streamed_body_is_sent_whole(self):
        async def chunks():
            yield b"one "
            yield b"two"

        async def view(socket):
            return StreamingHttpResponse(chunks(), status=503)

        with serving(view):
            self.assertEqual((await refusal_of()).content, b"one two")

    async def test_a_view_that_closes_before_the_accept_refuses_with_an_empty_403(self):
        async def view(socket):
            await socket.close()

        with serving(view):
            refusal = await refusal_of()
        self.assertEqual((refusal.status_code, refusal.content), (403, b""))

    async def test_a_server_that_cannot_answer_gets_a_plain_close(self):
        sent = await Server(CONNECT).serve(path="/nowhere/", extensions={})
        self.assertEqual(sent, [{"type": "websocket.close", "code": 1000, "reason": ""}])
        sent = await Server(CONNECT).serve(path="/nowhere/", extensions=None)
        self.assertEqual(sent[0]["type"], "websocket.close")

    async def test_a_view_rejects_with_a_code_that_a_browser_sees(self):
        async def view(socket):
            await socket.reject(3000, "Log in first.")

        async with connect_to(view) as client:
            self.assertEqual(await client.wait_closed(), 3000)
        self.assertEqual(client.close_reason, "Log in first.")


class ExplainedTests(TestCase):
    """A browser hides a refusal from its page, and is told by a close."""

    def setUp(self):
        super().setUp()
        self.enterContext(override_settings(LOGIN_URL="/accounts/login/"))

    browser: ClassVar = {"Origin": "http://testserver"}

    async def close_of(self, view: Any, **kwargs: Any) -> tuple[int, str]:
        """Return how a browser's handshake is closed, which counts as a refusal and is logged."""
        before = counters.copy()
        with (
            serving(view),
            self.assertNoLogs("django.request"),
            self.assertLogs("django.websocket", "INFO") as logs,
        ):
            async with connect("/ws/", headers=self.browser, **kwargs) as client:
                code = await client.wait_closed()
        [line] = logs.output
        # Sockets of the tests before, which end late, are counted meanwhile.
        [(status, count)] = (
            (key.removeprefix("handshake "), count)
            for key, count in (counters - before).items()
            if key.startswith("handshake ")
        )
        self.assertEqual(count, 1)
        self.assertIn(f"WebSocket /ws/ 127.0.0.1 - refused: {status}", line)
        return code, client.close_reason

    async def test_one_that_has_to_log_in(self):
        def redirect_elsewhere(socket):
            return HttpResponseRedirect("/elsewhere/?next=/ws/")

        def unauthorized(socket):
            return HttpResponse(status=401, reason="No token")

        async def redirect_late(socket):
            return HttpResponseRedirect("/accounts/login/")

        for view, reason in (
            (login_required(show), "Log in first."),
            (redirect_elsewhere, "Log in first."),
            (redirect_late, "Log in first."),
            (unauthorized, "No token"),
        ):
            self.assertEqual(await self.close_of(view), (3000, reason))

    async def test_one_that_is_logged_in_and_sent_to_the_login_is_forbidden(self):
        user = await sync_to_async(get_user_model().objects.create_user)("ada")
        may_not = permission_required("users.nothing")(show)
        async with connect_to(may_not, headers=self.browser, user=user) as client:
            self.assertEqual(await client.wait_closed(), 3003)

    async def test_a_redirect_with_any_query_is_an_answer(self):
        query = "a&" * 2000 + "b=["

        def redirect(socket):
            return HttpResponseRedirect(f"/elsewhere/?{query}")

        def redirect_nowhere(socket):
            response = HttpResponse(status=302)
            response["Location"] = "http://["
            return response

        for view in (redirect, redirect_nowhere):
            with self.assertRaises(HandshakeRefused) as refused:
                async with connect_to(view, headers=self.browser):
                    pass
            self.assertEqual(refused.exception.status_code, 302)

    async def test_a_late_refusal_has_the_cookies_of_middleware_and_deletes_no_session(self):
        async def forbid(socket):
            raise PermissionDenied

        @sync_only_middleware
        def set_cookie(get_response):
            def middleware(request):
                response = get_response(request)
                response.set_cookie("seen", "1")
                response.delete_cookie("sessionid")
                return response

            return middleware

        sys.modules[__name__].set_cookie = set_cookie  # type: ignore[attr-defined]
        get_handler.cache_clear()
        self.addCleanup(get_handler.cache_clear)
        with override_settings(MIDDLEWARE=[f"{__name__}.set_cookie"]):
            async with connect_to(forbid, headers=self.browser) as client:
                self.assertEqual(await client.wait_closed(), 3003)
        [cookie] = [value for name, value in client.raw_headers if name == b"set-cookie"]
        self.assertIn(b"seen=1", cookie)

    async def test_one_that_is_forbidden(self):
        async def forbid(socket):
            raise PermissionDenied

        def forbid_early(socket):
            raise PermissionDenied

        def explain(socket):
            return HttpResponseForbidden(reason="This room is “private”. " + "x" * 200)

        for view in (forbid, forbid_early):
            self.assertEqual(await self.close_of(view), (3003, "Forbidden"))
        code, reason = await self.close_of(explain)
        self.assertEqual(code, 3003)
        self.assertTrue(reason.startswith("This room is "))
        self.assertLessEqual(len(reason.encode()), 123)

    async def test_it_may_offer_subprotocols_and_gets_the_cookies(self):
        def forbid(socket):
            response = HttpResponseForbidden()
            response.set_cookie("seen", "1")
            response["X-Other"] = "1"
            return response

        async with connect_to(forbid, headers=self.browser, subprotocols=["v2", "v1"]) as client:
            self.assertEqual(client.subprotocol, "v2")
            self.assertEqual(await client.wait_closed(), 3003)
        self.assertEqual([name for name, value in client.raw_headers], [b"set-cookie"])

    async def test_all_other_refusals_and_clients_get_the_response(self):
        def page(status, location=None):
            response = HttpResponse(status=status)
            if location:
                response["Location"] = location
            return lambda socket: response

        refusals = [
            (page(403), {}, 403),
            (page(403), {"Origin": "https://elsewhere.example"}, 403),
            (page(403), {"Origin": "null"}, 403),
            (page(404), self.browser, 404),
            (page(503), self.browser, 503),
            (page(302, "/elsewhere/"), self.browser, 302),
        ]
        for view, headers, status in refusals:
            with self.assertRaises(HandshakeRefused) as refused:
                async with connect_to(view, headers=headers):
                    pass
            self.assertEqual(refused.exception.status_code, status)
        with (
            override_settings(WEBSOCKET_EXPLAIN_REFUSALS=False),
            self.assertRaises(HandshakeRefused),
        ):
            async with connect_to(page(403), headers=self.browser):
                pass

    async def test_a_refusal_before_the_user_was_loaded_asks_no_database(self):
        client = AsyncClient()
        user = await sync_to_async(get_user_model().objects.create_user)("ada")
        await sync_to_async(client.force_login)(user)
        foreign = {"Origin": "https://elsewhere.example"}
        with (
            self.assertLogs("django.websocket", "WARNING") as logs,
            self.assertRaises(HandshakeRefused),
        ):
            async with connect_to(show, client=client, headers=foreign):
                pass
        self.assertTrue(logs.output[0].endswith(" 127.0.0.1 - refused: 403"))
        with (
            self.assertLogs("django.websocket", "WARNING") as logs,
            self.assertRaises(HandshakeRefused),
        ):
            async with connect_to(lambda socket: HttpResponse(status=404), client=client):
                pass
        self.assertTrue(logs.output[0].endswith(" 127.0.0.1 ada refused: 404"))

    async def test_each_refusal_is_one_line_in_the_log(self):
        def page(status):
            return lambda socket: HttpResponse(status=status)

        async def close(socket):
            await socket.close()

        async def missing(socket):
            raise Http404

        for view, line in (
            (page(302), "INFO:django.websocket:WebSocket /ws/ 127.0.0.1 - refused: 302"),
            (page(410), "WARNING:django.websocket:WebSocket /ws/ 127.0.0.1 - refused: 410"),
            (close, "WARNING:django.websocket:WebSocket /ws/ 127.0.0.1 - refused: 403"),
            (missing, "WARNING:django.websocket:WebSocket /ws/ 127.0.0.1 - refused: 404"),
        ):
            with (
                self.assertNoLogs("django.request"),
                self.assertLogs("django.websocket", "INFO") as logs,
                self.assertRaises(HandshakeRefused),
            ):
                async with connect_to(view):
                    pass
            self.assertEqual(logs.output, [line])


class OriginTests(SimpleTestCase):
    async def status(self, origin, view=show, host="testserver", **kwargs):
        try:
            async with connect_to(view, headers={"Host": host, "Origin": origin, **kwargs}):
                return 101
        except HandshakeRefused as refusal:
            return refusal.status_code

    async def test_a_client_that_is_no_browser_has_no_origin(self):
        async with connect_to(show):
            pass

    @override_settings(ALLOWED_HOSTS=["*"])
    async def test_the_origin_has_to_be_the_host(self):
        for host, origin, status in [
            ("testserver", "http://testserver", 101),
            ("testserver", "http://testserver:80", 101),
            ("testserver:80", "http://testserver", 101),
            ("testserver:8000", "http://testserver:8000", 101),
            ("TestServer", "http://testserver", 101),
            ("[::1]:8000", "http://[::1]:8000", 101),
            ("testserver:8000", "http://testserver", 403),
            ("testserver", "http://testserver:8000", 403),
            ("testserver", "https://testserver", 403),
            ("testserver", "http://evil.example.com", 403),
            ("testserver", "http://testserver.example.com", 403),
            ("testserver", "http://sub.testserver", 403),
            ("testserver", "http://eviltestserver", 403),
            ("testserver", "null", 403),
            ("testserver", "", 403),
            ("testserver", "testserver", 403),
            ("testserver", "http://", 403),
            ("testserver", "http://testserver:x", 403),
            ("testserver", "http://[testserver", 403),
            ("testserver", "http://testserver/", 403),
            ("testserver", "http://testserver@evil.example.com", 403),
            ("testserver", "http://@testserver", 403),
            ("testserver", "http://:x@testserver", 403),
            ("testserver", "http://testserver?x", 403),
            ("testserver", "http://testserver#x", 403),
            ("testserver", "file://testserver", 403),
        ]:
            with self.subTest(host=host, origin=origin):
                self.assertEqual(await self.status(origin, host=host), status)

    @override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
    async def test_the_scheme_is_the_one_that_the_proxy_was_asked_with(self):
        secure = {"X-Forwarded-Proto": "https"}
        self.assertEqual(await self.status("https://testserver", **secure), 101)
        self.assertEqual(await self.status("https://testserver:443", **secure), 101)
        self.assertEqual(await self.status("http://testserver", **secure), 403)

    @override_settings(
        CSRF_TRUSTED_ORIGINS=["https://a.example.com", "https://*.example.org", "http://b:8000"]
    )
    async def test_other_origins_may_be_trusted(self):
        for origin, status in [
            ("https://a.example.com", 101),
            ("https://a.example.com:443", 101),
            ("https://A.example.com", 101),
            ("http://a.example.com", 403),
            ("http://a.example.com:443", 403),
            ("https://a.example.com:8443", 403),
            ("https://b.a.example.com", 403),
            ("https://sub.example.org", 101),
            ("https://deep.sub.example.org", 101),
            ("https://prefix-example.org", 403),
            ("https://example.org.evil.com", 403),
            ("http://sub.example.org", 403),
            ("http://b:8000", 101),
            ("http://b", 403),
        ]:
            with self.subTest(origin):
                self.assertEqual(await self.status(origin), status)

    async def test_a_view_may_be_open_to_all_origins(self):
        @origin_exempt
        async def public(socket):
            await socket.accept()

        self.assertEqual(await self.status("http://other.example.com", public), 101)
        self.assertEqual(await self.status("null", public), 101)

    async def test_the_exemption_is_of_the_view_where_it_is_mounted(self):
        self.assertEqual(await self.status("null", origin_exempt(show)), 101)
        self.assertEqual(await self.status("null", show), 403)

    async def test_the_exemption_may_be_under_another_decorator(self):
        def decorator(view):
            @functools.wraps(view)
            def wrapper(socket):
                return view(socket)

            return wrapper

        self.assertEqual(await self.status("null", decorator(origin_exempt(show))), 101)

    async def test_a_view_that_is_refused_for_its_origin_is_not_called(self):
        def view(socket):
            raise AssertionError

        with self.assertLogs("django.security.csrf", "WARNING") as logs:
            self.assertEqual(await self.status("http://evil.example.com\x1b", view), 403)
        self.assertIn("http://evil.example.com", logs.output[0])
        self.assertNotIn("\x1b", logs.output[0])  # A terminal would obey it.


class MixedUpTests(SimpleTestCase):
    """Code that takes a socket for a request, or a request for a socket, is told so."""

    def assertNote(self, note, caught):
        self.assertEqual(caught.exception.__notes__, [note])

    def test_a_socket_view_has_to_be_mounted_with_websocket(self):
        note = "Mount a socket view with websocket(), not with path()."
        with override_settings(
            ROOT_URLCONF=(path("", show), path("class/", WebSocketView.as_view()))
        ):
            with self.assertRaises(AttributeError) as caught, self.assertLogs("django.request"):
                self.client.get("/")
            self.assertNote(note, caught)
            with self.assertRaises(TypeError) as error, self.assertLogs("django.request"):
                self.client.get("/class/")
            self.assertIn("Mount a WebSocketView with websocket()", str(error.exception))

    async def test_a_page_has_to_be_mounted_with_path(self):
        def page(request):
            return HttpResponse(request.POST["name"])

        with self.assertRaises(AttributeError) as caught, self.assertLogs("django.request"):
            async with connect_to(page):
                pass
        self.assertNote(
            "A socket is not a request: use `socket.request`, or mount a page's view with path().",
            caught,
        )

    def test_an_attribute_that_neither_has_is_another_mistake(self):
        def page(request):
            return HttpResponse(request.nothing)

        with (
            override_settings(ROOT_URLCONF=(path("", page),)),
            self.assertRaises(AttributeError) as caught,
            self.assertLogs("django.request"),
        ):
            self.client.get("/")
        self.assertFalse(hasattr(caught.exception, "__notes__"))


@override_settings(ROOT_URLCONF=__name__)
class PlainRequestTests(SimpleTestCase):
    def test_a_handshake_that_came_as_a_plain_request_is_logged_with_what_to_do(self):
        with self.assertLogs("django.websocket", "WARNING") as logs:
            response = self.client.get("/ws/", HTTP_UPGRADE="websocket")
        self.assertEqual(response.status_code, 426)
        self.assertIn("uvicorn[standard]", logs.output[0])

    def test_a_path_starts_no_line_of_the_log(self):
        with self.assertLogs("django.websocket", "WARNING") as logs:
            self.client.get("/caf%C3%A9/a%0aERROR/", HTTP_UPGRADE="websocket")
        self.assertTrue(logs.output[0].endswith(": /caf%C3%A9/a%0AERROR/"), logs.output)

    def test_a_socket_answers_a_plain_request_with_426(self):
        for method in (self.client.get, self.client.post, self.client.head):
            response = method("/ws/", HTTP_ACCEPT="text/html")
            self.assertEqual(response.status_code, 426)
            self.assertEqual(response["Upgrade"], "websocket")

    async def test_it_does_so_under_asgi(self):
        response = await self.async_client.get("/ws/")
        self.assertEqual(response.status_code, 426)

    @override_settings(DEBUG=True)
    def test_a_browser_gets_a_console_while_debugging(self):
        response = self.client.get("/int/1/x", HTTP_ACCEPT="text/html,*/*;q=0.8")
        self.assertEqual(response.status_code, 200)
        self.assertTemplateUsed(response, "websocket/console.html")
        self.assertEqual(response.context["route"], "int/<int:number>/<path:rest>")
        self.assertEqual(response.context["view"], f"{__name__}.show")
        self.assertEqual(response.context["docstring"], "Tell what the URL captured.")
        self.assertTrue(response.context["user"].is_anonymous)
        self.assertEqual(response["Cache-Control"], "no-store, private")
        nonce = response.context["nonce"]
        self.assertIn(f"script-src 'nonce-{nonce}'", response["Content-Security-Policy"])
        self.assertContains(response, f'nonce="{nonce}"')
        # A project that serves no static files sees the console as it is meant to be.
        self.assertContains(response, ".console {")
        self.assertNotContains(response, "/static/")

    @override_settings(DEBUG=True)
    def test_the_consoles_heading_is_the_path_where_the_route_is_a_regular_expression(self):
        response = self.client.get("/re/2026/", HTTP_ACCEPT="text/html")
        self.assertContains(response, "<h1>re/2026/</h1>", html=True)

    @override_settings(DEBUG=True)
    def test_the_console_can_ask_why_a_handshake_was_refused(self):
        def ask(path, since):
            response = self.client.get(path, HTTP_X_REFUSED_SINCE=since)
            return response.content.decode(), response["X-Refused"]

        _, known = ask("/ws/", "0")
        count_refusal("/ws/", 404)
        count_refusal("/elsewhere/", 403)
        why, now = ask("/ws/", known)
        self.assertEqual(why, "404 Not Found")
        self.assertEqual(ask("/ws/", now), ("", now))
        self.assertEqual(ask("/ws/", "x")[0], "404 Not Found")

    @override_settings(DEBUG=True)
    async def test_it_can_for_a_path_that_is_not_ascii(self):
        def forbid(socket, name):
            raise PermissionDenied

        with override_settings(ROOT_URLCONF=(websocket("rooms/<name>/", forbid),)):
            with self.assertRaises(HandshakeRefused):
                async with connect("/rooms/café 1/"):
                    pass
            get = sync_to_async(self.client.get)
            response = await get("/rooms/café 1/", HTTP_X_REFUSED_SINCE="0")
        self.assertEqual(response.content, b"403 Forbidden")

    def test_nobody_else_can(self):
        response = self.client.get("/ws/", HTTP_X_REFUSED_SINCE="0")
        self.assertEqual(response.status_code, 426)

    @override_settings(DEBUG=True)
    def test_what_is_no_browser_gets_none(self):
        self.assertEqual(self.client.get("/ws/").status_code, 426)
        for accept in ("*/*", "application/json"):
            self.assertEqual(self.client.get("/ws/", HTTP_ACCEPT=accept).status_code, 426)
        response = self.client.post("/ws/", HTTP_ACCEPT="text/html")
        self.assertEqual(response.status_code, 426)
