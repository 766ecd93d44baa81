"""Ship orders."""

from django_outbox import Event, handler, publish

from .models import ParcelWeight, Shipment


@handler("order.created")
def ship(event: Event) -> None:
    """Create the shipment and publish `order.shipped`.

    Both are part of the transaction that marks the message as consumed, so that order.shipped exists exactly if the
    shipment does.
    """
    order = event.payload
    weights = dict(ParcelWeight.objects.values_list("item", "grams"))
    # The demo's bug: the shop sells items whose weight is missing here.
    grams = weights[order["item"]] * order["quantity"]
    shipment = Shipment.objects.create(order_id=order["order_id"], grams=grams)
    publish(
        "order.shipped",
        {"order_id": order["order_id"], "customer": order["customer"], "shipment_id": shipment.pk, "grams": grams},
        key=event.key,
    )
