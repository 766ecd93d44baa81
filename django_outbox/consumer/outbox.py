"""The outbox as a source: messages of this service's own outbox. For a retry, the relay sends them again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache, partial

from django.db import Error, transaction
from django.db.models import QuerySet

from django_outbox.conf import settings
from django_outbox.consumer.own_record import OwnRecord
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.source import (
    REQUEUE_DELAY,
    SKIP,
    Claim,
    Outcome,
    Source,
    Survived,
    log_requeued,
    max_deliveries_reason,
    store_failure,
    unhandled_reason,
)
from django_outbox.consumer.waits import Waits
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import database_now
from django_outbox.observability.instrumentation import requeued
from django_outbox.observability.logging import log_extra
from django_outbox.state import outbox as state
from django_outbox.state import transitions
from django_outbox.state.ordering import Blocker, has_order, holds_behind_dead, overtaking, unhandled_before
from django_outbox.state.rows import LockedMessage
from django_outbox.worker.transactions import retry_transaction

log = logging.getLogger("django_outbox.consumer")

Key = tuple[str, str]
"""Topic and key of a message."""
Held = dict[Key, Blocker]
UNSEEN = Blocker(0, timedelta(0))
"""In place of a message whose row is not visible yet; all later ones of its key wait for it."""


class OutboxSource(Source[OwnRecord]):
    """Messages of the outbox, as one consumer group handles them. Lanes share it."""

    def __init__(self, using: str, handlers: GroupHandlers, pauses: Pauses, clock: Callable[[], float]) -> None:
        self._using = using
        self._handlers = handlers
        self._pauses = pauses
        self.survived = Survived()
        self.waits = Waits(clock)
        """Messages that wait in hand."""

    def cost(self, item: OwnRecord) -> float:
        cost = self._handlers.find(item.identity.event_type, item.record.topic).cost
        return 1.0 if not cost and settings.unknown_event == "dead" else cost

    def claim(self, items: Sequence[OwnRecord], prepared: Sequence[Claim]) -> list[Claim]:
        self._pauses.refresh()
        source = settings.source
        messages = state.lock([item.id for item in items], using=self._using)
        current: dict[int, OwnRecord] = {}  # of several records of a message, the one that its row names
        for item in items:
            message = messages.get(item.id)
            if message is not None and item.id not in current and item.is_current(message, source):
                current[item.id] = item
        locked = [messages[id] for id in current]
        blockers = unhandled_before(locked, self._handlers.types_of, using=self._using)
        too_early = overtaking(locked)
        held: Held = {}
        now = cache(lambda: database_now(OutboxMessage.objects.using(self._using)))
        claims: list[Claim] = []
        for item in items:
            if current.get(item.id) is item:
                message, blocker = messages[item.id], blockers.get(item.id)
                claims.append(self._claim(item, message, blocker, item.id in too_early, held))
            elif item.id in messages:
                claims.append(SKIP)
            else:
                claims.append(self._claim_without_row(item, held, now))
        return claims

    def _claim_without_row(self, item: OwnRecord, held: Held, now: Callable[[], datetime]) -> Claim:
        """Wait for a row that is not visible yet, or skip a record whose row was deleted. ``held``: see ``_claim``."""
        record = item.record
        if item.is_first and item.may_be_unseen(now()):
            key = (record.topic, (record.key or b"").decode(errors="replace"))
            if self.waits.may_wait(item.id, item.partition, UNSEEN.until):
                held[key] = UNSEEN
                return Claim(Outcome.WAITING)
        log.warning(
            "Skipped the record %s[%d]@%d: there is no outbox message %d.",
            record.topic,
            record.partition,
            record.offset,
            item.id,
            extra={"action": "skipped", **self.describe(item)[1]},
        )
        return SKIP

    def _claim(
        self, item: OwnRecord, message: LockedMessage, blocker: Blocker | None, overtakes: bool, held: Held
    ) -> Claim:
        """Decide the outcome of one record, whose row is current.

        Args:
            blocker: what must be handled before the message, if anything.
            overtakes: it comes before an earlier one of its key in the batch.
            held: messages that wait, or are dead and hold their key; later ones wait as long. Extended here.
        """
        is_paused = is_dead = False
        handlers = self._handlers.find(message.event_type, message.topic)
        if not handlers and settings.unknown_event == "ignore":
            return SKIP
        key = (message.topic, message.message_key)
        if not handlers or (message.delivery_count and message.delivery_count > settings.max_deliveries):
            reason = max_deliveries_reason() if handlers else unhandled_reason(message.event_type)
            if message.message_key and holds_behind_dead():
                held[key] = Blocker(message.id, REQUEUE_DELAY, is_dead=True)
            return Claim(Outcome.DEAD, message, reason=reason)
        first = held.get(key) if has_order(message) else None
        if blocker is not None:
            until, is_dead = blocker.until, blocker.is_dead
        elif first is not None and first.id < message.id:
            until, is_dead = first.until, first.is_dead
        elif overtakes:
            until = timedelta(0)
        elif (paused_until := self._paused_until(message)) is not None:
            until = paused_until
            is_paused = True
        else:
            return Claim(Outcome.CONSUMED, message, item.event(message), handlers)
        if has_order(message):
            held[key] = Blocker(message.id if first is None else min(first.id, message.id), until, is_dead)
        before = blocker or first
        awaited = before and before.id
        is_placed = message.partition is not None
        if not (is_paused or is_dead) and self.waits.may_wait(
            message.id, item.partition, until, awaited=awaited, is_placed=is_placed
        ):
            return Claim(Outcome.WAITING, message)
        return Claim(Outcome.REQUEUED, message, reason="paused" if is_paused else "order", until=until)

    def wait_on(self, items: Sequence[OwnRecord]) -> dict[int, float]:
        """By id, until when messages wait on: those whose awaited message is still published, if they may wait longer.

        A query without locks finds that for hundreds of them. Claiming them takes several, and twice as many if their
        deliveries are counted.
        """
        awaited = {item.id: self.waits.find(item.id).awaited for item in items}
        published = state.still_published({id for id in awaited.values() if id}, using=self._using)
        found = {
            item.id: self.waits.wait_on(item.id, item.partition) for item in items if awaited[item.id] in published
        }
        return {id: until for id, until in found.items() if until is not None}

    def _paused_until(self, message: LockedMessage) -> datetime | None:
        has_failed = message.retry_count > 0
        return self._pauses.due_at(message.event_type, message.topic, has_failed=has_failed)

    def settle(self, done: Sequence[Claim], left: Sequence[Claim]) -> None:
        consumed: list[LockedMessage] = []
        waiting: list[LockedMessage] = []
        for claim in done:
            message = claim.message
            if not isinstance(message, LockedMessage):
                continue
            if claim.outcome is Outcome.CONSUMED:
                consumed.append(message)
            elif claim.outcome is Outcome.REQUEUED:
                transitions.requeue(self._in_delivery(message), claim.until)
            elif claim.outcome is Outcome.WAITING:
                waiting.append(message)
            else:
                transitions.mark_dead(self._in_delivery(message), claim.reason)
        state.mark_consumed(consumed, using=self._using)
        state.forget_deliveries([message.id for message in waiting if message.delivery_count], using=self._using)
        for claim in left:
            if claim.outcome is Outcome.CONSUMED and isinstance(claim.message, LockedMessage):
                self._pauses.leave(claim.message.event_type, claim.message.topic)

    def fail(self, item: OwnRecord, claim: Claim | None, error: Exception) -> Outcome:
        message = None if claim is None else claim.message
        if not isinstance(message, LockedMessage):
            raise error
        outcome = store_failure(self._in_delivery(message), error, message)
        if outcome is Outcome.SKIPPED:
            log.warning(
                "Message %s was changed or removed while it was handled.",
                message.id,
                extra=log_extra("skipped", message),
            )
        return outcome

    def requeue(self, item: OwnRecord, fault: Exception) -> Outcome:
        with transaction.atomic(using=self._using):
            message = state.lock([item.id], using=self._using).get(item.id)
            if message is None or not item.is_current(message, settings.source):
                return Outcome.SKIPPED
            transitions.requeue(self._in_delivery(message), REQUEUE_DELAY)
        log_requeued(f"Message {message.id}", fault, log_extra("put_back", message))
        requeued("database")
        return Outcome.REQUEUED

    def _in_delivery(self, message: LockedMessage) -> QuerySet[OutboxMessage]:
        return state.in_delivery(message.id, message.publish_count, using=self._using)

    def describe(self, item: OwnRecord) -> tuple[str, dict[str, object]]:
        return f"message {item.id}", {
            "message_id": item.id,
            "event_id": item.identity.event_id,
            "topic": item.record.topic,
            "attempt": item.identity.attempt,
        }

    def counted(self, ids: Sequence[int]) -> set[int]:
        """Which of these messages have counted deliveries: they were being handled when a process died."""
        return state.with_deliveries(ids, using=self._using)

    def count_deliveries(self, items: Sequence[OwnRecord]) -> None:
        """Count deliveries before they can kill the process, except those that are counted already."""
        new = [item for item in items if item.place not in self.survived]
        if new:
            deliveries = [item.delivery for item in new]
            # After a rebalance another consumer may still lock a row, which may be reported as a deadlock.
            retry_transaction(partial(state.count_deliveries, deliveries, using=self._using), using=self._using)
            self.survived.add(*[item.place for item in new])

    def uncount_deliveries(self, items: Sequence[OwnRecord]) -> None:
        """Take counted deliveries back that did not run or were rolled back, as another consumer may be the next to get them."""
        counted = [item for item in items if item.place in self.survived]
        if counted:
            with suppress(Error):  # of the database: then another consumer handles them alone
                state.uncount_deliveries([item.delivery for item in counted], using=self._using)
                self.survived.discard(*[item.place for item in counted])
