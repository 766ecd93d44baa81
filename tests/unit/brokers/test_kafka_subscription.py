"""Which partitions a member of kafka-python reports as new."""

from __future__ import annotations

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.kafka.subscription import Assignments


def test_a_member_is_not_told_of_partitions_that_were_taken_away_meanwhile() -> None:
    one, other = (TopicPartition("topic", number) for number in range(2))
    lost: list[set[TopicPartition]] = []
    assignments = Assignments(lost.append)
    assignments.on_partitions_assigned({one, other})
    assignments.on_partitions_revoked({other})
    assert assignments.take() == {one}
    assert assignments.take() == set()
    assignments.on_partitions_lost({one})
    assert assignments.take() == set()
    assignments.on_partitions_assigned({other})
    assert lost == [{one, other}]
    assignments.on_partitions_revoked({one, other})
    assignments.on_partitions_assigned({other})
    assert lost[1:] == [{one}]  # the other one stays
