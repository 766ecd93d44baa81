"""App configuration of the shop's orders."""

from django.apps import AppConfig


class OrdersConfig(AppConfig):
    name = "orders"
