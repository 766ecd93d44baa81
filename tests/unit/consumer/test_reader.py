"""Reading records for the inbox: by a mapper, and with schemas that must be loaded first."""

from __future__ import annotations

from typing import Any

import pytest

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer.inbox import reader as module
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.events.event import Event
from django_outbox.events.payloads import RawBytes
from django_outbox.exceptions import RegistryUnavailable, UnreadableRecord
from django_outbox.serializers.base import LOAD_SECONDS, NotLoaded
from tests.support.inbox import plain, received
from tests.support.overrides import outbox_settings

RECORD = plain(b"legacy", topic="elsewhere")
EVENT = Event(type="order.created", payload=1)


def make_reader() -> Reader:
    return Reader(using="default", accepts=lambda event_type, topic: True, accepts_own=False)


# Mappers


def map_to(event: Event) -> Event | None:
    """What becomes of the event of a mapper."""
    with outbox_settings(INBOX={"elsewhere": lambda record: event}):
        return make_reader().read(RECORD)


def test_a_mapper_reads_what_is_in_no_known_format_of_its_topic() -> None:
    with outbox_settings(INBOX={"elsewhere": lambda record: EVENT, "ignored": None}):
        reader = make_reader()
        assert reader.uses_mapper(RECORD)
        assert not reader.uses_mapper(received(topic="elsewhere"))
        assert not reader.uses_mapper(plain(b"legacy", topic="another"))
        assert not reader.uses_mapper(plain(b"legacy", topic="ignored"))


def test_a_mapper_may_return_json_bytes_or_a_tombstone() -> None:
    csv = RawBytes(b"a,b", content_type="text/csv")
    for payload in ({"order": 1}, csv, None):
        event = map_to(Event(type="order.created", payload=payload))
        assert event is not None
        assert (event.payload, event.is_tombstone) == (payload, False)
    tombstone = map_to(Event(type="order.deleted", payload=None, is_tombstone=True))
    assert tombstone is not None
    assert (tombstone.payload, tombstone.is_tombstone) == (None, True)


def test_bytes_of_a_mapper_are_deserialized_by_their_content_type(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []

    def deserialized(event: Event, *about: Any) -> Event:
        given.append(about)
        return EVENT

    monkeypatch.setattr(module, "deserialized", deserialized)
    for payload in (RawBytes(b"a,b", content_type="text/csv"), b"plain"):
        event = map_to(Event(type="order.created", payload=payload))
        assert event is not None
        assert event.payload == EVENT.payload
    assert given == [(b"a,b", "text/csv", "elsewhere"), (b"plain", "", "elsewhere")]


def test_a_mapper_has_as_much_time_as_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def call_within(seconds: float, subject: str, function: Any, *arguments: Any, about: dict[str, object]) -> Event:
        calls.append((seconds, subject, arguments, about))
        found: Event = function(*arguments)
        return found

    monkeypatch.setattr(module, "call_within", call_within)
    record = ReceivedRecord("elsewhere", 2, 7, None, b"legacy")
    with outbox_settings(INBOX={"elsewhere": lambda record: EVENT}, HANDLER_TIMEOUT=5.0):
        make_reader().read(record)
    subject = "mapper OUTBOX[\"INBOX\"]['elsewhere'] with record elsewhere/2/7"
    about = {"event_id": "elsewhere/2/7", "topic": "elsewhere", "attempt": 1}
    assert calls == [(5.0, subject, (record,), about)]


# Schemas

MISSING = NotLoaded("schema", lambda: None)


class Scripted(Reader):
    """Returns or raises one result after the other."""

    def __init__(self, *results: Event | Exception) -> None:
        super().__init__(using="default", accepts=lambda event_type, topic: True, accepts_own=False)
        self.results = [*results]

    def read(self, record: ReceivedRecord) -> Event | None:
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Exception | None]:
    """What loading schemas ends with, by their keys."""
    found: dict[Any, Exception | None] = {"schema": None}

    def load_all(missing: list[NotLoaded], seconds: float) -> dict[Any, Exception | None]:
        assert ([each.key for each in missing], seconds) == (["schema"], LOAD_SECONDS)
        return found

    monkeypatch.setattr(module, "load_all", load_all)
    return found


def test_a_record_is_read_when_its_schema_is_loaded(faults: dict[Any, Exception | None]) -> None:
    assert Scripted(MISSING, EVENT).read_loading(RECORD) is EVENT


def test_a_record_whose_schema_cannot_be_loaded_is_unreadable(faults: dict[Any, Exception | None]) -> None:
    faults["schema"] = KeyError("no such schema")
    with pytest.raises(UnreadableRecord, match="its schema cannot be loaded") as caught:
        Scripted(MISSING).read_loading(RECORD)
    assert caught.value.__cause__ is faults["schema"]


@pytest.mark.parametrize(
    ("fault", "seconds"), [(RegistryUnavailable("away", 7.0), 7.0), (None, LOAD_SECONDS)], ids=["away", "slow"]
)
def test_a_record_waits_for_a_registry_as_long_as_that_takes(
    faults: dict[Any, Exception | None], fault: Exception | None, seconds: float
) -> None:
    faults["schema"] = fault
    reader = Scripted(MISSING, MISSING)
    with pytest.raises(RegistryUnavailable):
        reader.read_loading(RECORD)
    assert reader.take_wait(RECORD) == seconds
    assert reader.take_wait(RECORD) == LOAD_SECONDS


def test_a_record_waits_while_the_registry_is_away() -> None:
    reader = Scripted(RegistryUnavailable("away", 7.0))
    with pytest.raises(RegistryUnavailable):
        reader.read_loading(RECORD)
    assert reader.take_wait(RECORD) == 7.0
