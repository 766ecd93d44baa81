"""How large the batches of a relay that is behind may be."""

from __future__ import annotations

import pytest

from django_outbox.events.writer import Outgoing
from django_outbox.relay.growth import LOCK_SECONDS, MOST_CHARACTERS, MOST_CLAIMS, BatchGrowth


def message_of(characters: int) -> Outgoing:
    return Outgoing(
        1, "tests", "id", "order.created", "v1", "outbox", "", "{}", "2026-01-01T00:00:00Z", 0, "x" * characters
    )


def message_with(data: bytes) -> Outgoing:
    return message_of(4)._replace(content_type="image/png", raw_value=data)


def grown() -> BatchGrowth:
    growth = BatchGrowth()
    while growth.claims < MOST_CLAIMS:
        growth.record(0.0, is_full=True)
    return growth


def test_full_batches_that_are_sent_fast_double_up_to_a_limit() -> None:
    growth = BatchGrowth()
    claims = [growth.claims]
    for _ in range(5):
        growth.record(LOCK_SECONDS / 2, is_full=True)
        claims.append(growth.claims)
    assert claims == [1, 2, 4, 8, 8, 8]


def test_a_batch_that_would_lock_its_rows_for_too_long_if_it_were_larger_stays_as_it_is() -> None:
    growth = BatchGrowth()
    growth.record(LOCK_SECONDS * 0.51, is_full=True)
    assert growth.claims == 1


def test_a_batch_has_as_many_claims_as_it_may_and_no_more() -> None:
    assert not BatchGrowth().has_room(1, [])
    assert grown().has_room(MOST_CLAIMS - 1, [])
    assert not grown().has_room(MOST_CLAIMS, [])


def test_slow_batches_are_halved() -> None:
    growth = grown()
    growth.record(LOCK_SECONDS, is_full=True)
    assert growth.claims == MOST_CLAIMS, "it is not slow yet"
    claims = []
    for _ in range(5):
        growth.record(LOCK_SECONDS * 1.01, is_full=True)
        claims.append(growth.claims)
    assert claims == [4, 2, 1, 1, 1]


def test_a_batch_that_was_not_full_or_not_sent_in_whole_ends_the_growth() -> None:
    growth = grown()
    growth.record(0.0, is_full=False)
    assert growth.claims == 1


@pytest.mark.parametrize(("characters", "has_room"), [(MOST_CHARACTERS // 2 - 1, True), (MOST_CHARACTERS // 2, False)])
def test_large_payloads_end_a_batch(characters: int, has_room: bool) -> None:
    assert grown().has_room(1, [message_of(characters), message_of(characters)]) is has_room


@pytest.mark.parametrize(("size", "has_room"), [(MOST_CHARACTERS // 2 - 5, True), (MOST_CHARACTERS // 2 - 4, False)])
def test_bytes_count_as_well(size: int, has_room: bool) -> None:
    assert grown().has_room(1, [message_with(b"x" * size), message_with(b"x" * size)]) is has_room
