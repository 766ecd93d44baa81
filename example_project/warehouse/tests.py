"""The warehouse's handler gets orders of the shop, through the inbox. Run with its settings (see README.rst)."""

from unittest import SkipTest

from django.apps import apps
from django.test import TestCase

from django_outbox.testing import OutboxTestMixin

if not apps.is_installed("warehouse"):
    raise SkipTest("The warehouse is a project of its own: --settings warehouse.settings")

from .models import Pick

ORDER = {"order_id": 7, "customer": "ada@example.com", "item": "teapot", "quantity": 2, "amount": "49.00"}


class PickTests(OutboxTestMixin, TestCase):
    def test_an_order_of_the_shop_is_picked(self):
        self.deliver("order.created", ORDER, source="shop", key=7)

        pick = Pick.objects.get()
        self.assertEqual((pick.order_id, pick.item, pick.quantity), (7, "teapot", 2))

    def test_an_order_that_kafka_delivers_twice_is_picked_once(self):
        self.deliver("order.created", ORDER, source="shop", key=7, event_id="one")
        self.deliver("order.created", ORDER, source="shop", key=7, event_id="one")

        self.assertEqual(Pick.objects.count(), 1)

    def test_an_order_without_an_item_is_a_dead_letter(self):
        with self.assertLogs("django_outbox"), self.assertRaisesMessage(KeyError, "item"):
            self.deliver("order.created", {"order_id": 7}, source="shop")
