"""Which topics consumers read, as far as settings and running workers tell."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from django_outbox.exceptions import HandlersNotImportable
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations import unread_topics as unread
from django_outbox.operations.unread_topics import Reach, waits
from tests.outbox import Status, make_message
from tests.overrides import outbox_settings


def consumer(topics: str, **fields: Any) -> Any:
    return SimpleNamespace(**{"kind": "consumer", "group": "tests", "is_lost": False, "topics": topics, **fields})


def reads(*workers: Any) -> set[str]:
    with outbox_settings(ROUTES={"order.*": "orders"}):
        reach = Reach.of(workers)
        return {topic for topic in ("outbox", "orders", "exports") if reach.includes(topic)}


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


@pytest.mark.django_db
def test_waits_are_told_apart_by_whether_their_topic_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for topic, minutes in (("outbox", 5), ("outbox", 9), ("exports", 30), ("exports", 20)):
        published_at = DatabaseNow() - timedelta(minutes=minutes)
        make_message(Status.PUBLISHED, event_type="test.effect", topic=topic, published_at=published_at)
    found = waits("default", [])
    assert found.read is not None
    assert 540 <= found.read < 1800
    ((topic, seconds, is_known),) = found.unread
    assert (topic, is_known) == ("exports", False)
    assert seconds >= 1800

    def broken() -> None:
        raise HandlersNotImportable("shop.handlers cannot be imported.")

    monkeypatch.setattr(unread.registry, "load", broken)
    found = waits("default", [])
    assert found.read is not None
    assert found.read >= 1800
    assert found.unread == []
