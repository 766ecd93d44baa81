"""django-reliable-outbox, with its destination for Kafka."""

from __future__ import annotations

from django.core.management import call_command
from django.db.models import Q
from reliable_outbox import publish
from reliable_outbox.models import OutboxMessage

from benchmarks.payloads import key, payload

MODEL = OutboxMessage
SENT = Q(status="delivered")


def write(number: int) -> None:
    publish("bench.peer", payload(number), key=key(number))


def relay(*options: str) -> None:
    call_command("outbox_worker", "--burst", *options)
