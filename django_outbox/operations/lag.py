"""How far consumer groups are behind, as the broker says, within a time that a page can wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from django_outbox.brokers.base import get_broker
from django_outbox.conf import settings
from django_outbox.exceptions import in_one_line

PATIENCE_SECONDS = 2.0
FRESH_SECONDS = 5.0


class PartitionLag(NamedTuple):
    """One partition. ``lag`` counts records that the group has yet to read; it has committed nothing if None."""

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int


class Answer(NamedTuple):
    """What the broker said, or why it said nothing."""

    partitions: list[PartitionLag]
    trouble: str = ""

    @property
    def lag(self) -> int:
        return sum(partition.lag for partition in self.partitions)


class _Question:
    """Asked by a thread of its own. A broker that never answers keeps one thread, not one for each page."""

    def __init__(self, ask: Callable[[], list[PartitionLag]]) -> None:
        self.answer: Answer | None = None
        self.answered_at = 0.0
        self._ask = ask
        self._done = threading.Event()
        threading.Thread(target=self._run, name="outbox-lag", daemon=True).start()

    def _run(self) -> None:
        try:
            self.answer = Answer(self._ask())
        except Exception as error:  # whatever a client raises: the page has to come
            self.answer = Answer([], in_one_line(error))
        self.answered_at = time.monotonic()
        self._done.set()

    def wait(self, seconds: float) -> Answer | None:
        self._done.wait(seconds)
        return self.answer


_lock = threading.Lock()
_questions: dict[Any, _Question] = {}


def lag_of_groups(
    topics: Mapping[str, Collection[str]],
    *,
    patience: float = PATIENCE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Answer | None]:
    """What the broker says of these topics of each group; None of those of which it does not answer in time.

    All are asked at once. An answer is shown again for a few seconds; one that comes too late is shown to the next
    who asks.
    """
    questions = {group: _question(each, group, clock) for group, each in topics.items()}
    deadline = time.monotonic() + patience
    return {group: question.wait(max(0.0, deadline - time.monotonic())) for group, question in questions.items()}


def _question(topics: Collection[str], group: str, clock: Callable[[], float]) -> _Question:
    broker = get_broker(settings.broker)
    about = (settings.broker.url, group, frozenset(topics))
    with _lock:
        question = _questions.get(about)
        if question is None or (question.answer is not None and clock() - question.answered_at > FRESH_SECONDS):
            question = _questions[about] = _Question(lambda: _ask(broker, sorted(topics), group))
    return question


def _ask(broker: Any, topics: Collection[str], group: str) -> list[PartitionLag]:
    found = []
    for place, progress in broker.progress(topics, group).items():
        committed = progress.committed
        # Retention may have deleted what was committed last: no record before the log's start is left to read.
        start = progress.low if committed is None else max(committed, progress.low)
        lag = max(0, progress.high - start)
        found.append(PartitionLag(place.topic, place.partition, committed, progress.high, lag))
    return sorted(found, key=lambda each: (-each.lag, each.topic, each.partition))
