"""Orders of the example shop."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from .catalogue import Item


class Order(models.Model):
    """A customer's order of one item."""

    customer = models.EmailField("e-mail")
    item = models.CharField(max_length=40, choices=Item)
    quantity = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1), MaxValueValidator(100)])
    amount = models.DecimalField(max_digits=10, decimal_places=2, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"Order {self.pk}: {self.quantity} x {self.get_item_display()}"
