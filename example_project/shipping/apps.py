"""App configuration of the shop's shipping."""

from django.apps import AppConfig


class ShippingConfig(AppConfig):
    name = "shipping"
