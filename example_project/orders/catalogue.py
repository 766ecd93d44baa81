"""The shop's items and their prices."""

from decimal import Decimal

from django.db import models


class Item(models.TextChoices):
    TEAPOT = "teapot", "Teapot"
    DESK_LAMP = "desk-lamp", "Desk lamp"
    COOKBOOK = "cookbook", "Cookbook"
    UMBRELLA = "umbrella", "Umbrella"
    GRAND_PIANO = "grand-piano", "Grand piano"
    AQUARIUM = "aquarium", "Aquarium"


PRICES = {
    Item.TEAPOT: Decimal("24.50"),
    Item.DESK_LAMP: Decimal("39.00"),
    Item.COOKBOOK: Decimal("19.90"),
    Item.UMBRELLA: Decimal("15.00"),
    Item.GRAND_PIANO: Decimal("8900.00"),
    Item.AQUARIUM: Decimal("120.00"),
}
