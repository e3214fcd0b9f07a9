"""The chat in the admin: create rooms, and delete messages, also from every open page."""

from django.contrib import admin
from django.http import HttpRequest

from chat.models import Message, Room


@admin.register(Room)
class RoomAdmin(admin.ModelAdmin):
    list_display = ["name", "slug"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Message)
class MessageAdmin(admin.ModelAdmin):
    """Messages can be read and deleted. See chat.signals for how they leave the open pages."""

    date_hierarchy = "sent_at"
    list_display = ["text", "user", "room", "sent_at"]
    list_filter = ["room"]
    list_select_related = ["room", "user"]
    search_fields = ["text", "user__username"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Message | None = None) -> bool:
        return False
