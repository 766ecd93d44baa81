"""E-mails in the admin, read-only."""

from django.contrib import admin
from django.http import HttpRequest

from .models import Mail


@admin.register(Mail)
class MailAdmin(admin.ModelAdmin):
    list_display = ("id", "recipient", "subject", "created_at", "sent_at")
    list_filter = ("sent_at",)
    search_fields = ("=order__id", "recipient")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Mail | None = None) -> bool:
        return False
