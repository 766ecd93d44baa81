"""Records of released versions and of today: either side may be upgraded first."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.events.parsing import identify
from django_outbox.models import OutboxMessage
from tests.support.outbox import memory_broker
from tests.upgrades.readers import READERS
from tests.upgrades.recording import read_elsewhere
from tests.upgrades.releases import Sent, records_of, releases
from tests.upgrades.scenario import fill

SENT = [(release, sent) for release in releases() for sent in records_of(release)]
NAMES = [f"{release} {sent.event['type']}" for release, sent in SENT]


@pytest.fixture
def records_of_today(db: None) -> list[ReceivedRecord]:
    """What a relay of today sends, and Debezium."""
    broker = memory_broker()
    fill(broker)
    return broker.records("outbox")


# Records of a release, consumers of today


@pytest.mark.parametrize(("release", "sent"), SENT, ids=NAMES)
def test_another_service_reads_what_a_release_sent(release: str, sent: Sent) -> None:
    assert read_elsewhere(sent.record) == sent.event


@pytest.mark.parametrize(("release", "sent"), SENT, ids=NAMES)
def test_a_service_recognises_what_its_older_relay_sent(release: str, sent: Sent) -> None:
    identity = identify(sent.record)
    assert (identity.source, identity.event_id, identity.event_type) == ("tests", sent.event["id"], sent.event["type"])
    assert identity.outbox_id
    assert identity.attempt == 1


def test_a_release_has_records_of_every_kind() -> None:
    for release in releases():
        sent = list(records_of(release))
        assert {each.event["is_tombstone"] for each in sent} == {True, False}
        assert {any(name == "ce_specversion" for name, _ in each.record.headers) for each in sent} == {True, False}


# Records of today, consumers of a release


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_an_older_service_recognises_what_its_newer_relay_sends(
    reader: ModuleType, records_of_today: list[ReceivedRecord]
) -> None:
    rows = OutboxMessage.objects.in_bulk(field_name="id")
    assert len(records_of_today) >= 8
    for record in records_of_today:
        source, event_id, event_type, outbox_id, attempt = reader.identity(record)
        row = rows[outbox_id]
        assert (source, event_id, event_type) == (row.source, str(row.event_id), row.event_type)
        assert attempt == row.publish_count


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_an_older_service_reads_what_another_sends_today(
    reader: ModuleType, records_of_today: list[ReceivedRecord]
) -> None:
    for record in records_of_today:
        row = OutboxMessage.objects.get(id=reader.identity(record)[3])
        event = reader.event(record)
        assert {name: event[name] for name in ("type", "version", "key", "headers", "is_tombstone")} == {
            "type": row.event_type,
            "version": row.event_version,
            "key": row.message_key,
            "headers": row.headers,
            "is_tombstone": row.content_type == "",
        }
        assert event["payload"] == (bytes(row.raw_value).decode("latin-1") if row.raw_value else row.payload)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("release", "sent"), SENT, ids=NAMES)
def test_a_reader_of_a_release_is_as_it_was(reader: ModuleType, release: str, sent: Sent) -> None:
    assert reader.event(sent.record) == sent.event


@pytest.mark.parametrize(("release", "sent"), SENT, ids=NAMES)
def test_headers_that_a_later_release_adds_are_ignored_or_passed_on(release: str, sent: Sent) -> None:
    added: Any = (("ce_newer", b"1"), ("traceparent", b"00-1-2-01"))
    record = replace(sent.record, headers=(*sent.record.headers, *added))
    assert identify(record) == identify(sent.record)
    event = read_elsewhere(record)
    assert event["payload"] == sent.event["payload"]
    assert {**sent.event["headers"], "traceparent": "00-1-2-01"}.items() <= event["headers"].items()
