"""Which topics consumers read, as far as settings and running workers tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from django_outbox.operations.topics import read_topics
from tests.support.overrides import outbox_settings


def consumer(topics: str, **fields: Any) -> Any:
    return SimpleNamespace(**{"kind": "consumer", "group": "tests", "is_lost": False, "topics": topics, **fields})


def reads(*workers: Any) -> set[str]:
    with outbox_settings(ROUTES={"order.*": "orders"}):
        return {"outbox", "orders", "exports"} & read_topics(workers)


def test_without_running_consumers_the_settings_tell() -> None:
    assert reads() == {"outbox", "orders"}
    for other in ({"kind": "relay"}, {"is_lost": True}, {"group": "reports"}):
        assert reads(consumer("exports", **other)) == {"outbox", "orders"}


def test_running_consumers_tell_themselves() -> None:
    assert reads(consumer("orders"), consumer("exports, outbox", group="blue")) == {"outbox", "orders", "exports"}
    assert reads(consumer("exports")) == {"exports"}


@pytest.mark.parametrize("topics", ["", "exports, aud…"])
def test_consumers_that_do_not_tell_all_may_read_what_is_in_the_settings(topics: str) -> None:
    assert reads(consumer("exports"), consumer(topics)) == {"outbox", "orders", "exports"}
