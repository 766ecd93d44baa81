"""Shipping's handler: what it writes on success, and that it writes nothing on failure."""

from io import StringIO

from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import TestCase

from django_outbox import Event
from django_outbox.models import OutboxMessage
from orders.models import Order

from .handlers import ship
from .models import ParcelWeight, Shipment


def order_created(item: str) -> Event:
    order = Order.objects.create(customer="ada@example.com", item=item, quantity=2, amount=10)
    payload = {"order_id": order.pk, "customer": order.customer, "item": item, "quantity": 2}
    return Event(type="order.created", payload=payload, key=str(order.pk))


class ShipTests(TestCase):
    def test_creates_the_shipment_and_announces_it_under_the_same_key(self):
        event = order_created("teapot")

        ship(event)

        shipment = Shipment.objects.get()
        self.assertEqual(shipment.grams, 1_800)
        message = OutboxMessage.objects.get()
        self.assertEqual(message.event_type, "order.shipped")
        self.assertEqual(message.message_key, event.key)
        self.assertEqual(message.payload["shipment_id"], shipment.pk)

    def test_an_item_that_nobody_weighed_fails_and_leaves_nothing(self):
        event = order_created("grand-piano")

        with self.assertRaisesMessage(KeyError, "grand-piano"), transaction.atomic():
            ship(event)

        self.assertFalse(Shipment.objects.exists())
        self.assertFalse(OutboxMessage.objects.exists())


class SetParcelWeightTests(TestCase):
    def test_makes_the_item_shippable(self):
        output = StringIO()
        call_command("set_parcel_weight", "grand-piano", "310000", stdout=output)

        ship(order_created("grand-piano"))

        self.assertEqual(output.getvalue(), "One grand-piano weighs 310000 g.\n")
        self.assertEqual(Shipment.objects.get().grams, 620_000)

    def test_replaces_an_earlier_weight(self):
        call_command("set_parcel_weight", "teapot", "1000", stdout=StringIO())

        self.assertEqual(ParcelWeight.objects.get(item="teapot").grams, 1_000)

    def test_refuses_a_weightless_parcel(self):
        with self.assertRaisesMessage(CommandError, "grams must be greater than 0, got 0."):
            call_command("set_parcel_weight", "teapot", "0")
