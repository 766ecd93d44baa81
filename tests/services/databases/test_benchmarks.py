"""What the benchmarks ask PostgreSQL at the end of a long run must not fail then."""

from __future__ import annotations

import pytest

from benchmarks import plans
from tests.support.outbox import make_message, statuses

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.django_db(transaction=True)]


def test_the_plans_of_the_relay_s_statements_are_told_and_nothing_changes() -> None:
    for key in ("a", "a", "b"):
        make_message(message_key=key)
    told = plans.explain()
    for name in ("claim", "order", "mark", "idle poll"):
        assert name in told
    assert statuses() == ["pending"] * 3
