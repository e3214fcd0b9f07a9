"""The chat's URLs: its pages, the login and logout, and the socket."""

from django.conf import settings
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from chat.views import RoomsView, RoomView, room_socket
from websocket.urls import websocket

app_name = "chat"
urlpatterns = [
    path("", RoomsView.as_view(), name="rooms"),
    path(
        "login/",
        LoginView.as_view(template_name="chat/login.html", extra_context={"settings": settings}),
        name="login",
    ),
    path("logout/", LogoutView.as_view(next_page="chat:login"), name="logout"),
    path("rooms/<slug:slug>/", RoomView.as_view(), name="room"),
    websocket("rooms/<slug:slug>/ws/", room_socket, name="socket"),
]
