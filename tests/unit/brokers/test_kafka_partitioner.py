"""The partition of a key: the one that every other producer with Kafka's default chooses."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner import DefaultPartitioner

from django_outbox.brokers.kafka.partitioner import KeyPartitioner
from tests.support.properties import examples


def cluster_with(*partitions: int) -> SimpleNamespace:
    return SimpleNamespace(
        topics=lambda: {"orders"},
        partitions_for_topic=lambda topic: set(partitions) if topic == "orders" else None,
        available_partitions_for_topic=lambda topic: set(partitions),
    )


@examples(200)
@given(key=st.binary(min_size=1, max_size=40), partitions=st.sets(st.integers(0, 50), min_size=1))
def test_a_key_has_the_partition_of_the_clients_default(key: bytes, partitions: set[int]) -> None:
    arguments = ("orders", None, key, None, None, cluster_with(*partitions))
    expected = DefaultPartitioner().partition(*arguments)
    assert [KeyPartitioner().partition(*arguments) for _ in range(2)] == [expected, expected]


def test_a_key_moves_when_the_topic_gets_partitions() -> None:
    arguments = ("orders", None, b"customer-7", None, None)
    few, many = cluster_with(0), cluster_with(*range(50))
    assert KeyPartitioner().partition(*arguments, few) == 0
    assert KeyPartitioner().partition(*arguments, many) == DefaultPartitioner().partition(*arguments, many) != 0


def test_a_record_without_a_key_goes_to_any_available_partition() -> None:
    cluster = cluster_with(*range(4))
    assert {KeyPartitioner().partition("orders", None, None, None, None, cluster) for _ in range(200)} == {0, 1, 2, 3}
