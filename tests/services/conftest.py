"""Fixtures of the tests with real processes, a real broker and real signals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import transaction

from tests.conftest import BROKERS
from tests.support.processes import Command, wait_until
from tests.support.servers.base import Service


@pytest.fixture
def send(transactional_db: None) -> Callable[..., Any]:
    """Publish an event in a transaction of its own, as an application does."""
    from django_outbox import publish

    def send(event_type: str, payload: Any = None, **options: Any) -> Any:
        with transaction.atomic():
            return publish(event_type, payload, **options)

    return send


@pytest.fixture
def counts(transactional_db: None) -> Callable[[], Counter[str]]:
    """How many messages are in which state."""
    from django_outbox.models import OutboxMessage

    def counts() -> Counter[str]:
        return Counter(OutboxMessage.objects.values_list("status", flat=True))

    return counts


@pytest.fixture
def effects(transactional_db: None) -> Callable[[], list[str]]:
    """What the handlers did, in the order in which they did it."""
    from tests.support.app.models import Effect

    def effects() -> list[str]:
        return list(Effect.objects.order_by("id").values_list("name", flat=True))

    return effects


@pytest.fixture
def consumed(counts: Callable[[], Counter[str]]) -> Callable[..., None]:
    """Wait until that many messages are consumed and no other is left."""

    def consumed(number: int, timeout: float = 60) -> None:
        wait_until(lambda: counts() == {"consumed": number}, timeout, what=f"{number} consumed")

    return consumed


@pytest.fixture
def relay(manage: Callable[..., Command]) -> Callable[..., Command]:
    """Start a relay that creates topics."""

    def relay(*arguments: object, **options: Any) -> Command:
        return manage("outbox_relay", "--create-topics", "--partitions", 3, *arguments, **options)

    return relay


@pytest.fixture
def consumer(manage: Callable[..., Command], pytestconfig: pytest.Config) -> Callable[..., Command]:
    """Start a consumer."""
    concurrency = pytestconfig.option.concurrency

    def consumer(*arguments: object, **options: Any) -> Command:
        if concurrency > 1:
            arguments = ("--concurrency", concurrency, *arguments)
        return manage("outbox_consume", *arguments, **options)

    return consumer


@pytest.fixture
def own_broker(pytestconfig: pytest.Config, settings: Any) -> Iterator[Service]:
    """A broker that this test alone uses and may take away. Not started."""
    broker = BROKERS[pytestconfig.option.kafka]()
    yield broker
    broker.close()
