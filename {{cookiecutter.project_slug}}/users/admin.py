"""Users in the admin, and the notes on the index page's wall."""

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangosUserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest

from users.models import Note, User
from websocket.auth import disconnect
from websocket.groups import PublishError

admin.site.register(Note)


@admin.register(User)
class UserAdmin(DjangosUserAdmin):  # type: ignore[type-arg]
    actions = ["close_sockets"]

    def close_sockets(self, request: HttpRequest, users: QuerySet[User]) -> None:
        """Close the selected users' sockets. Users who can still log in can connect again."""
        try:
            for user in users:
                disconnect(user)
        except PublishError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, "The sockets are disconnected.")

    # In Django 3.2 and later there is a decorator for it, @admin.action.
    close_sockets.allowed_permissions = ["change"]  # type: ignore[attr-defined]
    close_sockets.short_description = (  # type: ignore[attr-defined]
        "Disconnect the sockets of selected users"
    )
