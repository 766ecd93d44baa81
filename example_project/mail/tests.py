"""The customer's e-mails: queued by handlers, sent later, at least once."""

import uuid
from io import StringIO
from smtplib import SMTPServerDisconnected
from unittest import mock

from django.core import mail as django_mail
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.test import TestCase

from django_outbox import Event
from orders.models import Order

from .handlers import announce, confirm
from .models import Mail
from .sending import send_queued


def event_of(event_type: str, **payload: object) -> Event:
    order = Order.objects.create(customer="ada@example.com", item="teapot", quantity=2, amount=49)
    return Event(
        type=event_type,
        id=str(uuid.uuid4()),
        key=str(order.pk),
        payload={"order_id": order.pk, "customer": order.customer, **payload},
    )


class HandlerTests(TestCase):
    def test_handlers_only_queue(self):
        confirm(event_of("order.created", amount="49.00"))
        announce(event_of("order.shipped", grams=1_800))

        self.assertEqual(django_mail.outbox, [])
        first, second = Mail.objects.filter(sent_at=None).order_by("pk")
        self.assertIn("49.00", first.body)
        self.assertIn("1800 g", second.body)


class SendTests(TestCase):
    def setUp(self):
        self.event = event_of("order.created", amount="49.00")
        confirm(self.event)

    def test_sends_each_mail_and_only_once(self):
        self.assertEqual(send_queued(), 1)
        self.assertEqual(send_queued(), 0)

        (sent,) = django_mail.outbox
        self.assertEqual(sent.to, ["ada@example.com"])
        self.assertIsNotNone(Mail.objects.get().sent_at)

    def test_a_mail_that_could_not_be_sent_stays_queued(self):
        with (
            mock.patch.object(EmailMessage, "send", side_effect=SMTPServerDisconnected),
            self.assertRaises(SMTPServerDisconnected),
        ):
            send_queued()

        self.assertIsNone(Mail.objects.get().sent_at)

    def test_a_repetition_is_recognisable_by_its_message_id(self):
        send_queued()
        Mail.objects.update(sent_at=None)  # as if the process had died before its commit
        send_queued()

        first, second = (message.extra_headers["Message-ID"] for message in django_mail.outbox)
        self.assertEqual(first, second)
        self.assertIn(self.event.id, first)

    def test_the_command_says_how_many(self):
        output = StringIO()
        call_command("send_mails", stdout=output)

        self.assertEqual(output.getvalue(), "Sent: 1\n")
