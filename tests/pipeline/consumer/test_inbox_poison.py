"""Records that cannot be read: a dead row with all that was received, never a crash, never a silent drop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.events.event import Event
from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import inbox_rows
from django_outbox.state.inbox_rows import record_of
from django_outbox.state.retry import retry
from tests.support.app.models import Effect
from tests.support.inbox import Receiver, Status, make_received, only, plain, received, statuses
from tests.support.overrides import outbox_settings
from tests.support.properties import any_text, examples
from tests.unit.events.test_reader import BAD

pytestmark = pytest.mark.django_db

MEGABYTE = 2**20


@pytest.fixture
def receiver() -> Receiver:
    receiver = Receiver()
    receiver.on("order.created", lambda event: Effect.objects.create(name=event.type, event_id=event.id))
    receiver.on("t")
    return receiver


def revive() -> None:
    retry(InboxMessage.objects.all(), using="default")


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("record", "reason"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_dead_with_its_bytes_and_reason(
    receiver: Receiver, record: ReceivedRecord, reason: str, counted: bool
) -> None:
    if record.headers and dict(record.headers).get("ce_type") not in (None, b"order.created"):
        receiver.on("t" * 256)

    assert receiver.receive(record, counted=counted) == ["dead"]

    row = only()
    assert (row.status, row.source, row.event_id) == ("dead", "", f"elsewhere/0/{record.offset}")
    assert row.last_error.startswith("It cannot be read: ")
    assert reason in row.last_error
    assert (record_of(row).key, record_of(row).value) == (record.key, record.value)


def test_a_record_that_is_read_again_changes_nothing(receiver: Receiver) -> None:
    record = plain(b"?")
    receiver.receive(record)
    before = InboxMessage.objects.values().get()

    assert receiver.receive(record) == ["skipped"]
    assert receiver.receive(record, counted=True) == ["skipped"]

    assert InboxMessage.objects.values().get() == before


def test_neighbours_of_what_cannot_be_read_are_handled_with_it(receiver: Receiver) -> None:
    done = receiver.receive(received(1), plain(b"?"), received(2))
    assert done == ["consumed", "dead", "consumed"]


def test_headers_are_kept_as_text(receiver: Receiver) -> None:
    receiver.receive(plain(b"?", headers=[("a", b"Zo\xc3\xab"), ("b", b"\xff\0"), ("c", None), ("a", b"second")]))
    assert only().headers == {"a": "Zoë", "b": "\N{REPLACEMENT CHARACTER}" * 2}


def test_type_and_key_are_shown_where_they_fit(receiver: Receiver) -> None:
    receiver.receive(received(value=b"{", key="k"), received(value=b"{", key=b"\xff"), received(key="k" * 300))
    rows = InboxMessage.objects.order_by("id").values_list("event_type", "message_key")
    assert list(rows) == [("order.created", "k"), ("order.created", "\N{REPLACEMENT CHARACTER}"), ("order.created", "")]


def test_it_is_logged_where_it_was(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    record = plain(b"?")
    receiver.receive(record)
    assert (
        f"Inbox message {only().id} (elsewhere[0]@{record.offset} from an unknown source) is dead: It cannot be"
        in caplog.text
    )


# Reading again


def test_a_retry_reads_again_and_handles_what_can_be_read_now(receiver: Receiver) -> None:
    record = plain(b"7", key=b"\xff")
    receiver.receive(record)
    revive()
    with outbox_settings(INBOX={"elsewhere": lambda record: Event(type="t", id="e7", key="k", payload=7)}):
        receiver.restart()

        assert receiver.run_due(10) == ["requeued", "consumed"]

        row = only()
        assert (row.status, row.source, row.event_id, row.message_key) == ("consumed", "elsewhere", "e7", "k")
        assert (row.raw_key, row.raw_value, row.last_error) == (None, None, "")
        assert receiver.receive(record) == ["skipped"]
    (event,) = receiver.handled
    assert (event.payload, event.key, event.offset) == (7, "k", record.offset)


def test_a_retry_of_what_came_another_way_since_has_nothing_to_do(receiver: Receiver) -> None:
    receiver.receive(plain(b"7"))
    make_received(Status.CONSUMED, source="elsewhere", event_id="e7")
    revive()
    with outbox_settings(INBOX={"elsewhere": lambda record: Event(type="t", id="e7")}):
        receiver.restart()
        assert receiver.run_due(10) == ["skipped"]
    assert statuses() == ["consumed", "consumed"]
    assert receiver.handled == []


def test_a_retry_of_what_still_cannot_be_read_is_dead_again(receiver: Receiver) -> None:
    record = plain(b"?", key=b"\xff")
    receiver.receive(record)
    before = only().last_error
    revive()

    assert receiver.run_due(10) == ["dead"]

    assert (only().status, only().last_error, record_of(only()).value) == ("dead", before, b"?")


def test_a_retry_of_what_nobody_wants_says_so(receiver: Receiver) -> None:
    receiver.receive(plain(b"7"))
    revive()
    with outbox_settings(INBOX={"elsewhere": None}):
        receiver.restart()
        assert receiver.run_due(10) == ["dead"]
    assert only().last_error == "It can be read now, but no handler is registered for it, or INBOX ignores its topic."


def test_a_retry_of_what_was_not_stored_is_dead_and_not_a_tombstone(receiver: Receiver) -> None:
    """A large record on MariaDB, whose max_allowed_packet does not allow its bytes."""
    make_received(
        Status.DEAD, source="", event_id="elsewhere/0/7", event_type="", headers={}, last_error="It cannot be stored: x"
    )
    revive()
    with outbox_settings(INBOX={"elsewhere": lambda record: Event(type="t", key="k", is_tombstone=not record.value)}):
        receiver.restart()
        assert receiver.run_due(10) == ["dead"]
    assert only().last_error == "Its bytes were not stored; read it from Kafka again."
    assert receiver.handled == []


def test_a_mapper_that_fails_leaves_its_error_and_place(receiver: Receiver) -> None:
    def mapper(record: ReceivedRecord) -> Event:
        raise KeyError("sku")

    with outbox_settings(INBOX={"elsewhere": mapper}):
        receiver.receive(plain(b"7"))
    assert only().last_error.startswith("It cannot be read: the mapper of INBOX for elsewhere failed.\n\nKeyError")
    assert 'test_inbox_poison.py", line ' in only().last_error


# Mappers that may take the process down


class Killed(BaseException):
    """Stands for the end of the process."""


class Legacy:
    """A mapper that takes the process down for so many times as are left; ``key`` is that of its events."""

    def __init__(self, kills: int = 0) -> None:
        self.kills = kills
        self.key = "k"
        self.records: list[ReceivedRecord] = []

    def __call__(self, record: ReceivedRecord) -> Event | None:
        self.records.append(record)
        if self.kills:
            self.kills -= 1
            raise Killed
        return Event(type=(record.value or b"").decode(), key=self.key) if record.value else None


@pytest.fixture
def legacy(receiver: Receiver) -> Iterator[Legacy]:
    mapper = Legacy()
    with outbox_settings(INBOX={"elsewhere": mapper}):
        yield mapper


def test_a_record_whose_mapper_takes_the_process_down_is_dead_after_max_deliveries(
    receiver: Receiver, legacy: Legacy
) -> None:
    legacy.kills = 5
    record, other = plain(b"t", key=b"7"), plain(b"t")
    for _ in range(5):
        with pytest.raises(Killed):
            receiver.receive(record, other, counted=True)
        receiver.restart()

    assert receiver.receive(record, other, counted=True) == ["dead", "consumed"]
    assert legacy.records == [record] * 5 + [other]  # the mapper is not called for it once more

    row = InboxMessage.objects.get(status="dead")
    assert row.last_error.startswith("It took its process down 5 times (MAX_DELIVERIES)")
    assert row.last_error.endswith("while the mapper ran.")
    assert (row.message_key, record_of(row).value) == ("7", b"t")
    assert [event.offset for event in receiver.handled] == [other.offset]
    assert receiver.receive(record, counted=True) == ["skipped"]


def test_a_record_that_took_the_process_down_once_is_handled_whole_and_in_its_place(
    receiver: Receiver, legacy: Legacy
) -> None:
    legacy.kills = 1
    records = [plain(b"t", headers=[("tenant", b"\xff"), ("tenant", b"2")]), plain(b"t")]
    with pytest.raises(Killed):
        receiver.receive(*records, counted=True)
    receiver.restart()

    assert receiver.run_due(10) == []  # the record comes again, and has all of its headers
    assert receiver.receive(*records, counted=True) == ["consumed", "consumed"]

    assert [event.offset for event in receiver.handled] == [record.offset for record in records]
    assert legacy.records == [records[0], *records]
    assert receiver.receive(*records, counted=True) == ["skipped", "skipped"]
    assert receiver.receive(*records) == ["skipped", "skipped"]
    assert statuses() == ["consumed", "consumed"]


def test_a_record_that_does_not_come_again_is_read_from_its_row(receiver: Receiver, legacy: Legacy) -> None:
    legacy.kills = 1
    with pytest.raises(Killed):
        receiver.receive(plain(b"t"), counted=True)
    receiver.restart()

    assert receiver.retry() == ["requeued", "consumed"]
    assert statuses() == ["consumed"]


def test_what_a_mapper_leaves_alone_leaves_nothing_behind(receiver: Receiver, legacy: Legacy) -> None:
    done = receiver.receive(plain(None), plain(b"unwanted"), counted=True)
    assert (done, statuses()) == (["skipped"] * 2, [])


@pytest.mark.parametrize("counted", [True, False])
def test_what_a_mapper_fails_on_or_nobody_wants_is_dead_either_way(
    receiver: Receiver, legacy: Legacy, counted: bool
) -> None:
    with outbox_settings(UNKNOWN_EVENT="dead", INBOX={"elsewhere": legacy}):
        assert receiver.receive(plain(b"\xff", key=b"7"), plain(b"unwanted"), counted=counted) == ["dead", "dead"]
    failed, unwanted = InboxMessage.objects.order_by("id")
    assert failed.last_error.startswith("It cannot be read: the mapper of INBOX for elsewhere failed.")
    assert failed.fingerprint == "It cannot be read: the mapper of INBOX for elsewhere failed."
    assert failed.message_key == "7"
    assert unwanted.last_error == "No handler is registered for 'unwanted' (UNKNOWN_EVENT is 'dead')."


def test_what_a_mapper_reads_waits_behind_an_earlier_one_of_its_key(receiver: Receiver, legacy: Legacy) -> None:
    first = make_received(event_type="t", message_key="k")

    assert receiver.receive(plain(b"t"), counted=True) == ["requeued"]
    legacy.key = "another"
    assert receiver.receive(plain(b"t"), counted=True) == ["consumed"]
    assert receiver.retry() == ["consumed", "consumed"]

    assert [event.key for event in receiver.handled] == ["another", "k", "k"]
    assert receiver.handled[1].offset == first.offset


def test_an_event_that_a_mapper_read_is_counted_before_its_handler_runs(receiver: Receiver, legacy: Legacy) -> None:
    seen: list[tuple[str, str, int]] = []
    receiver.on("killer", lambda event: seen.append((only().status, only().source, only().delivery_count)))

    assert receiver.receive(plain(b"killer"), counted=True) == ["consumed"]
    assert seen == [("pending", "elsewhere", 1)]


@pytest.mark.databases("mariadb")
def test_a_record_that_is_too_large_for_its_row_is_read_all_the_same(receiver: Receiver) -> None:
    with outbox_settings(INBOX={"elsewhere": lambda record: Event(type="t")}):
        assert receiver.receive(plain(os.urandom(10 * MEGABYTE)), counted=True) == ["consumed"]


# What the database refuses


def test_what_the_database_passes_over_without_a_word_is_not_taken_for_a_copy(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MariaDB and SQLite do, where PostgreSQL raises: they ignore a broken CHECK as they ignore a copy."""
    real = inbox_rows.dead_row

    def broken_row(*arguments: Any) -> InboxMessage:
        row = real(*arguments)
        row.consumed_at = DatabaseNow()
        return row

    monkeypatch.setattr("django_outbox.consumer.inbox.arrivals.dead_row", broken_row)
    with outbox_settings(UNKNOWN_EVENT="dead"):
        assert receiver.receive(received(1), received(2, type="unknown")) == ["consumed", "dead"]
    row = InboxMessage.objects.get(status="dead")
    assert row.last_error.startswith("It cannot be stored: ")
    assert record_of(row).value == b"2"


def test_an_identity_that_is_too_long_for_an_index_is_dead(receiver: Receiver) -> None:
    """PostgreSQL takes about 2700 bytes; 510 characters may have 2040, and this is the longest group."""
    receiver = Receiver("".join(chr(0x10000 + 37 * n % 0x3000) for n in range(249)))
    receiver.on("order.created")
    long = ["".join(chr(0x10000 + (m + 101 * n) % 0x3000) for n in range(255)) for m in (1, 5000)]

    done = receiver.receive(received(1, id=long[0], source=long[1]), received(2))

    assert done == ["dead" if connection.vendor == "postgresql" else "consumed", "consumed"]


# Size


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("counted", [True, False])
def test_megabytes_are_stored_whole(receiver: Receiver, counted: bool) -> None:
    receiver.on("large", lambda event: len(event.payload) // (event.attempt - 1))
    junk = os.urandom(2 * MEGABYTE)

    done = receiver.receive(received("x" * 2 * MEGABYTE, type="large"), received(value=junk), counted=counted)

    assert done == ["failed", "dead"]
    assert record_of(InboxMessage.objects.get(status="dead")).value == junk
    assert receiver.retry() == ["consumed"]


@pytest.mark.databases("mariadb")
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_what_is_too_large_for_the_database_is_handled_or_dead(receiver: Receiver, fails: bool, counted: bool) -> None:
    """MariaDB takes 16 megabytes in a statement by default, and ends the connection over more."""
    receiver.on("large", lambda event: 1 // (not fails))
    record = received("Zoë" * 2 * MEGABYTE, type="large")

    done = receiver.receive(record, received(value=os.urandom(10 * MEGABYTE)), received(1), counted=counted)

    assert done == ["dead" if fails else "consumed", "dead", "consumed"]
    for row in InboxMessage.objects.dead():
        assert (row.event_id, row.raw_value) == (f"elsewhere/0/{row.offset}", None)
        assert "the database's max_allowed_packet is 16777216" in row.last_error
    number = InboxMessage.objects.dead().count()
    revive()
    assert receiver.retry() == ["dead"] * number
    for row in InboxMessage.objects.dead():
        assert row.last_error == "Its bytes were not stored; read it from Kafka again."


@pytest.mark.databases("mariadb")
@pytest.mark.parametrize("counted", [True, False])
def test_what_is_nearly_too_large_is_stored_whole(receiver: Receiver, counted: bool) -> None:
    receiver.on("large", lambda event: 1 // (event.attempt - 1))
    junk = os.urandom(7 * MEGABYTE)

    done = receiver.receive(received('"' * 3 * MEGABYTE, type="large"), received(value=junk), counted=counted)

    assert done == ["failed", "dead"]
    assert record_of(InboxMessage.objects.get(status="dead")).value == junk
    assert receiver.retry() == ["consumed"]


@pytest.mark.databases("mariadb")
def test_what_is_too_large_to_be_handled_after_all_is_dead_in_the_end(receiver: Receiver) -> None:
    record = received(value=f'"{"ë" * (3 * MEGABYTE // 2)}"'.encode(), key=b"\xff", type="t")
    receiver.receive(record)
    assert record_of(only()).value == record.value
    InboxMessage.objects.update(max_retry=1, raw_key=None)
    revive()

    assert receiver.run_due(10) == ["failed"]

    assert "max_allowed_packet" in only().last_error
    assert only().status == "dead"


# Whatever comes


@examples(150)
@given(
    st.lists(
        st.tuples(
            st.none() | st.binary(max_size=20) | st.sampled_from([b"{}", b"[1]", rb'"\u0000"', rb'"\ud800"']),
            st.none() | st.binary(max_size=5) | st.just(b"k"),
            st.dictionaries(
                st.sampled_from(["specversion", "id", "source", "type", "time", "outboxid", "foo"]),
                st.none() | any_text.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=5),
                max_size=4,
            ),
            st.lists(st.tuples(any_text, st.none() | st.binary(max_size=5)), max_size=2),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_every_record_is_consumed_or_dead_and_a_second_reading_changes_nothing(records: list[Any]) -> None:
    InboxMessage.objects.all().delete()
    receiver = Receiver()
    receiver.on("order.created")
    batch = [
        received(value=value, key=key, headers=headers, **{"type": "order.created", **attributes})
        if value is not None
        else plain(None, key=key, headers=headers)
        for value, key, attributes, headers in records
    ]
    with outbox_settings(UNKNOWN_EVENT="dead"):
        done = receiver.receive(*batch)
        assert set(done) <= {"consumed", "dead", "skipped"}
        assert InboxMessage.objects.count() == len(done) - done.count("skipped")
        assert receiver.receive(*batch) == ["skipped"] * len(batch)
