"""Deliveries that a process survived: remembered, but not for ever."""

from __future__ import annotations

from django_outbox.consumer.source import MOST_SURVIVED, Survived


def test_what_nobody_reports_is_forgotten_in_the_end() -> None:
    survived = Survived()
    for delivery in range(MOST_SURVIVED):
        survived.add(delivery)
    survived.add(MOST_SURVIVED - 1)
    assert 0 in survived
    survived.add(MOST_SURVIVED)
    assert 0 not in survived
    assert 1 in survived


def test_what_is_handled_is_forgotten() -> None:
    survived = Survived()
    survived.add(1)
    survived.discard(1)
    survived.discard(1)
    assert 1 not in survived
