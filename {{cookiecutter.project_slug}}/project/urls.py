"""The site's URLs, pages and sockets alike."""

from django.contrib import admin
from django.urls import path

from users.views import IndexView, echo
from websocket.urls import websocket

urlpatterns = [
    path("", IndexView.as_view(), name="index"),
    path("admin/", admin.site.urls),
    websocket("ws/", echo, name="echo"),
]
