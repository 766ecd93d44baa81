"""django-kafka-outbox."""

from __future__ import annotations

from django.core.management import call_command
from django.db.models import Q

from benchmarks.payloads import key, payload
from django_outbox import Event, publish, publish_many
from django_outbox.models import OutboxMessage

MODEL = OutboxMessage
SENT = Q(status="published")
EVENT_TYPE = "bench.peer"


def write(number: int) -> None:
    publish(EVENT_TYPE, payload(number), key=key(number))


def write_many(numbers: range) -> None:
    publish_many([Event(type=EVENT_TYPE, payload=payload(number), key=key(number)) for number in numbers])


def relay() -> None:
    call_command("outbox_relay", "--drain")
