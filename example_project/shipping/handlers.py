"""What shipping does when it hears of an order."""

from django_outbox import Event, handler, publish

from .models import ParcelWeight, Shipment


@handler("order.created")
def ship(event: Event) -> None:
    """Create the shipment and publish `order.shipped`.

    Both are part of the transaction that marks the message consumed: the next message of a chain
    exists exactly when the work that it reports was committed.
    """
    order = event.payload
    weights = dict(ParcelWeight.objects.values_list("item", "grams"))
    # The bug for the demo to run into: an item that the shop sells but nobody has weighed yet.
    grams = weights[order["item"]] * order["quantity"]
    shipment = Shipment.objects.create(order_id=order["order_id"], grams=grams)
    publish(
        "order.shipped",
        {
            "order_id": order["order_id"],
            "customer": order["customer"],
            "shipment_id": shipment.pk,
            "grams": grams,
        },
        key=event.key,
    )
