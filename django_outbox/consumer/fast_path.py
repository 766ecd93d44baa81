"""Handling many messages in one transaction, for as long as nothing is out of the ordinary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from django_outbox.conf import settings
from django_outbox.consumer.delivery import TIME_BUDGET_SECONDS, Named, Terms
from django_outbox.handlers.registry import Handler
from django_outbox.observability import instrumentation
from django_outbox.observability.logging import log_extra
from django_outbox.observability.tracing import hooks as tracing
from django_outbox.state import outbox as state
from django_outbox.state.failures import fingerprint
from django_outbox.state.ordering import unhandled_before
from django_outbox.state.rows import LockedMessage
from django_outbox.worker.faults import handling, is_outage, session_of
from django_outbox.worker.pooling import stop_preparing

log = logging.getLogger(__name__)

Plan = list[tuple[LockedMessage, list[Handler]]]
"""Messages from the start of a batch, each with its handlers; none where there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Done:
    """How far a batch was handled together.

    Attributes:
        messages: done with, from the start of the batch.
        handled: of these; the others had nothing to do.
        alone: those after them that have to be handled by themselves.
    """

    messages: int
    handled: int
    alone: int


class FastPath:
    """Handles the messages of a batch together: three statements and one commit for all of them.

    It stops in front of whatever takes more than running a handler, such as a message that waits
    for its turn. If anything raises, nothing has happened: all have to be handled by themselves,
    so that whatever is wrong with one costs its neighbours nothing.
    """

    def __init__(self, terms: Terms, clock: Callable[[], float]) -> None:
        """
        Args:
            terms: what is the same for all messages.
            clock: seconds, monotonic.
        """
        self._terms = terms
        self._clock = clock
        self._fits = 2

    def run(self, batch: Sequence[Named], is_stopping: Callable[[], bool]) -> Done:
        """Handle messages from the start of a batch, for about ``TIME_BUDGET_SECONDS``.

        Args:
            batch: two or more, in the order of their records. One alone would only be tried twice.
            is_stopping: asked before each message but the first; true ends the transaction there.

        Raises:
            OperationalError, InterfaceError: the connection is lost, and nothing was changed.
        """
        batch = batch[: self._fits]
        started = self._clock()
        session = session_of(self._terms.using)
        try:
            done = self._run(batch, lambda: is_stopping() or self._clock() - started >= TIME_BUDGET_SECONDS)
        except Exception as error:
            if not stop_preparing(error, self._terms.using) and is_outage(error, self._terms.using, session):
                raise
            log.debug("One by one, as together they failed: %s", fingerprint(error), extra={"action": "one_by_one"})
            self._fits = max(2, len(batch) // 2)
            return Done(0, 0, alone=len(batch))
        if self._clock() - started >= TIME_BUDGET_SECONDS:
            self._fits = max(2, done.messages)
        else:
            self._fits = max(self._fits, 2 * len(batch))
        return done

    def _run(self, batch: Sequence[Named], is_over: Callable[[], bool]) -> Done:
        using = self._terms.using
        done = 0
        handled: list[LockedMessage] = []
        trace = tracing.processing(self._terms.handlers.group, using=using, together=True)
        with trace as run, handling(using):
            plan, alone = self._plan(batch)
            for named, (message, handlers) in zip(batch, plan, strict=False):
                if handlers:
                    if handled and is_over():
                        break
                    run(named.event(message), handlers)
                    handled.append(message)
                done += 1
            state.mark_consumed(handled, using=using)
        instrumentation.consumed(handled, group=self._terms.handlers.group, using=using)
        if log.isEnabledFor(logging.DEBUG):
            for message in handled:
                log.debug("Message %s is consumed.", message.id, extra=log_extra("consumed", message))
        return Done(done, len(handled), alone if done == len(plan) else 0)

    def _plan(self, batch: Sequence[Named]) -> tuple[Plan, int]:
        """Lock the messages and see what is to be done, up to the first that is out of the ordinary.

        Returns the plan, and how many behind it have to be handled by themselves.
        """
        messages = state.lock([named.id for named in batch], using=self._terms.using)
        current = [named for named in batch if named.id in messages and named.names(messages[named.id])]
        waiting = self._waiting([messages[named.id] for named in current])
        plan: Plan = []
        planned: set[int] = set()
        ignores_unknown, max_deliveries = settings.unknown_event == "ignore", settings.max_deliveries
        for named in batch:
            message = messages.get(named.id)
            if message is None:
                break
            handlers: list[Handler] = []
            if named.names(message) and named.id not in planned:
                handlers = self._terms.handlers.find(message.event_type, message.topic)
                if handlers or not ignores_unknown:
                    if not handlers or message.id in waiting or message.delivery_count > max_deliveries:
                        break
                    planned.add(message.id)
            plan.append((message, handlers))
        behind = [named.id for named in batch[len(plan) :]]
        alone = len(list(takewhile(lambda id: id in waiting, behind))) or min(1, len(behind))
        return plan, alone

    def _waiting(self, messages: Sequence[LockedMessage]) -> set[int]:
        """Ids of those that something comes before, be it elsewhere or later in the batch."""
        waiting = set(unhandled_before(messages, self._terms.handlers.types_of, using=self._terms.using))
        if settings.ordering == "key":
            first: dict[tuple[str, str], int] = {}
            for message in reversed(messages):
                if message.message_key:
                    place = (message.topic, message.message_key)
                    if first.get(place, message.id) < message.id:
                        waiting.add(message.id)
                    else:
                        first[place] = message.id
        return waiting
