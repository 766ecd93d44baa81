"""The first record of each partition goes alone, and the others of a batch wait for its answer.

A broker may refuse the first request that a producer sends to a partition, for example while the partition is still being
created. It then takes the next request all the same, as it knows nothing of this producer there. librdkafka (2.16) concludes
that the first one arrived, too, and reports success for its records (``rd_kafka_handle_idempotent_Produce_success``).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from itertools import count

from django_outbox.brokers.base import Acknowledged, Failed, Refused, SendResult, TopicPartition
from django_outbox.brokers.partitioner import partition_of
from django_outbox.brokers.silence import SilentBrokers
from django_outbox.brokers.waiting import WaitingPartitions


class FirstRecords:
    """The new partitions, which have taken no record of a producer yet, and what waits for that in the current batch."""

    def __init__(self, silence: SilentBrokers) -> None:
        self._silence = silence
        self.new: dict[str, set[int]] = {}
        """New partitions by topic, without the topics that have none."""
        self.heads: dict[int, TopicPartition] = {}
        """Records that are on their way alone, by index in the batch."""
        self._sizes: dict[str, int] = {}  # how many partitions a topic had when they became new
        self._answered: list[int] = []
        self._behind: dict[TopicPartition, list[int]] = {}
        self._keyless: dict[str, list[int]] = {}  # these wait for any partition of their topic
        self._choices: dict[str, tuple[list[int], list[int]]] = {}  # see _choices_in()
        self._turns = count(time.monotonic_ns())  # so that each producer begins with another partition

    @property
    def unfinished(self) -> int:
        """How many records wait, and how many went alone and are not dealt with yet.

        Once all of a batch were looked at, the sum of this and of what the library holds only falls.
        """
        queues = (*self._behind.values(), *self._keyless.values())
        return len(self.heads) + sum(map(len, queues))

    def renew(self, topics: Collection[str]) -> None:
        """Treat all partitions of these topics as new, unless the current batch has records for them."""
        for topic in topics:
            size = self._silence.number_of(topic)
            if size and not self._has_head(topic):
                self.new[topic], self._sizes[topic] = set(range(size)), size

    def begin(self) -> None:
        """Forget the batch before."""
        for state in (self.heads, self._answered, self._behind, self._keyless, self._choices):
            state.clear()

    def may_go(self, index: int, topic: str, key: bytes | None, waiting: WaitingPartitions) -> tuple[bool, int | None]:
        """Whether a record of a topic with new partitions can be sent now, and to which partition if it has no key.

        If it cannot, ``released()`` returns it, or it gets the result of the record that went first.
        """
        partition = self._choose(topic, waiting) if key is None else partition_of(key, self._sizes[topic])
        if partition is None:  # all that do not wait are new, and have a record on its way
            if not self._has_head(topic):
                return True, None
            self._keyless.setdefault(topic, []).append(index)
            return False, None
        if partition in self.new[topic]:
            place = TopicPartition(topic, partition)
            if place in self._behind:
                self._behind[place].append(index)
                return False, None
            self._go_first(index, place, [])
        return True, partition if key is None else None

    def answered(self, index: int) -> None:
        """A record that went alone has its result, or is reported as sent without an offset."""
        self._answered.append(index)

    def released(
        self, results: list[SendResult | None], suspects: Collection[int], waiting: WaitingPartitions
    ) -> Iterator[tuple[int, int]]:
        """The records that can be sent now, with their partitions.

        The others stay in their queues, or get the result of the record that went first.
        """
        last_results: dict[str, SendResult | None] = {}
        while self._answered:
            index = self._answered.pop(0)
            place = self.heads.pop(index)
            behind = self._behind.pop(place)
            last_results[place.topic] = result = results[index]
            if isinstance(result, Acknowledged):
                self._took_one(place, result.partition)
                yield from ((each, place.partition) for each in behind)
            elif isinstance(result, Refused | Failed) or index in suspects:
                # It was refused for what it is, so the next one goes first.
                if others := behind or self._keyless.get(place.topic):
                    head = others.pop(0)
                    self._go_first(head, place, behind)
                    yield head, place.partition
            else:
                for each in behind:
                    results[each] = result
        for topic, result in last_results.items():
            self._choices.pop(topic, None)
            for each in self._keyless.pop(topic, ()):
                partition = self._in_turn(self._choices_in(topic, waiting)[1])
                if partition is not None:
                    yield each, partition
                elif self._has_head(topic):
                    self._keyless.setdefault(topic, []).append(each)
                elif not isinstance(result, Acknowledged):  # else the producer sends them again
                    results[each] = result

    def _choose(self, topic: str, waiting: WaitingPartitions) -> int | None:
        """The partition for a record without a key: a new one that has no record on its way, else one that took records."""
        untried, others = self._choices_in(topic, waiting)
        while untried:
            partition = untried.pop(next(self._turns) % len(untried))
            if TopicPartition(topic, partition) not in self._behind:
                return partition
        return self._in_turn(others)

    def _choices_in(self, topic: str, waiting: WaitingPartitions) -> tuple[list[int], list[int]]:
        """The partitions of a topic that do not wait: those that are new, and the others."""
        if topic not in self._choices:
            new = self.new.get(topic, ())
            free = [each for each in range(self._sizes[topic]) if TopicPartition(topic, each) not in waiting.partitions]
            self._choices[topic] = [each for each in free if each in new], [each for each in free if each not in new]
        return self._choices[topic]

    def _in_turn(self, partitions: list[int]) -> int | None:
        return partitions[next(self._turns) % len(partitions)] if partitions else None

    def _has_head(self, topic: str) -> bool:
        return any(place.topic == topic for place in self._behind)

    def _go_first(self, index: int, place: TopicPartition, behind: list[int]) -> None:
        self.heads[index] = place
        self._behind[place] = behind

    def _took_one(self, place: TopicPartition, partition: int) -> None:
        """Note that a partition has taken a record. The library may know more partitions, and have chosen another one."""
        left = self.new.get(place.topic, set()) - {place.partition, partition}
        if left:
            self.new[place.topic] = left
        else:
            self.new.pop(place.topic, None)
