"""The page on Channels: consumers of every kind run unchanged, and what differs, differs so."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from conftest import PATIENCE, Project, run
from services import running_redis
from test_adopting import MySite, paste
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

SETTINGS = """
import os

INSTALLED_APPS += ["channels", "rest_framework", "djangochannelsrestframework"]
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
WEBSOCKET_REDIS_URL = os.environ.get("REDIS_URL", "")
"""

CONSUMERS = """
import json

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.exceptions import DenyConnection
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from django.contrib.auth.models import User
from djangochannelsrestframework.decorators import action
from djangochannelsrestframework.generics import GenericAsyncAPIConsumer
from djangochannelsrestframework.mixins import CreateModelMixin, ListModelMixin
from djangochannelsrestframework.observer import model_observer
from rest_framework import serializers


class RoomConsumer(AsyncWebsocketConsumer):
    async def connect(self):
        self.room_name = self.scope["url_route"]["kwargs"]["room_name"]
        self.group_name = f"room_{self.room_name}"
        await self.channel_layer.group_add(self.group_name, self.channel_name)
        await self.accept()

    async def disconnect(self, close_code):
        await self.send(text_data="Goodbye, whoever is still there.")
        await self.channel_layer.group_discard(self.group_name, self.channel_name)
        await self.channel_layer.group_send(
            self.group_name, {"type": "room.event", "text": f"left: {close_code}"}
        )

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "quit":
            await self.close(code=4001)
            return
        await self.channel_layer.group_send(
            self.group_name,
            {"type": "room.event", "text": text_data, "sender": self.channel_name},
        )

    async def room_event(self, event):
        if event.get("sender") != self.channel_name:
            await self.send(text_data=event["text"])


class ProfileConsumer(WebsocketConsumer):
    groups = ["profiles"]

    def connect(self):
        if not self.scope["user"].is_authenticated:
            raise DenyConnection()
        self.accept(subprotocol=self.scope["subprotocols"][0], headers=[(b"x-kind", b"sync")])

    def receive(self, text_data=None, bytes_data=None):
        if bytes_data is not None:
            self.send(bytes_data=bytes_data[::-1])
            return
        user = User.objects.get(pk=self.scope["user"].pk)
        self.scope["session"]["visits"] = self.scope["session"].get("visits", 0) + 1
        self.scope["session"].save()
        visits = self.scope["session"]["visits"]
        cookies = sorted(self.scope["cookies"])
        async_to_sync(self.channel_layer.group_send)(
            "profiles",
            {"type": "profile.shown", "profile": [user.username, visits, cookies]},
        )

    def profile_shown(self, event):
        self.send(text_data=json.dumps(event["profile"]))


class SumConsumer(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content, **kwargs):
        count = await database_sync_to_async(User.objects.count)()
        await self.send_json({"sum": sum(content["numbers"]), "users": count})


class SyncSumConsumer(JsonWebsocketConsumer):
    def receive_json(self, content, **kwargs):
        self.send_json({"sum": sum(content["numbers"]), "users": User.objects.count()})


class UserSerializer(serializers.ModelSerializer):
    class Meta:
        model = User
        fields = ["username"]


class UserConsumer(ListModelMixin, CreateModelMixin, GenericAsyncAPIConsumer):
    queryset = User.objects.order_by("pk")
    serializer_class = UserSerializer

    @model_observer(User)
    async def user_changed(self, message, action=None, **kwargs):
        await self.send_json({"changed": message["username"], "action": action})

    @user_changed.serializer
    def user_changed(self, instance, action, **kwargs):
        return {"username": instance.username}

    @action()
    async def watch(self, **kwargs):
        await self.user_changed.subscribe()
        return {}, 200
"""

URLS = r"""
from mysite import consumers
from mysite.adapter import run_consumer
from websocket.groups import apublish
from websocket.urls import re_websocket

for route, consumer in [
    (r"^ws/room/(?P<room_name>\w+)/$", consumers.RoomConsumer),
    (r"^ws/profile/$", consumers.ProfileConsumer),
    (r"^ws/sum/$", consumers.SumConsumer),
    (r"^ws/sync-sum/$", consumers.SyncSumConsumer),
    (r"^ws/users/$", consumers.UserConsumer),
]:
    urlpatterns.append(re_websocket(route, run_consumer(consumer.as_asgi())))


async def early(socket):
    await socket.join("room.lobby")
    await socket.accept()


async def late(socket):
    await socket.accept()
    try:
        async for _ in socket:
            pass
    finally:
        await socket.send_text("Goodbye.")


async def both(socket):
    await socket.accept()
    await socket.join("room.lobby")
    await apublish("room.lobby", "published")
    await socket.send_text("sent")


urlpatterns += [websocket(f"{view.__name__}/", view) for view in (early, late, both)]
"""

LOG_IN = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.create_user("anna"))
print(client.cookies["sessionid"].value)
"""


@pytest.fixture(scope="module")
def site(neighbours: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A site of Channels' consumers, into which the page's blocks have been pasted."""
    folder = tmp_path_factory.mktemp("channels") / "site"
    folder.mkdir()
    run(neighbours.python, "-m", "django", "startproject", "mysite", folder, cwd=folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(neighbours.path / "websocket", folder / "websocket", ignore=ignored)
    for page in ("adopting.md", "from-channels.md"):
        paste(neighbours.path / "docs" / page, folder)
    (folder / "mysite" / "consumers.py").write_text(CONSUMERS)
    for name, text in (("settings.py", SETTINGS), ("urls.py", URLS)):
        with (folder / "mysite" / name).open("a") as file:
            file.write(text)
    site = Project(folder, neighbours.python)
    site.run("manage.py", "migrate")
    return site


@pytest.fixture(scope="module")
def server(site: Project) -> Iterator[MySite]:
    server = MySite(site, (), {})
    try:
        yield server
        server.stop()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def cookie(site: Project) -> dict[str, str]:
    key = site.run("manage.py", "shell", "-c", LOG_IN).stdout.split()[-1]
    return {"Cookie": f"sessionid={key}"}


def ask(client: ClientConnection, value: object) -> object:
    """Send a value as JSON, and return the answer's."""
    client.send(json.dumps(value))
    return json.loads(client.recv(timeout=PATIENCE))


def close_code(client: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=PATIENCE)
    return closed.value.rcvd.code


def test_an_async_consumer_talks_to_its_group_until_either_side_closes(server: MySite) -> None:
    url = f"{server.ws}/ws/room/lobby/"
    with connect(url) as anna:
        with connect(url) as ben, connect(url) as carol:
            ben.send("hello")
            for client in (anna, carol):
                assert client.recv(timeout=PATIENCE) == "hello"
            carol.send("quit")
            assert close_code(carol) == 4001
            for client in (anna, ben):
                assert client.recv(timeout=PATIENCE) == "left: 4001"
        assert anna.recv(timeout=PATIENCE) == "left: 1000"


def test_a_sync_consumer_has_the_user_the_session_the_cookies_and_the_subprotocols(
    server: MySite, cookie: dict[str, str]
) -> None:
    url = f"{server.ws}/ws/profile/"
    with pytest.raises(InvalidStatus, match="403"):
        connect(url, subprotocols=["profile"])
    with connect(url, additional_headers=cookie, subprotocols=["profile"]) as client:
        assert client.subprotocol == "profile"
        assert client.response.headers["x-kind"] == "sync"
        for visits in (1, 2):
            client.send("?")
            profile = json.loads(client.recv(timeout=PATIENCE))
            assert profile == ["anna", visits, ["sessionid"]]
        client.send(b"abc")
        assert client.recv(timeout=PATIENCE) == b"cba"


@pytest.mark.parametrize("name", ["sum", "sync-sum"])
def test_a_json_consumer_answers(server: MySite, cookie: dict[str, str], name: str) -> None:
    with connect(f"{server.ws}/ws/{name}/", additional_headers=cookie) as client:
        answer = ask(client, {"numbers": [1, 2, 3]})
        assert answer["sum"] == 6
        assert answer["users"] >= 1


def test_a_rest_consumer_lists_creates_and_observes(server: MySite, cookie: dict[str, str]) -> None:
    url = f"{server.ws}/ws/users/"
    with connect(url, additional_headers=cookie) as client, connect(url) as observer:
        assert ask(observer, {"action": "watch", "request_id": 1})["response_status"] == 200
        data = {"username": "dora"}
        created = ask(client, {"action": "create", "request_id": 2, "data": data})
        assert (created["response_status"], created["data"]) == (201, data)
        changed = json.loads(observer.recv(timeout=PATIENCE))
        assert changed == {"changed": "dora", "action": "create"}
        listed = ask(client, {"action": "list", "request_id": 3})
        assert {user["username"] for user in listed["data"]} >= {"anna", "dora"}


def test_joining_before_the_accept_is_refused_and_sending_after_the_end_is_not_an_error(
    server: MySite,
) -> None:
    with pytest.raises(InvalidStatus, match="500"):
        connect(f"{server.ws}/early/")
    server.wait_for("RuntimeError: Cannot join a group")
    before = server.log().count("Traceback")
    with connect(f"{server.ws}/late/"):
        pass
    server.wait_for("WebSocket /late/ 127.0.0.1 - 1000")
    assert server.log().count("Traceback") == before


def test_what_a_view_publishes_to_its_own_group_comes_before_what_it_sends_next(
    server: MySite,
) -> None:
    with connect(f"{server.ws}/both/") as client:
        assert [client.recv(timeout=PATIENCE) for _ in range(2)] == ["published", "sent"]


def test_a_management_command_works_for_sockets(site: Project) -> None:
    with running_redis() as redis:
        server = MySite(site, (), {"REDIS_URL": redis.url})
        worker = subprocess.Popen(
            [site.python, "manage.py", "count"],
            cwd=site.path,
            encoding="utf-8",
            env={**site.env, "PYTHONUNBUFFERED": "1", "REDIS_URL": redis.url},
            stdout=subprocess.PIPE,
        )
        try:
            assert worker.stdout.readline() == "Ready.\n"
            with connect(f"{server.ws}/ws/count/") as one, connect(f"{server.ws}/ws/count/") as two:
                for client, text, words in ((one, "one two", 2), (two, "one", 1)):
                    client.send(text)
                    assert json.loads(client.recv(timeout=PATIENCE)) == {"words": words}
            server.stop()
        finally:
            worker.kill()
            worker.communicate()
            server.kill()
