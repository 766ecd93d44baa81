"""An order and its message exist together or not at all, and the pages show both."""

from http import HTTPStatus
from unittest import mock

from django.db import DatabaseError, transaction
from django.test import TestCase, TransactionTestCase
from django.urls import reverse

from django_outbox.testing import OutboxTestMixin

from . import services
from .models import Order
from .services import place_order


class PlaceOrderTests(OutboxTestMixin, TestCase):
    def test_saves_the_order_and_its_message(self):
        order = place_order("ada@example.com", "teapot", 2)

        self.assert_published(
            "order.created",
            key=order.pk,
            topic="shop.orders",
            count=1,
            payload={
                "order_id": order.pk,
                "customer": "ada@example.com",
                "item": "teapot",
                "quantity": 2,
                "amount": "49.00",
            },
        )

    def test_no_message_without_an_order(self):
        with (
            mock.patch.object(Order.objects, "create", side_effect=DatabaseError("disk full")),
            self.assertRaises(DatabaseError),
        ):
            place_order("ada@example.com", "teapot", 2)

        self.assert_nothing_published()


class RealTransactionTests(OutboxTestMixin, TransactionTestCase):
    def test_no_order_without_a_message(self):
        with (
            mock.patch.object(services, "publish", side_effect=DatabaseError("disk full")),
            self.assertRaises(DatabaseError),
        ):
            place_order("ada@example.com", "teapot", 2)

        self.assertFalse(Order.objects.exists())

    def test_a_caller_that_rolls_back_takes_both_with_it(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            place_order("ada@example.com", "teapot", 2)
            _ = 1 / 0

        self.assertFalse(Order.objects.exists())
        self.assert_nothing_published()


class PageTests(OutboxTestMixin, TestCase):
    def test_the_form_places_an_order_and_the_page_shows_its_message(self):
        response = self.client.post(
            reverse("orders:index"),
            {"customer": "ada@example.com", "item": "desk-lamp", "quantity": "3"},
            follow=True,
        )

        self.assertContains(response, "3 &times; Desk lamp")
        self.assertContains(response, "order.created")
        self.assertContains(response, '<span class="state pending">pending</span>', count=2)

    def test_a_bad_order_is_refused_with_its_reason(self):
        response = self.client.post(reverse("orders:index"), {"customer": "ada", "item": "yacht", "quantity": "0"})

        self.assertEqual(response.status_code, HTTPStatus.UNPROCESSABLE_ENTITY)
        self.assertContains(response, "valid email", status_code=HTTPStatus.UNPROCESSABLE_ENTITY)
        self.assertFalse(Order.objects.exists())
        self.assert_nothing_published()

    def test_a_dead_message_is_shown_with_its_reason_and_the_way_to_the_admin(self):
        place_order("ada@example.com", "grand-piano", 1)  # an item that shipping has no weight of
        with self.assertLogs("django_outbox", "ERROR"):
            (message,) = self.drain(raise_errors=False).dead

        response = self.client.get(reverse("orders:list"))

        self.assertContains(response, "KeyError: &#x27;grand-piano&#x27;")
        self.assertContains(response, reverse("admin:django_outbox_deadletter_change", args=[message.pk]))

    def test_the_list_for_programs(self):
        order = place_order("ada@example.com", "umbrella", 1)

        listed = self.client.get(reverse("orders:json")).json()["orders"]

        self.assertEqual([entry["id"] for entry in listed], [order.pk])
        self.assertEqual(listed[0]["customer"], "ada@example.com")
        self.assertEqual(listed[0]["item"], "Umbrella")
        self.assertEqual(listed[0]["mails_sent"], 0)
        self.assertEqual(
            [(message["type"], message["status"]) for message in listed[0]["messages"]],
            [("order.created", "pending")],
        )

    def test_the_list_costs_the_same_for_one_order_as_for_many(self):
        for _ in range(5):
            place_order("ada@example.com", "umbrella", 1)

        with self.assertNumQueries(3):
            self.client.get(reverse("orders:list"))
