"""A process asks the registry seldom, never twice for what does not change, and goes on while it is away."""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.exceptions import InvalidMessage, RegistryUnavailable, SchemaNotFound, UnreadableRecord
from django_outbox.serializers.avro import AvroSerializer
from django_outbox.serializers.base import NotLoaded, load_all
from django_outbox.serializers.lookups import ById, ByText, Latest
from django_outbox.serializers.outage import registry_trouble
from django_outbox.serializers.registry import REFRESH_SECONDS, RETRY_SECONDS, Registry
from django_outbox.serializers.schemas import registry_of
from tests.support.clock import Clock
from tests.support.processes import wait_until
from tests.support.registry import StubRegistry, stopped_clock
from tests.support.serializing import ORDER, deserialize, serialize

LATEST = Latest("AVRO", "orders-value")


def avro(registry: StubRegistry, **options: Any) -> AvroSerializer:
    return AvroSerializer(registry={"url": registry.url, "max.retries": 0}, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the schema, formatted in another way than the registry's."""
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER, indent=2))
    return path


# Writing


def test_a_value_begins_with_the_id_of_the_latest_version(registry: StubRegistry) -> None:
    registry.register("orders-value", {**ORDER, "doc": "old"})
    latest = registry.register("orders-value", ORDER)

    assert serialize(avro(registry), {"order_id": 7})[:5] == b"\0" + latest.to_bytes(4, "big")


def test_one_request_serves_all_messages(registry: StubRegistry) -> None:
    registry.register("orders-value", ORDER)
    for _ in range(3):
        serialize(avro(registry), {"order_id": 7})

    assert registry.requests == ["GET /subjects/orders-value/versions/latest"]


def test_a_file_is_looked_up_and_its_formatting_does_not_matter(registry: StubRegistry, path: Path) -> None:
    number = registry.register("orders-value", ORDER)
    registry.register("orders-value", {**ORDER, "doc": "later"})

    assert serialize(avro(registry, schema=path), {"order_id": 7})[1:5] == number.to_bytes(4, "big")


def test_a_file_is_registered_only_if_that_is_allowed(registry: StubRegistry, path: Path) -> None:
    with pytest.raises(
        SchemaNotFound, match=r"not registered under 'orders-value' in .*: run .* outbox_schemas register"
    ):
        serialize(avro(registry, schema=path), {"order_id": 7})
    assert registry.subjects == {}

    serialize(avro(registry, schema=path, auto_register=True), {"order_id": 7})

    assert registry.subjects == {"orders-value": [1]}


def test_a_registry_that_refuses_a_schema_is_not_away(registry: StubRegistry, path: Path) -> None:
    registry.incompatibilities = ["order_id has another type"]
    with pytest.raises(
        SchemaNotFound, match="refuses the schema for subject 'orders-value': order_id has another type"
    ):
        serialize(avro(registry, schema=path, auto_register=True), {"order_id": 7})


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        ("{topic}-value", "orders-value"),
        ("{record}", "shop.Order"),
        ("{topic}-{record}", "orders-shop.Order"),
        ("{event_type}", "order.created"),
        ("fixed", "fixed"),
    ],
)
def test_subject_names(registry: StubRegistry, path: Path, pattern: str, subject: str) -> None:
    serialize(avro(registry, schema=path, subject=pattern, auto_register=True), {"order_id": 7})

    assert list(registry.subjects) == [subject]


@pytest.mark.parametrize(
    ("options", "subject"), [({}, "orders-shop.Order"), ({"subject": "{topic}-value"}, "orders-value")]
)
def test_types_in_files_of_their_own_have_subjects_of_their_own(
    registry: StubRegistry, path: Path, options: Any, subject: str
) -> None:
    """One subject refuses the second type: by its rules, it is another version of the first one."""
    path.rename(path.with_name("order.created.avsc"))
    serializer = avro(registry, schema=path.with_name("{event_type}.avsc"), auto_register=True, **options)

    serialize(serializer, {"order_id": 7})

    assert list(registry.subjects) == [subject]


def test_a_schema_without_a_name_names_no_subject(registry: StubRegistry, path: Path) -> None:
    path.write_text('{"type": "array", "items": "long"}')
    with pytest.raises(ImproperlyConfigured, match=r"order\.avsc names no record for {record} in subject"):
        avro(registry, schema=path, subject="{record}").check()


def test_check_reads_the_files_of_all_types(registry: StubRegistry, path: Path) -> None:
    serializer = avro(registry, schema=path.with_name("{event_type}.avsc"))
    serializer.check()
    path.with_name("order.paid.avsc").write_text("{")

    with pytest.raises(ImproperlyConfigured, match=r"order\.paid\.avsc is not a valid AVRO schema"):
        serializer.check()
    assert registry.requests == []


def test_a_path_may_name_the_event_type(registry: StubRegistry, path: Path) -> None:
    path.rename(path.with_name("order.created.avsc"))
    serializer = avro(registry, schema=path.with_name("{event_type}.avsc"), auto_register=True)

    serialize(serializer, {"order_id": 7})
    with pytest.raises(ImproperlyConfigured, match=r"The schema .*order\.gone\.avsc of 'order\.gone' cannot be read"):
        serialize(serializer, {"order_id": 7}, event_type="order.gone")


def test_a_file_that_is_not_a_schema(registry: StubRegistry, path: Path) -> None:
    path.write_text('{"type": "nothing"}')
    with pytest.raises(ImproperlyConfigured, match=r"order\.avsc is not a valid AVRO schema: "):
        avro(registry, schema=path).validate({}, "order.created", "orders")


def test_a_row_that_is_nested_too_deeply_is_invalid(registry: StubRegistry) -> None:
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"], "default": None}]}
    registry.register("orders-value", node)
    serializer = avro(registry)
    serialize(serializer, {})
    for depth in (500, 100_000):
        with pytest.raises(InvalidMessage, match="payload: it is nested too deeply"):
            serializer.serialize('{"next":' * depth + "null" + "}" * depth, "order.created", "orders")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "1" * 5000, "null", '{"order_id": NaN}', '{"order_id": 1e999}'])
def test_a_row_that_was_edited_by_hand_is_invalid(registry: StubRegistry, text: str) -> None:
    registry.register("orders-value", ORDER)
    serializer = avro(registry)
    serialize(serializer, {"order_id": 7})

    with pytest.raises(InvalidMessage):
        serializer.serialize(text, "order.created", "orders")


# publish()


def test_with_a_file_publish_checks_without_the_registry(registry: StubRegistry, path: Path) -> None:
    with pytest.raises(InvalidMessage, match=r"payload.order_id: expected long, got text"):
        avro(registry, schema=path).validate({"order_id": "7"}, "order.created", "orders")

    assert registry.requests == []


def test_without_a_file_publish_checks_once_the_schema_is_there(registry: StubRegistry) -> None:
    registry.register("orders-value", ORDER)
    serializer = avro(registry)
    serializer.validate({"order_id": "7"}, "order.created", "orders")  # in the background, it is loaded

    def refuses() -> bool:
        try:
            serializer.validate({"order_id": "7"}, "order.created", "orders")
        except InvalidMessage:
            return True
        return False

    wait_until(refuses, 30, what="a check by the loaded schema")


def test_publish_does_not_wait_for_a_registry_that_hangs(registry: StubRegistry) -> None:
    registry.register("orders-value", ORDER)
    hang = threading.Event()

    def answer(method: str, path: str) -> None:
        hang.wait(30)
        hang.set()  # too late for who waits for it

    registry.answer = answer
    try:
        avro(registry).validate({"order_id": "7"}, "order.created", "orders")  # returns
        assert not hang.is_set()
    finally:
        hang.set()


def test_publish_does_not_fail_without_a_subject(registry: StubRegistry) -> None:
    serializer = avro(registry)
    with pytest.raises(SchemaNotFound):
        serialize(serializer, {"order_id": 7})

    serializer.validate({"order_id": "7"}, "order.created", "orders")


# What was loaded


def test_a_registry_that_is_away_stops_nothing_that_is_loaded(registry: StubRegistry) -> None:
    registry.register("orders-value", ORDER)
    value = serialize(avro(registry), {"order_id": 7})
    deserialize(avro(registry), value)
    registry.answer = lambda method, path: (503, {"message": "away"})

    assert serialize(avro(registry), {"order_id": 7}) == value
    assert deserialize(avro(registry), value).payload["order_id"] == 7


def test_threads_that_need_a_registry_at_the_same_time_share_one(
    registry: StubRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"url": registry.url}
    of_faster_thread: list[Registry] = []

    def make(options: dict[str, str]) -> Registry:
        made = Registry(options)
        if not of_faster_thread:
            of_faster_thread.append(made)
            of_faster_thread[0] = registry_of(options)
        return made

    monkeypatch.setattr("django_outbox.serializers.schemas.Registry", make)

    assert registry_of(options) is of_faster_thread[0]


def test_a_later_version_is_found_in_the_background(registry: StubRegistry) -> None:
    clock = Clock(1000.0)
    loaded = Registry({"url": registry.url}, clock=clock)
    registry.register("orders-value", ORDER)
    loaded.load(LATEST)
    registry.register("orders-value", {**ORDER, "doc": "later"})
    clock.now += REFRESH_SECONDS - 1
    assert loaded.get(LATEST).version_in("orders-value") == 1  # type: ignore[union-attr]
    assert len(registry.requests) == 1

    clock.now += 1
    wait_until(lambda: loaded.get(LATEST).version_in("orders-value") == 2, 30, what="the later version")  # type: ignore[union-attr]

    loaded.close()


@pytest.fixture
def clock(registry: StubRegistry, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped_clock(monkeypatch)


LATER = {**ORDER, "fields": [*ORDER["fields"], {"name": "total", "type": "long", "default": 0}]}  # type: ignore[misc]


@pytest.mark.parametrize("seconds", [RETRY_SECONDS, 86_400])
def test_before_a_message_is_refused_the_latest_version_is_loaded_again(
    registry: StubRegistry, clock: Clock, seconds: float
) -> None:
    """First the schema is registered, then the code that fills its new field is deployed. Relays run all the time."""
    registry.register("orders-value", ORDER)
    serializer = avro(registry)
    serialize(serializer, {"order_id": 7})
    number = registry.register("orders-value", LATER)
    clock.now += seconds

    assert serialize(serializer, {"order_id": 7, "total": 1})[1:5] == number.to_bytes(4, "big")


def test_a_message_that_fits_no_version_asks_for_a_later_one_seldom(registry: StubRegistry, clock: Clock) -> None:
    registry.register("orders-value", ORDER)
    serializer = avro(registry)
    serialize(serializer, {"order_id": 7})
    for _ in range(3):
        clock.now += RETRY_SECONDS - 1
        for _ in range(10):
            with pytest.raises(InvalidMessage, match=r"payload\.order_id"):
                serialize(serializer, {"order_id": "x"})

    assert len(registry.requests) == 2


def test_a_schema_that_cannot_be_used_may_have_been_replaced(registry: StubRegistry, clock: Clock) -> None:
    registry.register("orders-value", '{"type": "nothing"}')
    serializer = avro(registry)
    with pytest.raises(SchemaNotFound):
        serialize(serializer, {"order_id": 7})
    registry.register("orders-value", ORDER)
    clock.now += RETRY_SECONDS

    serialize(serializer, {"order_id": 7})


def test_publish_stores_what_a_later_version_may_accept(registry: StubRegistry, clock: Clock) -> None:
    registry.register("orders-value", ORDER)
    serializer = avro(registry)
    serialize(serializer, {"order_id": 7})
    payload = {"order_id": 7, "total": "x"}
    with pytest.raises(InvalidMessage, match=r"payload\.total: the schema does not have it"):
        serializer.validate(payload, "order.created", "orders")
    registry.register("orders-value", LATER)
    clock.now += RETRY_SECONDS

    serializer.validate(payload, "order.created", "orders")  # in the background, the later version is loaded

    def refuses() -> bool:
        try:
            serializer.validate(payload, "order.created", "orders")
        except InvalidMessage as error:
            return error.reason == "expected long, got text"
        return False

    wait_until(refuses, 30, what="a check by the later version")


def test_a_schema_that_is_not_valid_is_parsed_once(registry: StubRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.register("orders-value", '{"type": "nothing"}')
    serializer = avro(registry)
    parsed = []
    make = serializer.make_codec
    monkeypatch.setattr(serializer, "make_codec", lambda *arguments: parsed.append(1) or make(*arguments))
    for _ in range(3):
        with pytest.raises(SchemaNotFound, match="schema 1 of the registry is not a valid AVRO schema"):
            serialize(serializer, {"order_id": 7})

    assert len(parsed) == 1


def in_child(work: Callable[[], object]) -> None:
    """Do it in a fork of this process, where an error or a hang is one of the test."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(60)
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_a_connection_of_its_own(registry: StubRegistry) -> None:
    registry.register("orders-value", ORDER)
    serialize(avro(registry), {"order_id": 7})

    in_child(lambda: avro(registry).registry.load(ById("AVRO", 1)))
    avro(registry).registry.load(ById("AVRO", 1))

    assert len(registry.connections) == 2  # one each, used twice by the parent


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_is_forked_during_a_load_loads_in_the_background(
    registry: StubRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("orders-value", ORDER)
    loaded = avro(registry).registry

    def load() -> None:
        monkeypatch.undo()
        loaded.load_in_background(LATEST)
        wait_until(lambda: loaded.get(LATEST) is not None, 30, what="the schema")

    start = threading.Thread.start
    forks = 0

    def fork_instead(thread: threading.Thread) -> None:  # as another thread may do while this one starts it
        nonlocal forks
        if thread.name == "outbox-schemas":
            forks += 1
            in_child(load)
        else:
            start(thread)

    monkeypatch.setattr(threading.Thread, "start", fork_instead)
    loaded.load_in_background(LATEST)

    assert forks == 1


def test_a_thread_that_cannot_start_does_not_fail_publish(
    registry: StubRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", cannot)
    avro(registry).validate({"order_id": "7"}, "order.created", "orders")


def test_what_is_not_there_is_asked_for_again_after_a_while(registry: StubRegistry) -> None:
    clock = Clock(1000.0)
    loaded = Registry({"url": registry.url}, clock=clock)
    loaded.load(LATEST)
    registry.register("orders-value", ORDER)
    with pytest.raises(SchemaNotFound, match="has no subject 'orders-value'"):
        loaded.get(LATEST)

    clock.now += RETRY_SECONDS

    assert loaded.get(LATEST) is None
    loaded.load(LATEST)
    assert loaded.get(LATEST) is not None
    loaded.close()


class Timed:
    """A registry with a clock of the test's own, and what it logs."""

    def __init__(self, registry: StubRegistry, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "django_outbox.serializers")
        self._caplog = caplog
        self.stub = registry
        self.clock = Clock(1000.0)
        self.registry = Registry({"url": registry.url, "max.retries": 0}, clock=self.clock)

    @property
    def log(self) -> list[str]:
        return [each.getMessage() for each in self._caplog.records if each.name == "django_outbox.serializers"]

    def fails(self) -> float:
        """Ask in vain; returns the seconds after which to ask again."""
        with pytest.raises(RegistryUnavailable) as caught:
            self.registry.load(LATEST)
        return caught.value.retry_after


@pytest.fixture
def timed(registry: StubRegistry, caplog: pytest.LogCaptureFixture) -> Iterator[Timed]:
    timed = Timed(registry, caplog)
    yield timed
    timed.registry.close()


def test_an_outage_is_logged_when_it_begins_once_a_minute_and_when_it_ends(timed: Timed) -> None:
    timed.stub.go_away()
    for _ in range(130):
        timed.fails()
        timed.clock.now += 1
    timed.stub.register("orders-value", ORDER)
    timed.stub.come_back()
    timed.clock.now = 1200.0
    timed.registry.load(LATEST)

    reason = f"{timed.stub.url} answers 503 for subject 'orders-value': away."
    began, *reminders, ended = timed.log
    assert began == (
        f"The schema registry {reason} Messages whose schema is not loaded wait; loaded schemas stay in use."
    )
    assert [text.rpartition(" s: ")[2] for text in reminders] == [reason] * len(reminders)
    assert 1 <= len(reminders) <= 2
    assert ended == f"The schema registry {timed.stub.url} is available again after 200 s."


def test_good_answers_of_others_do_not_end_an_outage_or_begin_it_again(timed: Timed) -> None:
    """Only a load ends it, not a worker that does something else meanwhile."""
    timed.stub.go_away()
    delays = []
    for _ in range(9):
        delays.append(timed.fails())
        with pytest.raises(RegistryUnavailable):
            timed.registry.get(ById("AVRO", 7))
        timed.clock.now += delays[-1]

    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert len([text for text in timed.log if "Messages whose schema" in text]) == 1


def test_nobody_asks_a_registry_that_has_just_failed(timed: Timed) -> None:
    timed.stub.go_away()
    first = timed.fails()
    timed.clock.now += first / 2

    assert timed.fails() == pytest.approx(first / 2)
    with pytest.raises(RegistryUnavailable) as caught:
        timed.registry.get(ById("AVRO", 7))

    assert caught.value.retry_after >= first / 2
    assert len(timed.stub.requests) == 1


def test_a_registry_that_returns_is_noticed_in_the_background(timed: Timed) -> None:
    timed.stub.go_away()
    timed.clock.now += timed.fails()
    timed.stub.register("orders-value", ORDER)
    timed.stub.come_back()

    with pytest.raises(RegistryUnavailable):
        timed.registry.get(LATEST)

    def is_loaded() -> bool:
        with suppress(RegistryUnavailable):
            return timed.registry.get(LATEST) is not None
        return False

    wait_until(is_loaded, 30, what="the schema")
    assert len(timed.stub.requests) == 2


def test_requests_that_fail_together_are_one_failure(timed: Timed) -> None:
    timed.stub.hang()
    missing = [NotLoaded(number, partial(timed.registry.load, ById("AVRO", number))) for number in range(1, 9)]
    load_all(missing, 0)
    wait_until(lambda: len(timed.stub.requests) == 8, 30, what="the requests")
    timed.stub.is_back.set()

    wait_until(lambda: timed.log, 30, what="the failure")
    timed.clock.now += 0.5
    wait_until(lambda: timed.fails() == 1, 30, what="the second failure")
    assert len(timed.log) == 1


def test_others_do_not_wait_for_a_request_without_an_answer(timed: Timed) -> None:
    timed.stub.hang()
    load_all([NotLoaded("key", partial(timed.registry.load, LATEST))], 0)
    wait_until(lambda: timed.stub.requests, 30, what="the request")
    timed.clock.now += 1

    with pytest.raises(RegistryUnavailable, match=f"^{timed.stub.url} has not answered for 1 s"):
        timed.registry.get(ById("AVRO", 7))
    timed.clock.now += 60  # the thread of such a request may have been lost in a fork
    assert timed.registry.get(ById("AVRO", 7)) is None


def test_trouble_is_forgotten_when_nothing_needs_the_registry(timed: Timed) -> None:
    timed.stub.go_away()
    timed.fails()
    assert timed.stub.url not in registry_trouble()  # a refresh of what is loaded, perhaps

    with pytest.raises(RegistryUnavailable):
        timed.registry.get(LATEST)
    assert timed.stub.url in registry_trouble()

    timed.clock.now += 150

    assert timed.stub.url not in registry_trouble()


def test_messages_come_back_soon_while_the_registry_is_tried_again(timed: Timed) -> None:
    timed.stub.go_away()
    for _ in range(9):
        timed.clock.now += timed.fails()
    timed.stub.hang()
    load_all([NotLoaded("key", partial(timed.registry.load, LATEST))], 0)
    wait_until(lambda: len(timed.stub.requests) == 10, 30, what="the request")

    with pytest.raises(RegistryUnavailable) as caught:
        timed.registry.get(ById("AVRO", 7))

    assert caught.value.retry_after == 1
    assert len(timed.stub.requests) == 10


def test_a_login_that_may_not_read_a_schema_is_not_an_outage(timed: Timed) -> None:
    timed.stub.answer = lambda method, path: (403, {"message": "no"})
    timed.registry.load(LATEST)

    with pytest.raises(SchemaNotFound, match="refuses this login for subject 'orders-value': no"):
        timed.registry.get(LATEST)
    assert timed.log == []


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_a_registry_that_refuses_this_client_is_away(registry: StubRegistry, status: int) -> None:
    registry.answer = lambda method, path: (status, {"error_code": status, "message": "no"})
    with pytest.raises(RegistryUnavailable, match=f"^{registry.url} answers {status} for subject 'orders-value': no"):
        serialize(avro(registry), {"order_id": 7})


@pytest.mark.parametrize("content", [b"<html>Not found</html>", {"detail": "Not found"}])
def test_a_wrong_url_is_not_a_missing_schema(registry: StubRegistry, path: Path, content: Any) -> None:
    registry.answer = lambda method, path: (404, content)
    serializer = avro(registry, schema=path, auto_register=True)

    with pytest.raises(RegistryUnavailable, match="answers 404 for subject 'orders-value'"):
        serialize(serializer, {"order_id": 7})
    with pytest.raises(RegistryUnavailable, match="answers 404 for subject 'orders-value'"):
        serializer.registry.incompatibilities(ByText("AVRO", "orders-value", path.read_text()))


def test_an_answer_that_is_not_json_is_not_a_schema(registry: StubRegistry) -> None:
    registry.answer = lambda method, path: (200, b"<html>Sign in</html>")
    with pytest.raises(RegistryUnavailable):
        serialize(avro(registry), {"order_id": 7})


def test_schemas_of_one_pass_are_loaded_once_each(registry: StubRegistry) -> None:
    missing = []
    for number in range(50):
        topic = f"orders-{number % 25}"
        registry.register(f"{topic}-value", ORDER)
        with pytest.raises(NotLoaded) as caught:
            avro(registry).serialize('{"order_id": 7}', "order.created", topic)
        missing.append(caught.value)

    load_all(missing)

    assert len(registry.requests) == len(set(registry.requests)) == 25


# Reading


def test_headers_name_the_schema(registry: StubRegistry) -> None:
    registry.register("orders-value", {**ORDER, "doc": "old"})
    number = registry.register("orders-value", ORDER)
    value = serialize(avro(registry), {"order_id": 7})

    assert deserialize(avro(registry), value) == (
        {"order_id": 7, "note": None},
        {"schema_id": str(number), "schema_version": "2"},
    )


def test_the_version_is_that_of_the_subject(registry: StubRegistry) -> None:
    registry.register("others-value", ORDER)
    registry.register("orders-value", {**ORDER, "doc": "old"})
    registry.register("orders-value", ORDER)
    value = serialize(avro(registry), {"order_id": 7})

    assert deserialize(avro(registry), value).headers["schema_version"] == "2"
    assert deserialize(avro(registry), value, topic="others").headers["schema_version"] == "1"
    assert deserialize(avro(registry), value, topic="copies").headers["schema_version"] == "1"


def test_a_registry_that_does_not_know_versions_of_an_id(registry: StubRegistry) -> None:
    registry.register("orders-value", ORDER)
    value = serialize(avro(registry), {"order_id": 7})
    registry.answer = lambda method, path: (404, {"message": "?"}) if path.endswith("/1/versions") else None

    assert deserialize(avro(registry), value).headers == {"schema_id": "1"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin with a byte 0 and the id of a schema"),
        (b"\0\0\0\0", "does not begin with a byte 0 and the id of a schema"),
        (b"\1\0\0\0\1\2", "does not begin with a byte 0 and the id of a schema"),
        (b"\0\0\0\0\1", "cannot be read with schema 1: it is cut short or not Avro"),
        (b"\0\0\0\0\1\x0e\x00extra", "cannot be read with schema 1: 5 bytes are left"),
        (b"\0\0\0\0\2\x0e", "Schema 2 is JSON, but 'order.created' is read as AVRO"),
        (b"\0\0\0\0\3\x0e", "schema 3 of the registry is not a valid AVRO schema"),
        (b"\0\x7f\xff\xff\xff\x0e", "has no schema 2147483647: it was deleted, or the record was written with another"),
        (b"\0\xff\xff\xff\xff\x0e", "No registry has a schema 4294967295"),
        (b"\0\0\0\0\0\x0e", "No registry has a schema 0"),
    ],
)
def test_a_value_that_cannot_be_read(registry: StubRegistry, data: bytes, reason: str) -> None:
    registry.register("orders-value", ORDER)
    registry.register("others", '{"type": "object"}', kind="JSON")
    registry.register("broken", '{"type": "nothing"}')

    with pytest.raises(UnreadableRecord, match=reason):
        deserialize(avro(registry), data)


# Options


def fails_with_its_options(options: Any) -> Any:
    raise ValueError(f"no token for {options}")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"registry": {}}, 'registry must be a dict with the "url"'),
        ({"registry": "http://registry"}, 'registry must be a dict with the "url"'),
        ({"registry": {"url": "http://registry", "nothing": 1}}, "Unrecognized properties: nothing"),
        ({"subject": "{nothing}"}, "subject may name {topic}, {event_type} and {record}"),
        ({"schema": "{record}.avsc"}, "schema may name {topic} and {event_type}"),
        ({"auto_register": True}, "auto_register, and {record} in subject, need a file"),
        ({"subject": "{record}"}, "auto_register, and {record} in subject, need a file"),
    ],
)
def test_an_option_that_is_not_valid(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=reason):
        AvroSerializer(**{"registry": {"url": "http://registry"}, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://user:s3cr3t-w01rd@127.0.0.1:1"},
        {"url": "http://user:s3cr3t%2Dw02rd@127.0.0.1:1"},
        {"url": "user:s3cr3t-w03rd@127.0.0.1:1"},
        {"url": "user:s3cr3t/w04@rd@127.0.0.1:1"},
        {"url": "s3cr3t-w05rd@127.0.0.1:1"},
        {"url": "http://127.0.0.1:1,user:s3cr3t-w06rd@127.0.0.1:1"},
        {"url": "http://127.0.0.1:1", "proxy": "user:s3cr3t-w07rd@127.0.0.1:1"},
        {"url": "http://127.0.0.1:1", "proxy": "http://user:s3cr3t-w08rd@127.0.0.1:1"},
        {
            "url": "http://127.0.0.1:1",
            "bearer.auth.credentials.source": "CUSTOM",
            "bearer.auth.custom.provider.function": fails_with_its_options,
            "bearer.auth.custom.provider.config": {"login": [{"key": "s3cr3t-w09rd"}]},
        },
        {"url": "http://127.0.0.1:1", "basic.auth.user.info": "user:s3cr3t-w10rd"},
        {"url": "http://127.0.0.1:1", "basic.auth.user.info": "s3cr3t-w11rd"},
        {"url": "http://127.0.0.1:1", "bearer.auth.credentials.source": "nothing", "bearer.auth.token": "s3cr3t-w12rd"},
        {"url": "http://127.0.0.1:1", "ssl.key.location": "nothing.pem", "ssl.key.password": "s3cr3t-w13rd"},
    ],
)
def test_secrets_are_not_shown(options: dict[str, Any]) -> None:
    """Each case has a secret of its own, as one is hidden in all later texts of the process."""
    with pytest.raises((ImproperlyConfigured, RegistryUnavailable)) as caught:
        serialize(AvroSerializer(registry={**options, "max.retries": 0}), {"order_id": 7})

    assert "s3cr3t" not in str(caught.value)


BEARER = {
    "bearer.auth.credentials.source": "STATIC_TOKEN",
    "bearer.auth.token": "s3cr3t-word",
    "bearer.auth.logical.cluster": "lsrc",
    "bearer.auth.identity.pool.id": "pool",
}
BASIC = "Basic " + base64.b64encode(b"user:s3cr3t:word").decode()


@pytest.mark.parametrize(
    ("login", "options", "sent"),
    [
        ("user:s3cr3t%3Aword@", {}, BASIC),
        ("", {"basic.auth.user.info": "user:s3cr3t:word"}, BASIC),
        ("", BEARER, "Bearer s3cr3t-word"),
        ("", {}, None),
    ],
)
def test_a_login_is_sent_but_neither_shown_nor_logged(
    registry: StubRegistry, login: str, options: dict[str, str], sent: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    registry.register("orders-value", ORDER)
    url = registry.url.replace("http://", f"http://{login}")
    serializer = AvroSerializer(registry={"url": url, **options})

    serialize(serializer, {"order_id": 7})

    assert registry.logins == [sent]
    assert repr(serializer.registry) == f"Registry({registry.url})"
    assert "s3cr3t" not in caplog.text
