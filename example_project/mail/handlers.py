"""Which e-mails the customer gets.

The handlers only write rows. A handler that talked to the mail server itself would send again
whenever its transaction is rolled back after the sending and tried once more: because of a
deadlock, because the process died before the commit, or because another handler of the same event
failed. A row is part of the transaction and disappears with it.
"""

from django_outbox import Event, handler

from .models import Mail


@handler("order.created")
def confirm(event: Event) -> None:
    order_id = event.payload["order_id"]
    _queue(
        event,
        subject=f"We have your order {order_id}",
        body=f"Thank you! We are packing your order {order_id} over {event.payload['amount']}.",
    )


@handler("order.shipped")
def announce(event: Event) -> None:
    order_id = event.payload["order_id"]
    _queue(
        event,
        subject=f"Your order {order_id} is on its way",
        body=f"A parcel of {event.payload['grams']} g has just left for you.",
    )


def _queue(event: Event, *, subject: str, body: str) -> None:
    Mail.objects.create(
        order_id=event.payload["order_id"],
        event_id=event.id,
        recipient=event.payload["customer"],
        subject=subject,
        body=body,
    )
