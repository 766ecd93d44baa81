"""Shipments and the weights of items."""

from django.db import models


class ParcelWeight(models.Model):
    """The weight of one packed item, in shipping's own table."""

    item = models.CharField(max_length=40, unique=True)
    grams = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.item}: {self.grams} g"


class Shipment(models.Model):
    """A parcel on its way to a customer."""

    order = models.OneToOneField("orders.Order", on_delete=models.CASCADE, related_name="shipment")
    grams = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"Shipment of order {self.order_id}"
