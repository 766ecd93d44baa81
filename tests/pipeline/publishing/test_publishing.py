"""Publishing: a message is stored with the business data or not at all, and only what Kafka can carry."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, models, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from django_outbox import Event, InvalidMessage, OutboxError, TransactionRequired, publish, publish_many
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.app.models import Effect
from tests.support.outbox import Pipeline, make_message
from tests.support.overrides import outbox_settings
from tests.support.properties import any_text, examples, json_values

pytestmark = pytest.mark.django_db

FIELDS = [field.attname for field in OutboxMessage._meta.concrete_fields]
ALIAS = "other"
MARIADB_DEPTH = 31
DEPTH = 99


def values(message: OutboxMessage) -> dict[str, Any]:
    return {name: getattr(message, name) for name in FIELDS}


def stored(message: OutboxMessage) -> OutboxMessage:
    return OutboxMessage.objects.get(id=message.id)


def payload_in_database(payload: Any) -> Any:
    return stored(publish("order.created", payload)).payload


def database_time() -> datetime:
    effect = Effect.objects.create(name="clock")
    return Effect.objects.annotate(now=DatabaseNow()).get(id=effect.id).now


def nested(depth: int, innermost: Any = None) -> Any:
    value = [] if innermost is None else [innermost]
    for level in range(depth - 1):
        value = [value] if level % 2 else {"in": value}  # type: ignore[assignment]
    return value


def lasting_depth() -> int:
    return MARIADB_DEPTH if connection.vendor == "mysql" else DEPTH


@pytest.fixture
def other(transactional_db: None) -> Iterator[str]:
    """A second alias for the same database."""
    connections.settings[ALIAS] = dict(connection.settings_dict)
    connections[ALIAS].connect()  # past Django's guard, which knows only what was there at the start
    yield ALIAS
    connections[ALIAS].close()
    del connections[ALIAS]
    del connections.settings[ALIAS]


class ToOther:
    """A router that sends all writes to the second alias."""

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
        return ALIAS


# What publish() returns


@pytest.mark.parametrize("delay", [None, 0, 90.5, timedelta(minutes=2)])
def test_returned_message_is_the_stored_one(delay: Any) -> None:
    message = publish("order.created", {"id": 1}, key="k", headers={"trace": "t"}, version="v2", delay=delay)
    assert message.id is not None
    assert values(message) == values(stored(message))


def test_returned_messages_of_publish_many_are_the_stored_ones() -> None:
    messages = publish_many([Event(type="order.created", payload=n, key=str(n)) for n in range(3)])
    assert [values(message) for message in messages] == [values(stored(message)) for message in messages]


def test_new_message_is_pending_and_due_now() -> None:
    message = publish("order.created", {"id": 1})
    assert message.status == "pending"
    assert message.next_retry_at == message.created_at == message.updated_at
    assert list(OutboxMessage.objects.due()) == [message]


def test_defaults() -> None:
    message = stored(publish("order.created", {"id": 1}))
    assert message.topic == "outbox"
    assert message.message_key == ""
    assert message.headers == {}
    assert message.event_version == "v1"
    assert message.max_retry == 20
    assert message.event_id.version == 7
    assert (message.publish_count, message.delivery_count, message.retry_count) == (0, 0, 0)


def test_times_are_the_database_clock_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
    before = database_time()
    message = publish("order.created", {"id": 1}, delay=60)
    (other,) = publish_many([Event(type="order.created")])
    after = database_time()
    assert before <= message.created_at <= other.created_at <= after
    assert message.next_retry_at == message.created_at + timedelta(seconds=60)
    assert other.next_retry_at == other.created_at


@pytest.mark.parametrize("delay", [90, 1.25, timedelta(hours=5), timedelta(days=3650)])
def test_delayed_message_is_not_due_before(delay: Any) -> None:
    message = stored(publish("order.created", {"id": 1}, delay=delay))
    wait = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
    assert message.next_retry_at == message.created_at + wait
    assert not OutboxMessage.objects.due().exists()
    OutboxMessage.objects.update(next_retry_at=F("next_retry_at") - wait)
    assert OutboxMessage.objects.due().exists()


def test_publish_is_one_insert() -> None:
    with CaptureQueriesContext(connection) as queries:
        publish("order.created", {"id": 1}, delay=5)
    (query,) = queries.captured_queries
    assert query["sql"].startswith("INSERT INTO")


def test_publish_many_is_one_insert() -> None:
    events = [Event(type="order.created", payload={"id": n}) for n in range(20)]
    with CaptureQueriesContext(connection) as queries:
        publish_many(events)
    assert [query["sql"][:11] for query in queries.captured_queries if "SAVEPOINT" not in query["sql"]] == [
        "INSERT INTO"
    ]


def test_publish_many_keeps_the_order() -> None:
    messages = publish_many(Event(type="order.created", payload=n) for n in range(1500))
    assert [message.payload for message in messages] == list(range(1500))
    assert list(OutboxMessage.objects.order_by("id").values_list("payload", flat=True)) == list(range(1500))


def test_publish_many_of_nothing_writes_nothing() -> None:
    assert publish_many([]) == []
    assert not OutboxMessage.objects.exists()


def test_publish_many_takes_all_that_an_event_has() -> None:
    event_id = uuid.uuid4()
    (message,) = publish_many(
        [Event(type="t", payload=[1], key="k", headers={"h": "v"}, topic="elsewhere", version="v9", id=str(event_id))]
    )
    message = stored(message)
    assert (message.event_type, message.payload, message.message_key, message.headers) == ("t", [1], "k", {"h": "v"})
    assert (message.topic, message.event_version, message.event_id) == ("elsewhere", "v9", event_id)


@pytest.mark.databases("sqlite", "mariadb")
def test_message_is_complete_where_an_insert_returns_nothing_but_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on MySQL.
    for feature in ("can_return_columns_from_insert", "can_return_rows_from_bulk_insert"):
        monkeypatch.setattr(type(connection.features), feature, False)
    messages = [publish("one", 1), *publish_many([Event(type="two", payload=2), Event(type="three", payload=None)])]
    assert [message.event_type for message in OutboxMessage.objects.order_by("id")] == ["one", "two", "three"]
    assert [values(message) for message in messages] == [values(stored(message)) for message in messages]


@pytest.mark.parametrize("event_id", ["01890a5d-ac96-774b-bcce-b302099a8057", uuid.UUID(int=7)])
def test_event_id_may_be_chosen(event_id: Any) -> None:
    message = publish("order.created", 1, event_id=event_id)
    assert message.event_id == stored(message).event_id == uuid.UUID(str(event_id))
    message.delete()
    (message,) = publish_many([Event(type="order.created", id=event_id)])
    assert message.event_id == stored(message).event_id == uuid.UUID(str(event_id))


def test_max_retry_comes_from_the_argument_else_from_the_settings() -> None:
    with outbox_settings(MAX_RETRY=3):
        assert stored(publish("order.created", 1)).max_retry == 3
        assert publish_many([Event(type="order.created")])[0].max_retry == 3
        assert stored(publish("order.created", 1, max_retry=7)).max_retry == 7
        assert stored(publish("order.created", 1, max_retry=0)).max_retry == 0


# Keys


class Number(models.IntegerChoices):
    SEVEN = 7


@pytest.mark.parametrize(
    ("key", "stored_key"),
    [
        (7, "7"),
        (0, "0"),
        (-1, "-1"),
        (10**254, "1" + "0" * 254),
        (Number.SEVEN, "7"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_key_may_be_a_number_or_a_uuid_as_primary_keys_are(key: Any, stored_key: str) -> None:
    (bulk,) = publish_many([Event(type="order.created", key=key)])
    for message in (publish("order.created", 1, key=key), bulk):
        assert message.message_key == stored(message).message_key == stored_key


@pytest.mark.parametrize("key", [True, None, 1.0, b"7"])
def test_any_other_key_is_refused_with_what_to_do(key: Any) -> None:
    with pytest.raises(InvalidMessage, match=rf"not {type(key).__name__}; pass str\(\.\.\.\)$"):
        publish("order.created", 1, key=key)


# Topics


@pytest.mark.parametrize(
    ("event_type", "topic"),
    [
        ("order.created", "orders"),
        ("order.paid.late", "orders"),
        ("invoice.sent", "documents"),
        ("Order.created", "rest"),
        ("orders", "rest"),
        ("user.created", "users-created"),
    ],
)
def test_first_matching_route_names_the_topic(event_type: str, topic: str) -> None:
    routes = {"order.*": "orders", "*.sent": "documents", "*.created": "users-created", "user.*": "never"}
    if event_type == "Order.created":
        del routes["*.created"]
    with outbox_settings(TOPIC="rest", ROUTES=routes):
        assert stored(publish(event_type, 1)).topic == topic
        assert publish_many([Event(type=event_type)])[0].topic == topic


def test_topic_argument_beats_routes() -> None:
    with outbox_settings(ROUTES={"*": "routed"}):
        assert publish("order.created", 1, topic="chosen").topic == "chosen"
        assert publish_many([Event(type="order.created", topic="chosen")])[0].topic == "chosen"


@pytest.mark.parametrize("topic", ["a", "A.b_c-9", "...", "x" * 249])
def test_every_topic_that_kafka_allows(topic: str) -> None:
    assert stored(publish("order.created", 1, topic=topic)).topic == topic


def test_illegal_topic_of_the_settings_is_refused_too() -> None:
    with outbox_settings(ROUTES={"*": "no topic"}), pytest.raises(InvalidMessage) as error:
        publish("order.created", 1)
    assert error.value.field == "topic"


# Transactions


@pytest.mark.django_db(transaction=True)
def test_message_is_rolled_back_with_the_business_data() -> None:
    with suppress(ZeroDivisionError), transaction.atomic():
        Effect.objects.create(name="business")
        publish("order.created", {"id": 1})
        publish_many([Event(type="order.created")])
        raise ZeroDivisionError
    assert not Effect.objects.exists()
    assert not OutboxMessage.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_message_is_committed_with_the_business_data() -> None:
    with transaction.atomic():
        Effect.objects.create(name="business")
        publish("order.created", {"id": 1})
    assert Effect.objects.count() == OutboxMessage.objects.count() == 1


def test_message_is_rolled_back_with_its_savepoint() -> None:
    publish("outer", 1)
    with suppress(ZeroDivisionError), transaction.atomic():
        publish("inner", 1)
        raise ZeroDivisionError
    assert [message.event_type for message in OutboxMessage.objects.all()] == ["outer"]


PUBLISHERS = {
    "publish": lambda **options: publish("order.created", {"id": 1}, **options),
    "publish_many": lambda **options: publish_many([Event(type="order.created")], **options),
    "publish_many of nothing": lambda **options: publish_many([], **options),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", PUBLISHERS)
def test_outside_of_a_transaction_nothing_is_written_and_the_way_out_is_told(name: str) -> None:
    with pytest.raises(TransactionRequired, match=r"`with transaction\.atomic\(\):` block\.$"):
        PUBLISHERS[name]()
    assert not OutboxMessage.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", PUBLISHERS)
def test_in_async_code_the_error_says_what_to_do_and_that_works(name: str) -> None:
    def place_order() -> None:
        with transaction.atomic():
            PUBLISHERS[name]()

    async def view(*, follows_the_advice: bool) -> None:
        if follows_the_advice:
            await sync_to_async(place_order)()
        else:
            PUBLISHERS[name]()

    with pytest.raises(TransactionRequired, match=r"await sync_to_async\(function\)\(\)") as error:
        asyncio.run(view(follows_the_advice=False))
    assert "`with transaction.atomic():`" in str(error.value)
    assert not OutboxMessage.objects.exists()
    async_to_sync(view)(follows_the_advice=True)
    assert OutboxMessage.objects.exists() is (name != "publish_many of nothing")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("fails", [False, True])
def test_async_handler_publishes_in_its_own_transaction(fails: bool) -> None:
    async def handle(event: Event) -> None:
        await sync_to_async(publish)("order.confirmed", event.payload)
        if fails:
            raise ZeroDivisionError

    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    make_message()
    pipeline.turn()
    assert OutboxMessage.objects.filter(event_type="order.confirmed").exists() is not fails


@pytest.mark.django_db(transaction=True)
def test_where_django_allows_transactions_in_async_code_the_advice_is_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # as in a notebook

    async def cell() -> None:
        publish("order.created", {"id": 1})

    with pytest.raises(TransactionRequired, match=r"`with transaction\.atomic\(\):` block\.$"):
        asyncio.run(cell())


@pytest.mark.django_db(transaction=True)
def test_transaction_is_not_required_if_the_settings_say_so() -> None:
    with outbox_settings(REQUIRE_TRANSACTION=False):
        message = publish("order.created", {"id": 1})
        (other,) = publish_many([Event(type="order.created")])
    assert set(OutboxMessage.objects.all()) == {message, other}


@pytest.mark.parametrize("name", PUBLISHERS)
def test_transaction_has_to_be_on_the_outbox_s_own_database(other: str, name: str) -> None:
    with transaction.atomic(), pytest.raises(TransactionRequired, match=r"block on the database 'other'\.$"):
        PUBLISHERS[name](using=other)
    with transaction.atomic(using=other), pytest.raises(TransactionRequired):
        PUBLISHERS[name]()


def test_message_goes_to_the_database_that_is_named(other: str) -> None:
    with transaction.atomic(using=other):
        messages = [publish("order.created", 1, using=other), *publish_many([Event(type="x")], using=other)]
    assert [message._state.db for message in messages] == [other, other]
    assert OutboxMessage.objects.using(other).count() == 2


def test_router_chooses_the_database(other: str, settings: Any) -> None:
    settings.DATABASE_ROUTERS = [ToOther()]
    with transaction.atomic(), pytest.raises(TransactionRequired, match="'other'"):
        publish("order.created", 1)
    with transaction.atomic(using=other):
        assert publish("order.created", 1)._state.db == other
        assert publish_many([Event(type="order.created")])[0]._state.db == other


# What cannot be carried


class Unshowable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


recursive: list[Any] = []
recursive.append(recursive)

NOT_TEXT = [None, 1, b"bytes", ["a"], object(), gettext_lazy("lazy")]
NOT_STORABLE = ["nul\0", "\ud800", "half \udfff of a pair"]

INVALID: dict[str, list[Any]] = {
    "event_type": ["", "x" * 256, *NOT_TEXT, *NOT_STORABLE],
    "version": ["x" * 33, *NOT_TEXT, *NOT_STORABLE],
    "key": [
        "x" * 256,
        10**255,
        10**5000,
        True,
        *[each for each in NOT_TEXT if not isinstance(each, int)],
        *NOT_STORABLE,
    ],
    "topic": ["", ".", "..", "two words", "übung", "a/b", "a\n", "x" * 250, *NOT_TEXT[1:], *NOT_STORABLE],
    "headers": [
        [],
        0,
        "text",
        [("a", "b")],
        {"": "x"},
        {"x" * 10_000: 1},
        {1: "x"},
        {"a": 1},
        {"a": None},
        {"a": b"x"},
        {b"a": "x"},
        {"ce_id": "x"},
        {"CE_anything": "x"},
        {"content-type": "x"},
        {"Content-Type": "x"},
        *[{"a": text} for text in NOT_STORABLE],
        *[{text: "a"} for text in NOT_STORABLE],
    ],
    "payload": [
        float("nan"),
        float("inf"),
        {"a": [-float("inf")]},
        {float("nan"): 1},
        object(),
        {1, 2},
        b"bytes",
        datetime(2026, 1, 1, tzinfo=UTC),
        uuid.UUID(int=1),
        gettext_lazy("lazy"),
        {("a", "b"): 1},
        {b"a": 1},
        10**5000,
        recursive,
        nested(DEPTH + 1),
        nested(DEPTH, nested(1)),
        nested(940),
        nested(5_000),
        nested(100_000),
        *NOT_STORABLE,
        *[{"a": [{"b": text}]} for text in NOT_STORABLE],
        *[{"a": [{text: "b"}]} for text in NOT_STORABLE],
        ["\\u0000", "\0"],
    ],
    "event_id": ["", "x", "x" * 10_000, Unshowable(), "0" * 31, 7, b"0" * 16, object(), True],
    "delay": [
        -1,
        10**5000,
        -0.001,
        timedelta(days=-1),
        float("nan"),
        float("inf"),
        1e300,
        timedelta(days=3651),
        "5",
        [],
        True,
    ],
    "max_retry": [-1, 10**5000, Unshowable(), 32768, 2**70, 1.0, "3", True, float("nan")],
}


def invalid_cases(*names: str) -> list[Any]:
    return [
        pytest.param(field, value, id=f"{field}-{number}")
        for field in names or INVALID
        for number, value in enumerate(INVALID[field])
    ]


def publish_with(field: str, value: Any) -> None:
    arguments = {"event_type": "order.created", "payload": {"id": 1}, field: value}
    publish(arguments.pop("event_type"), arguments.pop("payload"), **arguments)


def event_with(field: str, value: Any) -> Event:
    names = {"event_type": "type", "event_id": "id"}
    return Event(**{"type": "order.created", names.get(field, field): value})


@pytest.mark.parametrize(("field", "value"), invalid_cases())
def test_invalid_argument_is_named_and_the_transaction_goes_on(field: str, value: Any) -> None:
    with transaction.atomic():
        with CaptureQueriesContext(connection) as queries, pytest.raises(InvalidMessage) as error:
            publish_with(field, value)
        publish("still.usable", 1)
    assert error.value.field == field
    assert str(error.value).startswith(f"{field}: ")
    assert len(str(error.value)) < 500
    assert queries.captured_queries == []
    assert [message.event_type for message in OutboxMessage.objects.all()] == ["still.usable"]


@pytest.mark.parametrize(
    ("field", "value"),
    invalid_cases("event_type", "version", "key", "topic", "headers", "payload", "event_id"),
)
def test_one_invalid_event_keeps_all_of_publish_many_from_being_written(field: str, value: Any) -> None:
    events = [Event(type="good"), event_with(field, value), Event(type="good")]
    with transaction.atomic():
        with CaptureQueriesContext(connection) as queries, pytest.raises(InvalidMessage) as error:
            publish_many(events)
        publish("still.usable", 1)
    assert error.value.field == field
    assert str(error.value).endswith("(event number 2)")
    assert queries.captured_queries == []
    assert [message.event_type for message in OutboxMessage.objects.all()] == ["still.usable"]


@pytest.mark.parametrize("event", [{"type": "order.created"}, "order.created", None])
def test_publish_many_takes_events_only(event: Any) -> None:
    with pytest.raises(InvalidMessage, match=r"^events: number 1 must be an Event\(type=") as error:
        publish_many([event])
    assert error.value.field == "events"


def test_invalid_message_is_a_value_error_and_an_outbox_error() -> None:
    assert issubclass(InvalidMessage, ValueError)
    assert issubclass(InvalidMessage, OutboxError)


def test_longest_texts_are_stored_whole() -> None:
    text = "\N{GRINNING FACE}" * 255
    message = stored(publish(text, 1, key=text, version="ü" * 32))
    assert (message.event_type, message.message_key, message.event_version) == (text, text, "ü" * 32)


# What is too large


def test_payload_over_the_limit_is_refused_with_both_sizes() -> None:
    with outbox_settings(MAX_PAYLOAD_BYTES=100):
        publish("order.created", "x" * 98)
        with pytest.raises(InvalidMessage, match=r"^payload: .* 101 bytes.* 100 .*MAX_PAYLOAD_BYTES") as error:
            publish("order.created", "x" * 99)
        with pytest.raises(InvalidMessage, match=r"\(event number 2\)$"):
            publish_many([Event(type="good"), Event(type="order.created", payload="x" * 99)])
    assert error.value.field == "payload"
    assert OutboxMessage.objects.count() == 1


@pytest.mark.parametrize("character", ["a", "\n", "é", "世", "\N{GRINNING FACE}"])
def test_size_is_that_of_the_value_that_the_relay_sends(character: str) -> None:
    payload = {"text": [character * 20, 1.5]}
    pipeline = Pipeline()
    publish("order.created", payload)
    pipeline.relay.run_once()
    (record,) = pipeline.broker.records("outbox")
    size = len(record.value or b"")
    with outbox_settings(MAX_PAYLOAD_BYTES=size):
        publish("order.created", payload)
    with outbox_settings(MAX_PAYLOAD_BYTES=size - 1), pytest.raises(InvalidMessage, match=f" {size} bytes"):
        publish("order.created", payload)


def test_payload_that_the_client_could_not_send_is_refused_at_once() -> None:
    with outbox_settings(BROKER={"PRODUCER_OPTIONS": {"max_request_size": 50_000}}):
        publish("order.created", "x" * 40_000)
        with pytest.raises(InvalidMessage, match=" 60002 bytes"):
            publish("order.created", "x" * 60_000)


# What comes back


@pytest.mark.parametrize(
    "payload",
    [
        None,
        0,
        False,
        "",
        [],
        {},
        {"": None},
        -1,
        2**53 + 1,
        2**63,
        -(10**40),
        0.1,
        -1.5e-7,
        123456.789,
        5e-324,
        "Grüße, 世界 \N{GRINNING FACE} \u2028 \x01\x1f\x7f \\ \" ' \\u0000 %s {0}",
        {"nested": [1, [2, {"three": [None, True, "3"]}]], "ключ": "ключ"},
        ["a" * 100_000],
    ],
)
def test_payload_comes_back_unchanged(payload: Any) -> None:
    back = payload_in_database(payload)
    assert back == payload
    assert type(back) is type(payload)


def test_large_floats_come_back_as_the_same_number() -> None:
    # PostgreSQL writes them without an exponent, so that they come back as integers.
    for number in (1e16, 1e23, -1.7976931348623157e308):
        assert float(payload_in_database(number)) == number


def test_deepest_payload_comes_back_unchanged() -> None:
    payload = nested(lasting_depth(), "core")
    assert payload_in_database(payload) == payload


def test_limit_of_the_depth_names_the_database_if_it_is_the_database_s() -> None:
    with pytest.raises(InvalidMessage) as error:
        publish("order.created", nested(lasting_depth() + 1))
    assert f"more than {lasting_depth()} levels deep" in str(error.value)
    assert ("MariaDB" in str(error.value)) is (connection.vendor == "mysql")


def test_wide_payload_is_not_taken_for_a_deep_one() -> None:
    payload = [{"a": []} for _ in range(500)]
    assert payload_in_database(payload) == payload


class Numbered(dict):  # type: ignore[type-arg]
    pass


class Colour(models.TextChoices):
    RED = "red"


@pytest.mark.parametrize(
    ("payload", "back"),
    [
        ((1, (2,)), [1, [2]]),
        ({2: "a", None: "b", True: "c"}, {"2": "a", "null": "b", "true": "c"}),
        ({1: "first", "1": "second"}, {"1": "second"}),
        (Numbered(a=Numbered(b=1)), {"a": {"b": 1}}),
        ([Colour.RED], ["red"]),
    ],
)
def test_payload_of_the_returned_message_is_what_is_stored(payload: Any, back: Any) -> None:
    (bulk,) = publish_many([Event(type="order.created", payload=payload)])
    for message in (publish("order.created", payload), bulk):
        assert message.payload == back
        assert stored(message).payload == back


def test_later_changes_of_the_caller_s_objects_change_nothing() -> None:
    payload, headers = {"items": [1]}, {"a": "b"}
    message = publish("order.created", payload, headers=headers)
    payload["items"].append(2)
    headers["a"] = "c"
    assert (message.payload, message.headers) == ({"items": [1]}, {"a": "b"})


@pytest.mark.parametrize("headers", [{}, {"trace-id": "", "Ünï": "ü\n"}, {"c": "e_"}])
def test_headers_come_back_unchanged(headers: dict[str, str]) -> None:
    assert stored(publish("order.created", 1, headers=headers)).headers == headers


@examples(60)
@given(payload=json_values)
def test_any_json_comes_back_unchanged(payload: Any) -> None:
    assert payload_in_database(payload) == payload


@examples(60)
@given(text=any_text, where=st.sampled_from(["event_type", "key", "version", "topic", "headers", "payload"]))
def test_any_text_is_stored_as_it_is_or_refused_before_it_does_harm(text: str, where: str) -> None:
    value: Any = {text: text} if where in ("headers", "payload") else text
    refused = None
    with CaptureQueriesContext(connection) as queries:
        try:
            publish_with(where, value)
        except InvalidMessage as error:
            refused = error.field
    if refused:
        assert (refused, queries.captured_queries) == (where, [])
    else:
        name = {"key": "message_key", "version": "event_version"}.get(where, where)
        assert getattr(OutboxMessage.objects.latest("id"), name) == value
