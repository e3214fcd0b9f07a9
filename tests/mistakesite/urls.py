"""The mistakes by their names."""

from django.urls import path
from websocket.urls import websocket

from mistakesite import views

MOUNTED_WITH_PATH = ("mounted_with_path", "ClassMountedWithPath")

urlpatterns = [
    path("mounted_with_path/", views.mounted_with_path),
    path("ClassMountedWithPath/", views.ClassMountedWithPath.as_view()),
    *(
        websocket(f"{name}/", view.as_view() if isinstance(view, type) else view)
        for name, view in vars(views).items()
        if getattr(view, "__module__", "") == views.__name__ and name not in MOUNTED_WITH_PATH
    ),
]
