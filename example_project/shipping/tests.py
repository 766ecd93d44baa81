"""Shipping's handler: what it writes on success, and that it writes nothing on failure."""

from io import StringIO

from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import TestCase

from django_outbox import Event
from django_outbox.testing import OutboxTestMixin
from mail.models import Mail
from orders.models import Order
from orders.services import place_order

from .handlers import ship
from .models import ParcelWeight, Shipment


def order_created(item: str) -> Event:
    order = Order.objects.create(customer="ada@example.com", item=item, quantity=2, amount=10)
    payload = {"order_id": order.pk, "customer": order.customer, "item": item, "quantity": 2}
    return Event(type="order.created", payload=payload, key=str(order.pk))


class ShipTests(OutboxTestMixin, TestCase):
    def test_creates_the_shipment_and_announces_it_under_the_same_key(self):
        event = order_created("teapot")

        ship(event)

        shipment = Shipment.objects.get()
        self.assertEqual(shipment.grams, 1_800)
        self.assert_published("order.shipped", key=event.key, payload__contains={"shipment_id": shipment.pk}, count=1)

    def test_an_item_that_nobody_weighed_fails_and_leaves_nothing(self):
        event = order_created("grand-piano")

        with self.assertRaisesMessage(KeyError, "grand-piano"), transaction.atomic():
            ship(event)

        self.assertFalse(Shipment.objects.exists())
        self.assert_nothing_published()


class WholeWayTests(OutboxTestMixin, TestCase):
    def test_an_order_is_shipped_and_the_customer_hears_of_both(self):
        order = place_order("ada@example.com", "teapot", 2)
        self.drain()

        self.assertEqual(Shipment.objects.get().order_id, order.pk)
        self.assertEqual(Mail.objects.filter(order_id=order.pk).count(), 2)

    def test_a_second_try_ships_and_writes_nothing_twice(self):
        place_order("ada@example.com", "teapot", 2)
        with self.fail_once(ship), self.assertLogs("django_outbox"):
            self.drain()

        self.assertEqual(Shipment.objects.count(), 1)
        self.assert_published("order.shipped", count=1)
        self.assertEqual(Mail.objects.count(), 2)

    def test_an_order_waits_until_its_parcel_is_weighed(self):
        place_order("ada@example.com", "grand-piano", 1)
        with self.assertLogs("django_outbox"):
            self.assertEqual(self.drain(max_wait=0).consumed, 0)

        call_command("set_parcel_weight", "grand-piano", "310000", stdout=StringIO())
        self.drain()

        self.assertEqual(Shipment.objects.get().grams, 310_000)


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
