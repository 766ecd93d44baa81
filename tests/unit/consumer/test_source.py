"""The counts of a round."""

from __future__ import annotations

from django_outbox.consumer.source import Kind, Outcome, RoundCounts, max_deliveries_reason


def test_a_round_counts_deliveries_by_where_they_come_from() -> None:
    counts = RoundCounts()
    for _ in range(2):
        counts.add(Kind.OWN, [Outcome.CONSUMED, Outcome.WAITING, Outcome.REQUEUED])
        counts.add(Kind.FOREIGN, [Outcome.CONSUMED, Outcome.SKIPPED, Outcome.FAILED])
        counts.add(Kind.DUE, [Outcome.CONSUMED, Outcome.DEAD, Outcome.WAITING])
    assert counts == RoundCounts(
        received=10,
        retried=4,
        stored=4,
        inbox_consumed=4,
        consumed=6,
        failed=2,
        dead=2,
        requeued=2,
        skipped=2,
    )
    assert counts.progress == {"consumed": 2, "inbox_received": 4, "inbox_consumed": 4}


def test_who_took_the_process_down_is_named() -> None:
    assert max_deliveries_reason().endswith("while the handler ran.")
    assert max_deliveries_reason("mapper").endswith("while the mapper ran.")
