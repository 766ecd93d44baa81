"""The inbox: events of one key are handled in order, and others do not wait."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from django_outbox.events.event import Event
from django_outbox.exceptions import Reject
from django_outbox.models import InboxMessage
from django_outbox.state.retry import retry
from tests.support.effects import effect_of_payload, effects, fails, fails_on
from tests.support.inbox import Receiver, Status, make_due, make_received, received
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

A_MINUTE, AN_HOUR = timedelta(minutes=1), timedelta(hours=1)


def test_what_is_behind_a_failed_event_of_its_key_waits_for_it(receiver: Receiver) -> None:
    receiver.on("order.created", fails_on(1, 1))

    done = receiver.receive(received(1, key="a"), received(2, key="a"), received(3, key="b"), received(4))

    assert done == ["failed", "requeued", "consumed", "consumed"]
    first, second = InboxMessage.objects.filter(message_key="a").order_by("id")
    assert (second.status, second.retry_count, second.payload) == ("pending", 0, 2)
    assert second.next_retry_at == first.next_retry_at
    assert effects() == ["3", "4"]

    assert receiver.retry() == ["consumed", "consumed"]
    assert effects() == ["3", "4", "1", "2"]


@pytest.mark.parametrize("counted", [True, False])
def test_a_fresh_event_behind_a_pending_one_is_stored_and_not_handled(receiver: Receiver, counted: bool) -> None:
    receiver.on("order.created", effect_of_payload)
    first = make_received(message_key="a", next_retry_at=timezone.now() + AN_HOUR)
    make_received(message_key="a", topic="another", next_retry_at=timezone.now() + AN_HOUR)

    assert receiver.receive(received({"n": 2}, key="a"), counted=counted) == ["requeued"]
    assert receiver.receive(received(3, key="b"), counted=counted) == ["consumed"]

    second = InboxMessage.objects.get(payload={"n": 2})
    assert (second.status, second.delivery_count, second.next_retry_at) == ("pending", 0, first.next_retry_at)
    assert effects() == ["3"]


def test_order_is_of_one_group_and_topic(receiver: Receiver) -> None:
    receiver.on("order.created", effect_of_payload)
    make_received(message_key="a", group="another", next_retry_at=timezone.now() + AN_HOUR)
    make_received(message_key="A", next_retry_at=timezone.now() + AN_HOUR)
    make_received(message_key="a", topic="other", next_retry_at=timezone.now() + AN_HOUR)

    assert receiver.receive(received(1, key="a")) == ["consumed"]


def test_without_ordering_nothing_waits(receiver: Receiver) -> None:
    receiver.on("order.created", effect_of_payload)
    make_received(message_key="a", next_retry_at=timezone.now() + AN_HOUR)
    with outbox_settings(ORDERING="none"):
        assert receiver.receive(received(1, key="a")) == ["consumed"]


def test_dead_events_let_others_pass_or_hold_them(receiver: Receiver) -> None:
    receiver.on("order.created", effect_of_payload)
    dead = make_received(Status.DEAD, message_key="a", payload="dead")

    assert receiver.receive(received(1, key="a")) == ["consumed"]
    with outbox_settings(ON_DEAD="hold"):
        assert receiver.receive(received(2, key="a")) == ["requeued"]
        assert receiver.retry() == ["requeued"]
        retry(InboxMessage.objects.filter(id=dead.id), using="default")
        assert receiver.run_due(10) == ["consumed", "consumed"]

    assert effects() == ["1", "dead", "2"]


def test_an_unreadable_record_holds_its_key_too(receiver: Receiver) -> None:
    receiver.on("order.created", effect_of_payload)
    with outbox_settings(ON_DEAD="hold"):
        done = receiver.receive(received(1, key="a"), received(key="a", value=b"{"), received(2, key="a"))
    assert done == ["consumed", "dead", "requeued"]


def test_a_failing_head_takes_all_that_is_behind_it_along(receiver: Receiver) -> None:
    receiver.on("order.created", fails)
    receiver.receive(*(received(n, key="a") for n in range(4)))

    assert receiver.retry() == ["failed", "requeued"]

    first, *others = InboxMessage.objects.order_by("id")
    assert first.retry_count == 2
    assert {other.next_retry_at for other in others} == {first.next_retry_at}
    assert {other.retry_count for other in others} == {0}


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_a_hundred_thousand_blocked_events_do_not_keep_a_free_one_back(receiver: Receiver) -> None:
    """They come first by their due time, and all wait for one that fails."""
    receiver.on("order.created", effect_of_payload)
    head = make_received(message_key="failing", next_retry_at=timezone.now() + AN_HOUR)
    columns = (
        "source, event_type, event_version, topic, {partition}, {offset}, message_key, headers, status,"
        " delivery_count, retry_count, max_retry, last_error"
    )
    thousand = " UNION ALL ".join(f"SELECT {n} AS n" for n in range(1000))
    numbers = {
        "postgresql": "SELECT n FROM generate_series(1, 100000) AS numbers(n)",
        "mysql": f"SELECT a.n + b.n * 1000 AS n FROM ({thousand}) AS a CROSS JOIN ({thousand}) AS b WHERE b.n < 100",  # noqa: S608
    }[connection.vendor]
    quoted = {name: connection.ops.quote_name(name) for name in ("group", "partition", "offset")}
    columns = columns.format(**quoted)
    cast = "CAST(n AS CHAR)" if connection.vendor == "mysql" else "n::text"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO django_outbox_inboxmessage ({quoted['group']}, event_id, {columns})"  # noqa: S608
            f" SELECT head.{quoted['group']}, {cast}, {columns}"
            f" FROM django_outbox_inboxmessage AS head CROSS JOIN ({numbers}) AS numbered"
        )
    make_due(id__gt=head.id)
    make_received(message_key="free", payload="free")

    assert receiver.run_due(2) == ["requeued", "consumed"]

    assert effects() == ["free"]
    assert set(
        InboxMessage.objects.filter(message_key="failing").values_list("next_retry_at", flat=True).distinct()
    ) == {head.next_retry_at}


@pytest.mark.parametrize(("on_dead", "goes_on"), [("continue", True), ("hold", False)])
def test_what_waits_for_one_that_ends_dead_goes_on_unless_that_holds_its_key(
    receiver: Receiver, on_dead: str, goes_on: bool
) -> None:
    def handle(event: Event) -> None:
        if event.payload == 1:
            raise Reject("no")

    receiver.on("order.created", handle)
    make_received(message_key="a", payload=1)
    make_received(message_key="a", payload=2, next_retry_at=timezone.now() + AN_HOUR)

    with outbox_settings(ON_DEAD=on_dead):
        assert receiver.run_due(10) == (["dead", "consumed"] if goes_on else ["dead"])


def test_what_waits_for_one_in_hand_goes_on_as_soon_as_that_ends(receiver: Receiver) -> None:
    """It was looked at while the other was handled elsewhere, and told to look again later."""
    receiver.on("order.created", effect_of_payload)
    first = make_received(message_key="a", payload=1)
    second = make_received(message_key="a", payload=2, next_retry_at=timezone.now() + AN_HOUR)
    third = make_received(message_key="a", payload=3, retry_count=1, next_retry_at=timezone.now() + AN_HOUR)

    assert receiver.run_due(10) == ["consumed", "consumed"]

    assert [InboxMessage.objects.get(id=row.id).status for row in (first, second, third)] == [
        "consumed",
        "consumed",
        "pending",  # it has failed, and waits for its own sake
    ]
