from django.db import models


class Pick(models.Model):
    """An item to fetch from the shelves for an order of the shop."""

    order_id = models.BigIntegerField(unique=True)
    item = models.CharField(max_length=100)
    quantity = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.quantity} x {self.item} for order {self.order_id}"
