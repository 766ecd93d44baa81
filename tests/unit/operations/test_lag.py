"""The lag as the broker tells it: shown when it comes in time, and never waited for longer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.operations import lag
from tests.support.overrides import own_broker
from tests.support.processes import wait_until


class Progress(NamedTuple):
    low: int
    high: int
    committed: int | None
    position: int | None = None


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    with own_broker():
        yield


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say what the broker answers: a mapping, an error, or an event that it waits for."""
    asked: list[Any] = []

    def answers(answer: Any) -> list[Any]:
        def progress(self: Any, topics: Any, group: str) -> Any:
            asked.append((list(topics), group))
            if isinstance(answer, threading.Event):
                answer.wait()
                return {}
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(MemoryBroker, "progress", progress, raising=False)
        return asked

    return answers


def lag_of_group(topics: set[str], group: str, **options: Any) -> lag.GroupLag:
    return lag.lag_of_groups({group: topics}, **options)[group]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress(0, 10, 7), 3),
        (Progress(0, 10, 10), 0),
        (Progress(4, 10, None), 6),
        (Progress(4, 10, 2), 6),
        (Progress(0, 3, 5), 0),
    ],
)
def test_lag_is_what_the_group_has_yet_to_read(broker: Any, progress: Progress, expected: int) -> None:
    asked = broker({TopicPartition("t", 1): progress})
    answer = lag_of_group({"t"}, "g")
    assert answer is not None
    assert [(each.topic, each.partition, each.lag) for each in answer.partitions] == [("t", 1, expected)]
    assert asked == [(["t"], "g")]


def test_partitions_that_are_behind_come_first(broker: Any) -> None:
    broker({TopicPartition("t", n): Progress(0, 10, committed) for n, committed in enumerate((10, 0, 5))})
    answer = lag_of_group({"t"}, "g")
    assert answer is not None
    assert ([each.partition for each in answer.partitions], answer.lag) == ([1, 2, 0], 15)


@pytest.mark.parametrize("error", [BrokerUnavailable("nobody is there"), RuntimeError("nobody is there")])
def test_what_went_wrong_is_said(broker: Any, error: Exception) -> None:
    broker(error)
    assert lag_of_group({"t"}, "g") == lag.GroupLag([], "nobody is there")


def test_a_broker_that_does_not_answer_is_not_waited_for(broker: Any) -> None:
    never = threading.Event()
    asked = broker(never)
    try:
        assert lag_of_group({"t"}, "g", timeout=0.05) is lag.NO_ANSWER
        # And the next page does not ask a second time.
        assert lag_of_group({"t"}, "g", timeout=0.05) is lag.NO_ANSWER
        wait_until(lambda: asked)
        assert len(asked) == 1
    finally:
        never.set()


def test_an_answer_is_kept_for_a_few_seconds(broker: Any) -> None:
    asked = broker({})
    lag_of_group({"t"}, "g")
    lag_of_group({"t"}, "g")
    assert len(asked) == 1
    lag_of_group({"t"}, "g", clock=lambda: lag.time.monotonic() + lag.FRESH_SECONDS + 1)
    assert len(asked) == 2
