"""Pick the items of the shop's orders.

The shop's events have no row in this project's outbox, so they go through its inbox: each is handled once and retried
from there, independently of the shop.
"""

from django_outbox import Event, handler

from .models import Pick


@handler("order.created", topic="shop.orders")
def pick(event: Event) -> None:
    order = event.payload
    Pick.objects.create(order_id=order["order_id"], item=order["item"], quantity=order["quantity"])
