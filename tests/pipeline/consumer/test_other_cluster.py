"""A service moves to another Kafka cluster, whose offsets begin at zero again."""

from __future__ import annotations

import pytest

from django_outbox import Event
from django_outbox.brokers.base import ReceivedRecord
from django_outbox.brokers.memory import MemoryBroker
from tests.support.inbox import plain
from tests.support.outbox import Pipeline, memory_broker, put
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def mapped(record: ReceivedRecord) -> Event:
    return Event(type="order.created", payload=(record.value or b"").decode())


def mapped_in_the_new_cluster(record: ReceivedRecord) -> Event:
    return Event(type="order.created", payload=(record.value or b"").decode(), source="elsewhere, second cluster")


def handled_in(broker: MemoryBroker, value: bytes) -> list[object]:
    """The payloads that a consumer handles there, once the topic has this record."""
    put(broker, plain(value))
    pipeline = Pipeline(broker, topics=["elsewhere"])
    pipeline.on("order.created")
    pipeline.run()
    return [event.payload for event in pipeline.handled]


@pytest.mark.parametrize(("mapper", "handled"), [(mapped, []), (mapped_in_the_new_cluster, ["second"])])
def test_records_without_an_id_are_taken_for_those_of_the_old_cluster_unless_their_source_is_another(
    mapper: object, handled: list[object]
) -> None:
    with outbox_settings(INBOX={"elsewhere": mapped}):
        assert handled_in(memory_broker(), b"first") == ["first"]
    with outbox_settings(INBOX={"elsewhere": mapper}):
        assert handled_in(memory_broker(), b"second") == handled
