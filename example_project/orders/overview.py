"""The latest orders, each with its messages and the results of their handlers."""

from collections import defaultdict
from dataclasses import dataclass

from django_outbox.models import OutboxMessage

from .models import Order

SHOWN = 50


@dataclass(frozen=True, slots=True)
class OrderRow:
    """One line of the order list."""

    order: Order
    messages: list[OutboxMessage]
    grams: int | None
    mails_sent: int
    mails_queued: int

    def as_json(self) -> dict[str, object]:
        return {
            "id": self.order.pk,
            "customer": self.order.customer,
            "item": self.order.get_item_display(),
            "quantity": self.order.quantity,
            "grams": self.grams,
            "mails_sent": self.mails_sent,
            "mails_queued": self.mails_queued,
            "messages": [
                {
                    "id": message.pk,
                    "type": message.event_type,
                    "status": message.status,
                    "retry_count": message.retry_count,
                    "max_retry": message.max_retry,
                    "last_error": message.last_error,
                }
                for message in self.messages
            ],
        }


def latest_orders(limit: int = SHOWN) -> list[OrderRow]:
    """Newest first; the number of queries does not depend on the number of orders."""
    orders = Order.objects.select_related("shipment").prefetch_related("mails").order_by("-pk")
    orders = list(orders[:limit])
    messages: dict[str, list[OutboxMessage]] = defaultdict(list)
    keys = [str(order.pk) for order in orders]
    for message in OutboxMessage.objects.filter(message_key__in=keys, event_type__startswith="order.").order_by("pk"):
        messages[message.message_key].append(message)
    return [_row(order, messages[str(order.pk)]) for order in orders]


def _row(order: Order, messages: list[OutboxMessage]) -> OrderRow:
    shipment = getattr(order, "shipment", None)
    mails = order.mails.all()
    sent = sum(mail.sent_at is not None for mail in mails)
    return OrderRow(
        order=order,
        messages=messages,
        grams=shipment.grams if shipment else None,
        mails_sent=sent,
        mails_queued=len(mails) - sent,
    )
