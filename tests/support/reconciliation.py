"""What a consumer compares with the broker: messages that were published some time ago."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from django_outbox.models import OutboxMessage
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, Status, make_message


def published_ago(age: timedelta, **fields: Any) -> OutboxMessage:
    """A message that was published so long ago, at the first offset unless another is given."""
    values = {"partition": 0, "offset": 0, "published_at": timezone.now() - age, **fields}
    return make_message(Status.PUBLISHED, **values)


def look(pipeline: Pipeline, clock: Clock) -> None:
    """Let the consumer compare once more."""
    clock.now += 30
    pipeline.consumer.run_once()
