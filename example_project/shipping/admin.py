"""Shipments and weights in the admin."""

from django.contrib import admin

from .models import ParcelWeight, Shipment


@admin.register(ParcelWeight)
class ParcelWeightAdmin(admin.ModelAdmin):
    list_display = ("item", "grams")
    search_fields = ("item",)


@admin.register(Shipment)
class ShipmentAdmin(admin.ModelAdmin):
    list_display = ("id", "order", "grams", "created_at")
    list_select_related = ("order",)
    search_fields = ("=order__id",)
