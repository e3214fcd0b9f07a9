"""The site's URLs, pages and sockets alike."""

# jinja: if cookiecutter.chat_example
from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import include, path

# jinja: else
from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import path

# jinja: endif
from users.views import IndexView, clock, echo, wall
from websocket.urls import websocket

urlpatterns = [
    path("", IndexView.as_view(), name="index"),
    path("admin/", admin.site.urls),
    # jinja: if cookiecutter.chat_example
    path("chat/", include("chat.urls")),
    # jinja: endif
    path("logout/", LogoutView.as_view(next_page="index"), name="logout"),
    websocket("clock/", clock, name="clock"),
    websocket("ws/", echo, name="echo"),
    websocket("wall/", wall, name="wall"),
]
