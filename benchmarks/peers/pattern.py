"""django-outbox-pattern: rows are written as its README shows for a logic of one's own, and sent by STOMP."""

from __future__ import annotations

from django.db.models import Q
from django_outbox_pattern.choices import StatusChoice
from django_outbox_pattern.factories import factory_producer
from django_outbox_pattern.models import Published

from benchmarks.payloads import payload

MODEL = Published
SENT = Q(status=StatusChoice.SUCCEEDED)

producer = factory_producer()


def write(number: int) -> None:
    Published.objects.create(destination="/topic/benchmarks", body=payload(number))


def relay() -> None:
    """One round of ``manage.py publish``, which repeats this for ever."""
    producer.publish_message_from_database()
