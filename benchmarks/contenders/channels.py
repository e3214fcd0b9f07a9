"""Django Channels, as its documentation shows it: async consumers, and its ASGI application."""

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "contenders.settings")

from django.core.asgi import get_asgi_application

http = get_asgi_application()

from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.urls import path


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        await self.send(text_data=text_data)


class Join(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"].get("room", "room")
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send(text_data="joined")

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["message"])


class Publish(AsyncWebsocketConsumer):
    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        event = {"type": "room.message", "message": text_data}
        await self.channel_layer.group_send("room", event)


websocket_urlpatterns = [
    path("ws/", Echo.as_asgi()),
    path("join/", Join.as_asgi()),
    path("join/<str:room>/", Join.as_asgi()),
    path("publish/", Publish.as_asgi()),
]
consumers = URLRouter(websocket_urlpatterns)
if settings.MIDDLEWARE:
    # Its documentation's own middleware; the other scenario is the handshake without any.
    consumers = AllowedHostsOriginValidator(AuthMiddlewareStack(consumers))

application = ProtocolTypeRouter({"http": http, "websocket": consumers})
