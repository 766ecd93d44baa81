"""The guard against poison messages: the first records after a start or a rebalance, any of which may have killed a process."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from contextlib import suppress
from typing import Any

from django.db import Error

from django_outbox.brokers.base import TopicPartition
from django_outbox.conf import settings
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.line import Queued
from django_outbox.consumer.outbox import OutboxSource
from django_outbox.consumer.source import Kind

TOGETHER = 10
"""Guarded records of one transaction: the more, the more of them are handled alone after a process was killed."""


class PoisonGuard:
    """Marks records that are handled few at a time, with the deliveries counted and committed before the handlers run.

    One that was being handled when a process died is handled alone, so that it takes no innocent one with it.
    """

    def __init__(self, outbox: OutboxSource, inbox: Inbox, records: int, *, has_lanes: bool) -> None:
        """
        Args:
            has_lanes: several lanes work, so a record that is read alone is not handled alone.
        """
        self.records = records
        """How many records of a newly assigned partition are guarded: as many as a killed process had in hand."""
        self._has_lanes = has_lanes
        self._outbox = outbox
        self._inbox = inbox
        self._left: dict[Hashable, int] = {}

    def __bool__(self) -> bool:
        """True if the next records of a partition are guarded."""
        return any(self._left.values())

    def begin(self, partitions: Collection[TopicPartition]) -> None:
        """Guard the next records of newly assigned partitions."""
        self._left.update(dict.fromkeys(partitions, self.records))

    def end(self) -> None:
        self._left.clear()

    def mark(self, queued: Sequence[Queued[Any]]) -> None:
        """Mark those of the records read that are guarded. Records without a handler cannot kill a process."""
        if not self:
            return
        guarded = []
        for each in queued:
            if self._left.get(each.group, 0) and (each.kind is not Kind.OWN or self._outbox.cost(each.item)):
                each.guarded = each.alone = True
                each.most = 1
                guarded.append(each)
        if guarded and settings.max_deliveries > 1 and (self._has_lanes or len(queued) > 1):
            self._let_innocent_ones_run_together(guarded)

    def handled(self, queued: Queued[Any]) -> None:
        """The handler of a guarded record ran, or it has another outcome that is stored."""
        left = self._left.get(queued.group)
        if queued.guarded and left:
            self._left[queued.group] = left - 1

    def _let_innocent_ones_run_together(self, guarded: Sequence[Queued[Any]]) -> None:
        own = [each for each in guarded if each.kind is Kind.OWN]
        with suppress(Error):  # of the database: then all are handled alone, as none of what was read may be lost
            suspects = self._outbox.counted([each.item.id for each in own])
            for each in own:
                each.alone = each.item.id in suspects
                each.most = 1 if each.alone else TOGETHER
        for each in guarded:
            if each.kind is not Kind.OWN:
                each.alone = self._inbox.uses_mapper(each.item)  # a mapper may kill the process, too
