"""Records of released versions and of today: either side may be upgraded first."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from tests.upgrades.releases import Sent, records_of, released, releases
from tests.upgrades.scenario import fill

Read = Callable[[ReceivedRecord], dict[str, Any]]

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


def test_records_say_which_key_they_have(records_of_today: list[ReceivedRecord]) -> None:
    """As other programs read it."""
    for record in records_of_today:
        row = OutboxMessage.objects.get(id=identify(record).outbox_id)
        headers = dict(record.headers)
        if "ce_specversion" in headers:
            assert headers.get("ce_subject", b"").decode() == row.message_key
        else:
            assert json.loads(record.value or b"")["aggregate_id"] == row.message_key


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_an_older_service_reads_what_another_sends_today(
    reader: ModuleType, records_of_today: list[ReceivedRecord]
) -> None:
    for record in records_of_today:
        row = OutboxMessage.objects.get(id=reader.identity(record)[3])
        event = reader.event(record)
        assert {name: event[name] for name in ("type", "version", "key", "is_tombstone")} == {
            "type": row.event_type,
            "version": row.event_version,
            "key": row.message_key,
            "is_tombstone": row.content_type == "",
        }
        assert row.headers.items() <= event["headers"].items()
        assert event["payload"] == (bytes(row.raw_value).decode("latin-1") if row.raw_value else row.payload)


@pytest.mark.parametrize("version", READERS)
@pytest.mark.parametrize(("release", "sent"), SENT, ids=NAMES)
def test_a_reader_of_a_release_is_as_it_was(version: str, release: str, sent: Sent) -> None:
    event = READERS[version].event(sent.record)
    if version == release:
        assert event == sent.event
    assert_contains(event, sent.event)


@pytest.mark.parametrize(
    "read", [*(reader.event for reader in READERS.values()), read_elsewhere], ids=[*READERS, "today"]
)
@pytest.mark.parametrize(("release", "sent"), SENT, ids=NAMES)
def test_headers_that_a_later_release_adds_are_passed_on(read: Read, release: str, sent: Sent) -> None:
    record = with_headers(sent.record, ce_newer=b"1", traceparent=b"00-1-2-01")
    is_cloudevent = "ce_specversion" in dict(sent.record.headers)
    added = {"traceparent": "00-1-2-01"} | ({"newer": "1"} if is_cloudevent else {})
    assert identify(record) == identify(sent.record)
    assert read(record) == {**sent.event, "headers": {**sent.event["headers"], **added}}


@pytest.mark.parametrize(
    "read", [*(reader.event for reader in READERS.values()), read_elsewhere], ids=[*READERS, "today"]
)
def test_what_a_cloudevent_may_leave_out_or_write_in_another_way(read: Read) -> None:
    sent = next(sent for _, sent in SENT if sent.event["type"] == "up.published")
    for content_type in (b"application/json; charset=utf-8", b"application/vnd.order+json", b"Application/JSON"):
        assert read(with_headers(sent.record, **{"content-type": content_type})) == sent.event
    assert read(without_headers(sent.record, "content-type")) == sent.event
    assert read(without_headers(sent.record, "ce_time")) == {**sent.event, "time": None}
    assert read(without_headers(sent.record, "ce_eventversion")) == {**sent.event, "version": "v1"}
    subject = {**sent.event, "headers": {**sent.event["headers"], "subject": "other"}}
    assert read(with_headers(sent.record, ce_subject=b"other")) == subject
    assert read(replace(sent.record, value=b"")) == {**sent.event, "payload": None}


@pytest.mark.parametrize(
    "read", [*(reader.event for reader in READERS.values()), read_elsewhere], ids=[*READERS, "today"]
)
def test_what_an_envelope_may_leave_out(read: Read) -> None:
    sent = next(sent for _, sent in SENT if sent.event["type"] == "up.envelope")
    members = json.loads(sent.record.value or b"")
    needed = {name: members[name] for name in ("outbox_id", "event_id", "event_type")}
    record = replace(without_headers(sent.record, "ce_source"), value=json.dumps(needed).encode())
    assert read(record) == {**sent.event, "payload": None, "version": "v1", "source": "elsewhere"}


# Before a release


def test_records_of_a_release_that_is_not_out_are_those_of_today(records_of_today: list[ReceivedRecord]) -> None:
    for release in {*releases()} - {*released()}:
        recorded = [sent.record for sent in records_of(release)]
        assert comparable(records_of_today) == comparable(recorded), (
            f"record it again, which needs MariaDB's server and Maven: python -m tests.upgrades {release}"
        )


def comparable(records: list[ReceivedRecord]) -> list[Any]:
    """Records without their times, with ids as their rank, and JSON without its order, which the database chooses."""
    return [(record.key, _headers(record, rank), _value(record, rank)) for rank, record in enumerate(records)]


def _headers(record: ReceivedRecord, rank: int) -> dict[str, bytes | None]:
    changing = {"ce_time": b"any", "ce_outboxid": b"%d" % rank}
    return {name: changing.get(name, value) for name, value in record.headers}


def _value(record: ReceivedRecord, rank: int) -> Any:
    if dict(record.headers).get("content-type") != b"application/json":
        return record.value
    value = json.loads(record.value or b"")
    return {**value, "outbox_id": rank} if isinstance(value, dict) and "outbox_id" in value else value


# Helpers


def with_headers(record: ReceivedRecord, **headers: bytes) -> ReceivedRecord:
    return replace(record, headers=tuple({**dict(record.headers), **headers}.items()))


def without_headers(record: ReceivedRecord, *names: str) -> ReceivedRecord:
    return replace(record, headers=tuple((name, value) for name, value in record.headers if name not in names))


def assert_contains(event: dict[str, Any], needed: dict[str, Any]) -> None:
    """Later releases may add headers, and no more."""
    assert {**event, "headers": {}} == {**needed, "headers": {}}
    assert needed["headers"].items() <= event["headers"].items()
