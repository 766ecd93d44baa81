"""Which topics consumers read, as far as settings and running workers tell."""

from __future__ import annotations

from datetime import timedelta

import pytest

from django_outbox.exceptions import HandlersNotImportable
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations import topics as module
from django_outbox.operations.topics import awaited
from tests.support.outbox import Status, make_message


@pytest.mark.django_db
def test_waits_are_told_apart_by_whether_their_topic_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for topic, minutes in (("outbox", 5), ("outbox", 9), ("exports", 30), ("exports", 20)):
        published_at = DatabaseNow() - timedelta(minutes=minutes)
        make_message(Status.PUBLISHED, event_type="test.effect", topic=topic, published_at=published_at)
    longest, unread = awaited("default", [])
    assert longest is not None
    assert 540 <= longest < 1800
    ((topic, seconds, is_default),) = unread
    assert (topic, is_default) == ("exports", False)
    assert seconds >= 1800

    def broken() -> None:
        raise HandlersNotImportable("shop.handlers cannot be imported.")

    monkeypatch.setattr(module.registry, "load", broken)
    longest, unread = awaited("default", [])
    assert longest is not None
    assert longest >= 1800
    assert unread == []
