"""What kafka-python returns of a partition that was paused, with a fetch of each partition always at hand."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from kafka import TopicPartition
from kafka.consumer.fetcher import CompletedFetch, Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.record.memory_records import MemoryRecordsBuilder

from django_outbox.brokers.kafka.records import go_on_after_pauses

FETCHED, LIMIT = 7, 3
"""Records of a fetch, and of a poll. Each fetch ends in the middle of a poll."""


class Client:
    """The part of a KafkaConsumer that returns what was fetched; the broker's logs have no end."""

    def __init__(self, partitions: int) -> None:
        self.places = [TopicPartition("outbox", number) for number in range(partitions)]
        self.subscriptions = SubscriptionState()
        self.subscriptions.assign_from_user(self.places)
        for place in self.places:
            self.subscriptions.seek(place, 0)
        self._fetcher = Fetcher(MagicMock(), self.subscriptions, metrics=None)

    def poll(self) -> Counter[TopicPartition]:
        """How many records of each partition it returns."""
        for place in self._fetcher._fetchable_partitions():
            self._fetcher._completed_fetches.append(self._fetched(place))
        found, _ = self._fetcher.fetched_records(LIMIT)
        return Counter({place: len(records) for place, records in found.items()})

    def _fetched(self, place: TopicPartition) -> Any:
        begin = self.subscriptions.position(place).offset
        records = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=10_000, offset=begin)
        for _ in range(FETCHED):
            records.append(timestamp=0, key=None, value=b"{}")
        records.close()
        data = SimpleNamespace(
            error_code=0,
            high_watermark=begin + FETCHED,
            diverging_epoch=None,
            preferred_read_replica=-1,
            aborted_transactions=None,
            records=records.buffer(),
        )
        return CompletedFetch(place, begin, 12, data, None)


def test_a_resumed_partition_gets_its_share_beside_two_others_with_a_backlog() -> None:
    client = Client(partitions=3)
    go_on_after_pauses(client)
    (paused,) = client.poll()
    client.subscriptions.pause(paused)
    assert paused not in sum((client.poll() for _ in range(10)), Counter())

    client.subscriptions.resume(paused)
    read = sum((client.poll() for _ in range(200)), Counter())

    assert max(read.values()) - min(read[place] for place in client.places) <= 2 * FETCHED
