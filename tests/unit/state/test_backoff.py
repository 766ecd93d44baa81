"""The backoff: it doubles up to half a minute, and is never shorter than that."""

from __future__ import annotations

from datetime import timedelta

from django_outbox.state.backoff import backoff


def test_backoff_doubles_from_one_second_to_thirty_two() -> None:
    waits = [backoff(n, jitter=lambda: 0.0).total_seconds() for n in range(1, 10)]

    assert waits == [1, 2, 4, 8, 16, 32, 32, 32, 32]


def test_backoff_is_at_most_a_tenth_longer_and_never_shorter() -> None:
    assert backoff(3, jitter=lambda: 1.0) == timedelta(seconds=4.4)
    assert all(4 <= backoff(3).total_seconds() <= 4.4 for _ in range(100))
    assert 32 <= backoff(10**6).total_seconds() <= 35.2
