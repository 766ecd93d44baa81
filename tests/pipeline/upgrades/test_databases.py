"""Databases of released versions: they are migrated to today's schema, and each message in them goes on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from django_outbox import publish
from django_outbox.consumer.consumer import INBOX_SECONDS
from django_outbox.models import Activity, InboxMessage, MessageFailure, OutboxMessage, Pause, Worker
from django_outbox.models.fields import DatabaseNow
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, put
from tests.support.schema import schema
from tests.upgrades.dumping import dump
from tests.upgrades.loading import load_database, load_dump, load_rows, renew_tables
from tests.upgrades.releases import records_of, releases
from tests.upgrades.scenario import BYTES, ERROR, HEADERS, PAYLOAD

pytestmark = [
    # Not MySQL: dumps of MariaDB have types and collations of its own.
    pytest.mark.databases("sqlite", "postgresql", "mariadb"),
    pytest.mark.django_db(transaction=True),
]
every_release = pytest.mark.parametrize("release", releases())
# The rest for the newest only, as each takes a second or more: what older ones have, it has as well.
newest_release = pytest.mark.parametrize("release", releases()[-1:])

Upgrade = Callable[[str], None]
GoOn = Callable[[], Pipeline]


@pytest.fixture
def migrate() -> Iterator[Upgrade]:
    """The service was stopped, and upgraded with its database."""

    def migrate(release: str) -> None:
        load_database(release)
        call_command("migrate", "django_outbox", verbosity=0)

    yield migrate
    renew_tables()


@pytest.fixture
def write_beside() -> Upgrade:
    """The database was migrated while processes of the release still wrote."""
    return load_rows


@pytest.fixture(params=["migrate", "write_beside"])
def upgrade(request: pytest.FixtureRequest) -> Upgrade:
    """How rows of a release come into tables of today."""
    upgrade: Upgrade = request.getfixturevalue(request.param)
    return upgrade


@pytest.fixture
def go_on(release: str, clock: Clock) -> GoOn:
    """Start relay and consumer of today on what the release left in the broker, until nothing moves any more."""

    def go_on() -> Pipeline:
        pipeline = pipeline_after(release, clock)
        for _ in range(2):  # the inbox is read a moment later
            pipeline.run()
            clock.now += INBOX_SECONDS
        pipeline.run()
        return pipeline

    return go_on


def restored_schema() -> Any:
    """The schema after a dump and its restore, in which PostgreSQL casts each element of an array, not the whole array."""
    if connection.vendor == "postgresql":
        load_dump(dump())
    return schema()


def pipeline_after(release: str, clock: Clock) -> Pipeline:
    pipeline = Pipeline(clock=clock)
    put(pipeline.broker, *(sent.record for sent in records_of(release)))
    for event_type in {*statuses(), *statuses(InboxMessage)} - {""}:
        pipeline.on(event_type)
    return pipeline


def statuses(messages: Any = OutboxMessage) -> dict[str, str]:
    return dict(messages.objects.order_by("id").values_list("event_type", "status"))


def expected(before: dict[str, str], **changes: str) -> dict[str, str]:
    """What becomes of each message: all that can be handled now is, and the rest stays as it was."""

    def after(event_type: str, status: str) -> str:
        waits = event_type.endswith((".delayed", ".paused", ".of_another_service"))
        return status if waits or status == "dead" else "consumed"

    return {event_type: after(event_type, status) for event_type, status in before.items()} | changes


@every_release
def test_a_database_of_a_release_is_migrated_to_the_schema_of_a_new_one(release: str, migrate: Upgrade) -> None:
    today = restored_schema()
    migrate(release)
    assert restored_schema() == today, (
        f"If {release} is not out yet, record it again, which needs MariaDB's server and Maven: "
        f"python -m tests.upgrades {release}. "
        "Else its migrations were changed: add a migration instead."
    )


@every_release
def test_messages_in_every_state_go_on(release: str, upgrade: Upgrade, go_on: GoOn) -> None:
    upgrade(release)
    outbox, inbox = statuses(), statuses(InboxMessage)
    assert {"pending", "published", "consumed", "dead"} == set(outbox.values())
    assert {"pending", "consumed", "dead"} == set(inbox.values())

    pipeline = go_on()

    assert statuses() == expected(outbox)
    assert statuses(InboxMessage) == expected(inbox)
    handled = [event.type for event in pipeline.handled]
    assert len(handled) == len(set(handled)), "nothing is handled twice"
    assert "up.consumed" not in handled


@newest_release
def test_handlers_get_the_content_that_was_stored(release: str, upgrade: Upgrade, go_on: GoOn) -> None:
    upgrade(release)
    pipeline = go_on()

    events = {event.type: event for event in pipeline.handled}
    for name in ("up.published", "up.envelope", "up.pending"):
        event = events[name]
        assert (event.payload, event.headers, event.version, event.source) == (PAYLOAD, HEADERS, "v2", "tests")
    for name in ("up.published.bytes", "up.pending.bytes", "up.inbox.pending.bytes"):
        assert (events[name].payload, events[name].payload.content_type) == (BYTES, "image/png")
    for name in ("up.published.tombstone", "up.pending.tombstone", "up.inbox.pending.tombstone"):
        assert events[name].is_tombstone
    assert (events["up.inbox.pending"].payload, events["up.inbox.pending"].headers) == (PAYLOAD, HEADERS)


@newest_release
def test_delayed_messages_are_handled_when_they_are_due(release: str, upgrade: Upgrade, go_on: GoOn) -> None:
    upgrade(release)
    for messages in (OutboxMessage, InboxMessage):
        messages.objects.filter(event_type__endswith=".delayed").update(next_retry_at=DatabaseNow())  # type: ignore[attr-defined]
    go_on()
    assert (statuses()["up.delayed"], statuses(InboxMessage)["up.inbox.delayed"]) == ("consumed", "consumed")


@newest_release
def test_a_pause_still_holds_and_is_resumed(release: str, upgrade: Upgrade, go_on: GoOn) -> None:
    upgrade(release)
    go_on()
    assert statuses()["up.paused"] == "pending"

    call_command("outbox_resume", "--event-type", "up.paused", stdout=io.StringIO())
    go_on()

    assert statuses()["up.paused"] == "consumed"
    assert [pause.handler for pause in Pause.objects.all()] == ["up.handlers.broken"]


@newest_release
def test_dead_messages_keep_their_reason_and_can_be_retried(release: str, upgrade: Upgrade, go_on: GoOn) -> None:
    upgrade(release)
    dead = OutboxMessage.objects.get(event_type="up.dead")
    assert (dead.last_error, dead.retry_count) == (ERROR, 20)
    assert [failure.error for failure in MessageFailure.objects.filter(message=dead, final=True)] == [ERROR]

    call_command("outbox_retry", "--all", stdout=io.StringIO())
    call_command("outbox_retry", "--all", "--inbox", stdout=io.StringIO())
    go_on()

    assert {status for name, status in statuses().items() if name.startswith("up.dead")} == {"consumed"}
    assert statuses(InboxMessage)["up.inbox.dead"] == "consumed"
    assert statuses(InboxMessage)[""] == "dead", "a record that cannot be read"


@newest_release
def test_what_operators_look_at_is_kept(release: str, upgrade: Upgrade) -> None:
    upgrade(release)
    assert sorted(Worker.objects.values_list("kind", "lanes")) == [("consumer", 8), ("relay", 1)]
    assert [(each.published, each.inbox_consumed) for each in Activity.objects.all()] == [(5, 2)]
    assert sorted(MessageFailure.objects.values_list("stage", flat=True)) == ["cancel", *["handle"] * 4, "send"]
    call_command("outbox_status", "--no-broker", stdout=io.StringIO())


@newest_release
def test_new_messages_follow_those_of_the_release(release: str, upgrade: Upgrade, go_on: GoOn) -> None:
    """Their numbers go on, and so does the order of a key."""
    upgrade(release)
    last = OutboxMessage.objects.order_by("-id").values_list("id", flat=True)[0]
    with transaction.atomic():
        message = publish("up.new", {"new": True}, key="e")
    assert message.id > last
    pipeline = go_on()
    of_key = [event.type for event in pipeline.handled if event.key == "e"]
    assert of_key == ["up.pending", "up.pending.tombstone", "up.new"]
