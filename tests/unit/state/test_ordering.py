"""Which messages of a batch come before an earlier one of their key, and what is asked of the database."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone

from django_outbox.state import ordering
from django_outbox.state.dialects.results import Unsent
from django_outbox.state.ordering import overtaking, unsent_before
from django_outbox.state.rows import LockedMessage


def sent(id: int, key: str = "a", **fields: Any) -> LockedMessage:
    values: dict[str, Any] = dict.fromkeys(LockedMessage.__dataclass_fields__, "")
    values |= {"topic": "outbox", "created_at": timezone.now(), "partition": 0, "offset": id}
    return LockedMessage(**{**values, "id": id, "message_key": key, **fields})


def carried(id: int) -> LockedMessage:
    """One that Debezium delivers."""
    return sent(id, partition=None, offset=None)


@pytest.mark.parametrize(
    ("ids", "expected"), [([1, 2], set()), ([2, 1], {2}), ([3, 1, 2], {3}), ([2, 3, 1], {2, 3}), ([2, 1, 3], {2})]
)
def test_a_message_overtakes_if_an_earlier_one_of_its_key_comes_later(ids: list[int], expected: set[int]) -> None:
    assert overtaking([sent(id) for id in ids]) == expected


def test_keys_and_topics_have_orders_of_their_own() -> None:
    assert not overtaking([sent(2), sent(1, "b"), sent(1, topic="another")])


def test_messages_without_a_key_have_no_order_and_do_not_hide_that_of_others() -> None:
    assert overtaking([sent(5, ""), sent(3), sent(4, ""), sent(2)]) == {3}


def test_nothing_overtakes_where_keys_have_no_order(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ORDERING": "none"}
    assert not overtaking([sent(2), sent(1)])


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([carried(2), carried(1)], set()),
        ([sent(2), carried(1)], {2}),
        ([carried(2), sent(1)], {2}),
        ([carried(3), sent(2), carried(1)], {3, 2}),
    ],
)
def test_those_that_debezium_delivers_have_the_order_of_their_commits_among_them(
    messages: list[LockedMessage], expected: set[int]
) -> None:
    assert overtaking(messages) == expected


@pytest.mark.parametrize("found", [[Unsent("outbox", "a", 3, "pending")], [], None])
def test_earlier_messages_that_the_claim_has_found_are_not_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, found: list[Unsent] | None
) -> None:
    def of_database(keyed: Any, ids: Any, *, dead: bool, pending: Any) -> Any:
        return {"keyed": [message.id for message in keyed], "ids": ids, "dead": dead, "pending": pending}

    monkeypatch.setattr(ordering, "dialect_of", lambda using: SimpleNamespace(unsent_before=of_database))
    batch: Any = [sent(4, ""), sent(5)]
    asked: Any = unsent_before(batch, found, using="shop")
    assert asked == {"keyed": [5], "ids": [4, 5], "dead": False, "pending": found}
