"""Queue the customer's e-mails.

The handlers only write rows. A handler that sent an e-mail itself would send it again whenever its transaction is rolled
back and retried: after a deadlock, after the process died before the commit, or if another handler of the event failed. A
row is rolled back with the transaction.
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
