"""What the warehouse does when it hears of an order.

The shop's events have no row in this project's outbox, so they come through its inbox: each is
handled once, and retried from there, whatever the shop does meanwhile.
"""

from django_outbox import Event, handler

from .models import Pick


@handler("order.created", topic="shop.orders")
def pick(event: Event) -> None:
    order = event.payload
    Pick.objects.create(order_id=order["order_id"], item=order["item"], quantity=order["quantity"])
