"""The first record of each partition goes alone, and the others of a batch wait for its answer.

A broker may refuse the first request that a producer sends to a partition, for example while the partition is still being
created. It then takes the next request all the same, as it knows nothing of this producer there. librdkafka (2.16) concludes
that the first one arrived, too, and reports success for its records (``rd_kafka_handle_idempotent_Produce_success``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count

from django_outbox.brokers.base import Acknowledged, Failed, Refused, SendResult, TopicPartition
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
        self._answered: list[int] = []
        self._behind: dict[TopicPartition, list[int]] = {}
        self._keyless: dict[str, list[int]] = {}  # these wait for any partition of their topic
        self._turns = count()

    def expect(self, topics: Collection[str]) -> None:
        """Treat all partitions of these topics as new."""
        for topic in topics:
            if known := self._silence.number_of(topic):
                self.new[topic] = set(range(known))

    def begin(self) -> None:
        """Forget the batch before."""
        for state in (self.heads, self._answered, self._behind, self._keyless):
            state.clear()

    def choose(self, topic: str, waiting: WaitingPartitions) -> int | None:
        """The partition for a record without a key: a new one, or else one that is not; None if there is none."""
        for partition in self._free(topic, waiting):
            if partition in self.new[topic] and TopicPartition(topic, partition) not in self._behind:
                return partition
        return self._next_known(topic, waiting)

    def may_go(self, index: int, topic: str, partition: int | None) -> bool:
        """True if a record can be sent now. If not, ``released()`` returns it, or it gets the result of the first one.

        ``partition`` is None for a record without a key that waits for any partition of its topic.
        """
        if partition is None:
            if not self._has_head(topic):
                return True
            self._keyless.setdefault(topic, []).append(index)
            return False
        if partition not in self.new[topic]:
            return True
        place = TopicPartition(topic, partition)
        if place in self._behind:
            self._behind[place].append(index)
            return False
        self.heads[index] = place
        self._behind[place] = []
        return True

    def answered(self, index: int) -> None:
        """There is a result of a record that went alone, or there will be none."""
        self._answered.append(index)

    def released(
        self, results: list[SendResult | None], suspects: Collection[int], waiting: WaitingPartitions
    ) -> Iterator[tuple[int, int]]:
        """The records that can be sent now, with their partitions. Others stay, or get the result of the first one."""
        ended: dict[str, SendResult | None] = {}
        while self._answered:
            index = self._answered.pop(0)
            place = self.heads.pop(index)
            behind = self._behind.pop(place)
            ended[place.topic] = result = results[index]
            if isinstance(result, Acknowledged):
                self._known(place, result.partition)
                yield from ((each, place.partition) for each in behind)
            elif (
                isinstance(result, Refused | Failed) or index in suspects
            ):  # that record alone: the next one goes first
                if others := behind or self._keyless.get(place.topic):
                    head = others.pop(0)
                    self.heads[head] = place
                    self._behind[place] = behind
                    yield head, place.partition
            else:
                for each in behind:
                    results[each] = result
        for topic, result in ended.items():
            for each in self._keyless.pop(topic, ()):
                partition = self._next_known(topic, waiting)
                if partition is not None:
                    yield each, partition
                elif self._has_head(topic):
                    self._keyless.setdefault(topic, []).append(each)
                elif not isinstance(result, Acknowledged):  # else the partitions that are not new wait
                    results[each] = result

    def _has_head(self, topic: str) -> bool:
        return any(place.topic == topic for place in self._behind)

    def _free(self, topic: str, waiting: WaitingPartitions) -> list[int]:
        partitions = range(self._silence.number_of(topic))
        return [each for each in partitions if TopicPartition(topic, each) not in waiting.partitions]

    def _next_known(self, topic: str, waiting: WaitingPartitions) -> int | None:
        """A partition that is not new, another one at each call."""
        new = self.new.get(topic, ())
        known = [each for each in self._free(topic, waiting) if each not in new]
        return known[next(self._turns) % len(known)] if known else None

    def _known(self, place: TopicPartition, partition: int) -> None:
        """Note that a partition has taken a record. The library may know more partitions, and have chosen another one."""
        new = self.new.get(place.topic, set())
        new -= {place.partition, partition}
        if not new:
            self.new.pop(place.topic, None)
