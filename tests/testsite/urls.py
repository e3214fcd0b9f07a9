"""A socket for each view, under its name, and the pages."""

from django.urls import path
from websocket.urls import websocket

from testsite import views

SOCKETS = [
    views.echo,
    views.sluggish,
    views.forbidden,
    views.members,
    views.stay,
    views.hold_up,
    views.blocked,
    views.unavailable,
    views.streamed,
    views.streamed_async,
    views.unrenderable,
    views.unreadable,
    views.visits,
    views.hesitant,
    views.tardy,
    views.work,
    views.push,
    views.sleep,
    views.nap,
    views.wait,
    views.thread,
    views.flood,
    views.give,
    views.busy,
    views.late,
    views.chat,
    views.read,
    views.two_ways,
    views.subclass,
    views.fail_before,
    views.fail_after,
    views.fail_in_task,
    views.fail_by_cancelled,
    views.fail_in_finally,
    views.fail_in_decorator,
    views.fail_in_async_decorator,
]

urlpatterns = [
    *(websocket(f"{view.__name__}/", view) for view in SOCKETS),
    websocket("named/<name>/", views.named),
    websocket("read-rows/<database>/", views.read_rows),
    path("deactivate/<name>/", views.deactivate),
    path("log-in/<name>/", views.log_in),
    path("log-out/", views.log_out),
    path("release/", views.release),
    path("state/", views.state),
]
