"""Orders in the admin, read-only: they are placed through the shop."""

from django.contrib import admin
from django.http import HttpRequest

from .models import Order


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ("id", "customer", "item", "quantity", "amount", "created_at")
    list_filter = ("item",)
    search_fields = ("=id", "customer")

    def has_add_permission(self, request: HttpRequest) -> bool:
        # An order added here would be saved without its message.
        return False

    def has_change_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False
