"""Place orders: the only place that writes them."""

from django.db import transaction

from django_outbox import publish

from .catalogue import PRICES, Item
from .models import Order


def place_order(customer: str, item: str, quantity: int) -> Order:
    """Save the order and its message in one transaction: both exist, or neither does.

    The key is the order's number, so that messages about one order are handled in sequence.
    """
    with transaction.atomic():
        order = Order.objects.create(
            customer=customer, item=item, quantity=quantity, amount=PRICES[Item(item)] * quantity
        )
        publish(
            "order.created",
            {
                "order_id": order.pk,
                "customer": order.customer,
                "item": order.item,
                "quantity": order.quantity,
                "amount": str(order.amount),
            },
            key=str(order.pk),
        )
    return order
