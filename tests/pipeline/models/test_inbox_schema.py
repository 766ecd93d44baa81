"""The table of the inbox: what the database itself refuses, and which indexes serve."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DataError, IntegrityError, connection, transaction

from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.ordering import blocker_of
from tests.support.inbox import Status, make_received

pytestmark = pytest.mark.django_db

TABLE = "django_outbox_inboxmessage"

BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "pending that is never due": (Status.PENDING, {"next_retry_at": None}),
    "consumed and due": (Status.CONSUMED, {"next_retry_at": DatabaseNow()}),
    "dead and due": (Status.DEAD, {"next_retry_at": DatabaseNow()}),
    "consumed at no time": (Status.CONSUMED, {"consumed_at": None}),
    "pending and handled": (Status.PENDING, {"consumed_at": DatabaseNow()}),
    "dead and handled": (Status.DEAD, {"consumed_at": DatabaseNow()}),
    "a state of the outbox": (Status.CONSUMED, {"status": "published"}),
    "status in capitals": (Status.DEAD, {"status": "DEAD"}),
    "status with a space": (Status.DEAD, {"status": "dead "}),
    "no source": (Status.DEAD, {"source": None}),
}


@pytest.mark.parametrize(("status", "changes"), BROKEN.values(), ids=BROKEN)
def test_database_refuses(status: str, changes: dict[str, Any]) -> None:
    message = make_received(status)
    with pytest.raises((IntegrityError, DataError)), transaction.atomic():
        InboxMessage.objects.filter(id=message.id).update(**changes)


@pytest.mark.parametrize("status", Status.values)
def test_database_takes_every_state_as_it_should_be(status: str) -> None:
    assert InboxMessage.objects.get(id=make_received(status).id).status == status


@pytest.mark.parametrize("other", [{"group": "b"}, {"source": "b"}, {"event_id": "b"}, {"source": "A"}])
def test_group_source_and_event_id_are_unique_together(other: dict[str, str]) -> None:
    same = {"group": "a", "source": "a", "event_id": "a"}
    make_received(**same)
    make_received(**{**same, **other})
    with pytest.raises(IntegrityError), transaction.atomic():
        make_received(**same)


def test_identities_of_every_length_fit() -> None:
    """MySQL and MariaDB count four bytes for each character of an index."""
    longest = {"group": "g" * 249, "source": "s" * 255, "event_id": "e" * 255, "message_key": "k" * 255}
    make_received(**longest, topic="t" * 249, event_type="y" * 255)
    make_received(**{**longest, "event_id": "e" * 254 + "f"}, topic="t" * 249)
    assert InboxMessage.objects.filter(**longest).count() == 1


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("django_outbox_inbox_due", ["group", "next_retry_at", "id"]),
        ("django_outbox_inbox_key", ["group", "topic", "message_key", "status", "id"]),
        ("django_outbox_inbox_identity", ["group", "source", "event_id"]),
        ("django_outbox_inbox_unfinished", ["status", "id"]),
    ],
)
def test_index_exists(name: str, columns: list[str]) -> None:
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, TABLE)
    assert found[name]["columns"] == columns


@pytest.mark.databases("postgresql")
def test_due_messages_and_earlier_ones_of_a_key_are_found_by_index(django_assert_num_queries: Any) -> None:
    for number in range(300):
        make_received(message_key=f"k{number}")
        make_received(Status.CONSUMED, message_key="a")
    row = make_received(message_key="a")
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {TABLE}")
        cursor.execute("SET LOCAL enable_seqscan = off")
    assert "django_outbox_inbox_due" in InboxMessage.objects.due().filter(group="tests")[:1].explain()
    with django_assert_num_queries(1) as queries:
        blocker_of(row, using="default")
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {queries.captured_queries[0]['sql']}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "django_outbox_inbox_key" in plan
