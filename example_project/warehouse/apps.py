"""App configuration of the warehouse."""

from django.apps import AppConfig


class WarehouseConfig(AppConfig):
    name = "warehouse"
