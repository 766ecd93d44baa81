"""Brokers of a cluster that do not answer, and the partitions that wait for them. Shared by the client libraries.

A record is acknowledged by all in-sync replicas of its partition. So one broker that is killed or hangs stops the
partitions that it leads or follows, until the cluster elects other leaders and drops it from the in-sync replicas.
All other partitions can be written to meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import NamedTuple

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.calls import Call, Patience
from django_outbox.brokers.waiting import NOTHING_WAITS, WaitingPartitions
from django_outbox.exceptions import BrokerUnavailable

# A batch that got no answer for so long makes this process ask the brokers whether they still answer.
SILENCE_SECONDS = 0.75
PROBE_SECONDS = 1.0
# Between two questions whether partitions can be written to again: first, and after half a minute.
LOOK_SECONDS, LATER_LOOK_SECONDS, SOON_SECONDS = 0.5, 2.0, 30.0
# How long partitions wait for a silent broker before they are tried all the same; doubled each time up to the second.
HOLD_SECONDS = (15.0, 120.0)
_NAMED = 10  # partitions that a reason names


class Replicas(NamedTuple):
    """The brokers that a partition needs for a write, as ``host:port``; empty if their address is not known."""

    leader: str | None  # None: no broker leads the partition
    in_sync: frozenset[str] = frozenset()

    @property
    def is_led(self) -> bool:
        return self.leader is not None

    @property
    def needed(self) -> frozenset[str]:
        """All of them that have an address."""
        return (self.in_sync | {self.leader or ""}) - {""}


@dataclass(slots=True)
class _Silence:
    """A broker that does not answer."""

    hold: float  # seconds
    until: float  # then its partitions are tried all the same


def address_of(host: str, port: int) -> str:
    """The address of a broker, as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class SilentBrokers:
    """Knows which brokers do not answer while others do, and so which partitions wait. Used by several threads.

    It asks nothing as long as batches are acknowledged: only a batch without answers makes it ``examine()`` the brokers.
    While partitions wait, ``waiting()`` asks in the background. A partition no longer waits when the broker answers,
    when the cluster has replaced it, or after ``HOLD_SECONDS``.
    """

    def __init__(
        self,
        look_up: Callable[[Collection[str], float], object],
        answers: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            look_up: describes topics within some seconds and calls ``record()``; may raise BrokerUnavailable.
            answers: whether the broker at an address, ``host:port``, answers.
        """
        self._look_up = look_up
        self._answers = answers
        self._clock = clock
        self._lock = threading.Lock()
        self._topics: dict[str, dict[int, Replicas]] = {}
        self._leaderless = False  # whether a partition has no leader, while others of its topic have one
        self._silent: dict[str, _Silence] = {}
        self._answering: frozenset[str] = frozenset()  # the others, while some are silent
        self._turns = count()
        self._look: Call[None] | None = None
        self._next_look_at = self._began_at = 0.0

    @property
    def answering(self) -> list[str]:
        """Brokers that answer while others do not: the ones to ask. Empty if none is known to be silent."""
        with self._lock:
            return sorted(self._answering) if self._silent else []

    def is_silent(self, address: str) -> bool:
        return address in self._silent

    def record(self, topics: Mapping[str, Mapping[int, Replicas]]) -> None:
        """Record what the cluster says about topics; a topic without partitions is forgotten."""
        with self._lock:
            for topic, partitions in topics.items():
                if partitions:
                    self._topics[topic] = dict(partitions)
                else:
                    self._topics.pop(topic, None)
            led = [{each.is_led for each in partitions.values()} for partitions in self._topics.values()]
            self._leaderless = {True, False} in led

    def examine(self, topics: Collection[str]) -> bool:
        """Ask the brokers of these topics whether they answer; True if some do not although others do.

        Takes about two seconds at most.
        """
        # A client may still send to a broker that the cluster has replaced.
        asked = frozenset(self._silent) | self._needed(topics)
        answering = self._probe(asked)
        if answering == asked:  # others may be in sync since the topics were looked up
            self._ask(topics)
            more = self._needed(topics) - asked
            asked, answering = asked | more, answering | self._probe(more)
        if not answering or answering == asked:
            return False
        with self._lock:
            now = self._clock()
            if not self._silent:
                self._began_at = now
            for address in asked - answering:
                before = self._silent.get(address)
                if before is None:
                    self._silent[address] = _Silence(HOLD_SECONDS[0], now + HOLD_SECONDS[0])
                elif before.until <= now:
                    before.hold = min(2 * before.hold, HOLD_SECONDS[1])
                    before.until = now + before.hold
            self._settle(answering)
        self._ask(topics)  # the leaders may have changed since this process asked last
        return True

    def waiting(self) -> WaitingPartitions:
        """The partitions that wait now. Returns at once."""
        if not self._silent and not self._leaderless:
            return NOTHING_WAITS
        self._look_if_due()
        with self._lock:
            now = self._clock()
            silent = {address for address, silence in self._silent.items() if silence.until > now}
            places: set[TopicPartition] = set()
            full: set[str] = set()
            reasons = {}
            for topic, partitions in self._topics.items():
                waiting = {number: each for number, each in partitions.items() if _waits(each, silent)}
                if waiting and any(each.is_led for each in partitions.values()):
                    places |= {TopicPartition(topic, number) for number in waiting}
                    full |= {topic} if len(waiting) == len(partitions) else set()
                    reasons[topic] = _reason(waiting, silent)
        return WaitingPartitions(frozenset(places), frozenset(full), reasons)

    def number_of(self, topic: str) -> int:
        """How many partitions a topic has; 0 if that is unknown."""
        return len(self._topics.get(topic, ()))

    def any_but(self, waiting: WaitingPartitions, topic: str) -> int | None:
        """A partition of a topic that does not wait; another one at each call."""
        with self._lock:
            places = [TopicPartition(topic, number) for number in self._topics.get(topic, ())]
        left = [place.partition for place in places if place not in waiting.partitions]
        return left[next(self._turns) % len(left)] if left else None

    def _look_if_due(self) -> None:
        """Find out in the background whether partitions can be written to again."""
        now = self._clock()
        if now >= self._next_look_at and (self._look is None or self._look.is_done):
            soon = now - self._began_at < SOON_SECONDS
            self._next_look_at = now + (LOOK_SECONDS if soon else LATER_LOOK_SECONDS)
            self._look = Call(self._look_again)

    def _look_again(self) -> None:
        with self._lock:
            asked = self._answering | self._silent.keys()
            topics = list(self._topics)
        if asked:
            answering = self._probe(asked)
            with self._lock:
                self._settle(answering)
        self._ask(topics)
        needed = self._needed(topics)
        with self._lock:
            now = self._clock()
            gone = [each for each, silence in self._silent.items() if each not in needed and silence.until <= now]
            for address in gone:  # the cluster has replaced it long ago
                del self._silent[address]

    def _needed(self, topics: Collection[str]) -> frozenset[str]:
        """The brokers that these topics need, as far as they were looked up."""
        with self._lock:
            known = [self._topics.get(topic, {}) for topic in topics]
            return frozenset().union(*(each.needed for partitions in known for each in partitions.values()))

    def _settle(self, answering: frozenset[str]) -> None:
        """Forget the silence of brokers that answer; those of an outage of the whole cluster are not known."""
        for address in answering:
            self._silent.pop(address, None)
        self._answering = answering - self._silent.keys()

    def _ask(self, topics: Collection[str]) -> None:
        with suppress(BrokerUnavailable):
            self._look_up(topics, PROBE_SECONDS)

    def _probe(self, addresses: Collection[str]) -> frozenset[str]:
        """Those of these brokers that answer within a second."""
        calls = {address: Call(partial(self._answers, address)) for address in addresses}
        deadline = time.monotonic() + PROBE_SECONDS
        for call in calls.values():
            call.wait(max(deadline - time.monotonic(), 0.0))
        return frozenset(address for address, call in calls.items() if call.is_done and call.result(0, bool))


class BatchPatience(Patience):
    """Waits for the answers to a batch, but no longer for those of silent brokers."""

    def __init__(self, deadline: float, interrupted: Callable[[], bool], examine: Callable[[], bool]) -> None:
        """
        Args:
            deadline: on the monotonic clock.
            examine: finds out, in another thread, whether brokers are silent while others answer.
        """
        super().__init__(deadline, interrupted)
        self._examine = examine
        self._call: Call[bool] | None = None
        self._missing = -1
        self._quiet_since = 0.0
        self._is_found = False
        self.met_silence = False
        """True if waiting ended since brokers are silent while others answer."""

    def is_over(self, unanswered: int = 1) -> bool:
        return super().is_over(unanswered) or self._meets_silence(unanswered)

    def _meets_silence(self, unanswered: int) -> bool:
        if self.met_silence:
            return True
        now = time.monotonic()
        if unanswered != self._missing:
            self._missing, self._quiet_since = unanswered, now
        if self._call is not None and self._call.is_done:
            self._is_found = self._call.result(0, bool)
            self._call = None
            if not self._is_found:
                self._quiet_since = now  # ask again after as long
        if now - self._quiet_since < SILENCE_SECONDS:
            return False
        if self._is_found:
            self.met_silence = True
        elif self._call is None:
            self._call = Call(self._examine)
        return self.met_silence


def _waits(replicas: Replicas, silent: Collection[str]) -> bool:
    return not replicas.is_led or not replicas.needed.isdisjoint(silent)


def _reason(waiting: Mapping[int, Replicas], silent: Collection[str]) -> str:
    """Why partitions of a topic wait, as a sentence."""
    needed = frozenset().union(*(each.needed for each in waiting.values())).intersection(silent)
    first = sorted(waiting)[:_NAMED]
    more = f" and {len(waiting) - len(first)} more" if len(waiting) > len(first) else ""
    numbers = ", ".join(map(str, first)) + more
    named = f"partition {numbers}" if len(waiting) == 1 else f"partitions {numbers}"
    if not needed:
        return f"no leader of {named}"
    verb = "does" if len(needed) == 1 else "do"
    return f"{', '.join(sorted(needed))} {verb} not answer, which {named} need{'s' if len(waiting) == 1 else ''}"
