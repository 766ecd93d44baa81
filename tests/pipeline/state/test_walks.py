"""Where a walk over old messages ends, and how it gets there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest

from django_outbox.handlers.registry import Registry
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import purging
from django_outbox.state.purging import Walk
from django_outbox.state.retention import expiries
from tests.support.outbox import make_message

pytestmark = pytest.mark.django_db

WEEK = timedelta(days=7)


def walk() -> Walk:
    return Walk(expiries({"consumed": WEEK}, Registry())[0], using="default")


def make_messages(old: int, recent: int) -> None:
    ids = [make_message("consumed").id for _ in range(old + recent)]
    OutboxMessage.objects.filter(id__in=ids[:old]).update(
        created_at=DatabaseNow() - 2 * WEEK, updated_at=DatabaseNow() - 2 * WEEK
    )


@pytest.mark.parametrize("old", [0, 1, 5, 8, 9])
def test_a_search_in_few_statements_finds_the_last_old_message(
    monkeypatch: pytest.MonkeyPatch, at_most: Callable[[int], AbstractContextManager[None]], old: int
) -> None:
    monkeypatch.setattr(purging, "SLACK", 0)
    make_messages(old, 9 - old)
    with at_most(6):
        assert walk().length == old


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_no_step_goes_beyond_the_end_of_a_walk(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(purging, "SLACK", 0)
    make_messages(old=6, recent=6)
    steps = list(walk().steps(lambda: size))
    assert [step.share for step in steps][-1:] == [1.0]
    assert sum(step.counts["consumed"] for step in steps) == 6
