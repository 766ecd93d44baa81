"""The engine: runs handlers, and commits their effects together with the state of their messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from django_outbox.consumer.breaker import Breaker
from django_outbox.consumer.calls import Attempt, Calls
from django_outbox.consumer.redo import Redo
from django_outbox.consumer.source import Claim, Item, Outcome, Source
from django_outbox.exceptions import in_one_line, name_handlers
from django_outbox.observability import instrumentation
from django_outbox.observability.instrumentation import name_of, report_dead
from django_outbox.observability.logging import log_extra
from django_outbox.observability.tracing.base import current_tracing
from django_outbox.state.failures import fingerprint
from django_outbox.worker.database_errors import is_outage, session_of
from django_outbox.worker.pooling import stop_preparing
from django_outbox.worker.transactions import OutageCounts, handler_transaction, retry_transaction

log = logging.getLogger("django_outbox.consumer")

TIME_BUDGET_SECONDS = 1.0
"""For one transaction of several messages. Offsets are committed and stop requests are checked in between."""
LANE_BUDGET_SECONDS = 0.5
"""The same for one of several lanes: meanwhile, others cannot handle the messages of these keys."""


class Engine:
    """Handles messages of any source, several in one transaction as long as none of them raises.

    If one raises, the transaction is rolled back, and ``Redo`` says what is handled again together, and what alone: no
    retry is counted for messages that did not fail alone. An engine serves one thread.
    """

    def __init__(
        self,
        using: str,
        group: str,
        clock: Callable[[], float],
        *,
        outages: OutageCounts,
        breaker: Breaker,
        is_lane: bool,
    ) -> None:
        """
        Args:
            outages, breaker: shared by the engines of a consumer.
            is_lane: whether others work beside this one.
        """
        self._using = using
        self._breaker = breaker
        self._group = group
        self._clock = clock
        self._outages = outages
        self._budget = LANE_BUDGET_SECONDS if is_lane else TIME_BUDGET_SECONDS
        self._least = 1.0 if is_lane else 2.0
        self.transaction_size = self._least
        """Cost of the messages of a transaction; adapted so that they take about the time budget."""
        self._alone_left = 0  # messages to handle one by one

    def handle(self, source: Source[Item], items: Sequence[Item], is_stopping: Callable[[], bool]) -> list[Outcome]:
        """Handle deliveries in one transaction, as many as fit; returns the outcomes of at least the first.

        Args:
            is_stopping: called between two messages; if True, the transaction ends.

        Raises:
            OperationalError, InterfaceError: the connection is lost; nothing changed.
        """
        costs = self.fitting(source, items)
        wanted = [item for item, cost in zip(items, costs, strict=False) if cost]
        if not wanted:
            return [Outcome.SKIPPED] * len(costs)
        outcomes = iter(self._handle(source, wanted, sum(costs), is_stopping))
        handled: list[Outcome] = []
        for cost in costs:
            outcome = next(outcomes, None) if cost else Outcome.SKIPPED
            if outcome is None:
                break
            handled.append(outcome)
        return handled

    def fitting(self, source: Source[Item], items: Sequence[Item]) -> list[float]:
        """Return the costs of those deliveries, from the first on, that fit into the next transaction."""
        left = self.transaction_size
        costs: list[float] = []
        for item in items:
            cost = source.cost(item)
            if cost:
                if left < cost / 2:  # not less than 0, which sums of fractions may miss
                    break
                left = 0.0 if self.is_one_by_one else left - cost
            costs.append(cost)
        return costs

    def _handle(
        self, source: Source[Item], batch: Sequence[Item], cost: float, is_stopping: Callable[[], bool]
    ) -> list[Outcome]:
        if len(batch) < 2:
            over_at = self._clock() + self._budget
            outcome = self.handle_alone(source, batch[0])
            if self.transaction_size < 2.0 and self._clock() < over_at:
                self.transaction_size = 2.0
            return [outcome]
        session_of(self._using)  # if this raises, no delivery has caused it
        redo = Redo(batch)
        while True:
            over_at = self._clock() + self._budget
            attempt = Attempt()
            items = redo.together
            is_over = partial(self._is_over, over_at, is_stopping)
            try:
                done = self._run(source, items, attempt, is_over, together=True)
            except Exception as error:
                if redo.name(error, attempt):
                    continue
                if not stop_preparing(error, self._using) and is_outage(error, self._using):
                    self._alone_left = len(batch)  # to find the message that causes it
                    raise
                self.transaction_size = max(self._least, cost / 2)
                log.debug("Rolled back after %s", fingerprint(error), extra={"action": "rolled_back"})
                if redo.cut(attempt):
                    continue
                break
            share = cost / len(batch)
            if self._clock() >= over_at:
                self.transaction_size = max(self._least, share * len(done))
            else:
                self.transaction_size = max(self.transaction_size, 2 * share * len(items))
            outcomes = redo.outcomes(done, partial(self._fail, source))
            self._alone_left = redo.alone(len(outcomes))
            return outcomes
        # Outside the except block, where the error would be the context of later ones.
        self._alone_left = redo.alone(0)
        return [self.handle_alone(source, batch[0])]

    def _is_over(self, over_at: float, is_stopping: Callable[[], bool]) -> bool:
        return is_stopping() or self._clock() >= over_at

    def handle_alone(self, source: Source[Item], item: Item) -> Outcome:
        """Handle one delivery in its own transaction, again after transient faults.

        Raises:
            OperationalError, InterfaceError: the connection is lost, or the message cannot be locked.
        """
        if not source.cost(item):
            return Outcome.SKIPPED
        attempt = Attempt()
        what, extra = source.describe(item)

        def work() -> Outcome:
            attempt.claims = ()
            return self._run(source, [item], attempt, lambda: False, together=False)[0].outcome

        def fail(error: Exception) -> Outcome:
            claim = attempt.claims[0] if attempt.claims else None
            if claim is not None:
                name_handlers(error, (handler.name for handler in claim.handlers))
            return self._fail(source, item, claim, error)

        def log_retry(fault: Exception) -> None:
            log.info("Retrying %s: %s", what, in_one_line(fault), extra={"action": "again", **extra})

        outcome = retry_transaction(
            work,
            using=self._using,
            on_error=fail,
            on_exhausted=lambda fault: source.requeue(item, fault),
            on_retry=log_retry,
            outages=self._outages,
            work_id=what,
        )
        # If one failed, others like it may fail, and would be handled together in vain.
        least = 1 if outcome in (Outcome.FAILED, Outcome.DEAD) else 0
        self._alone_left = max(least, self._alone_left - 1)
        return outcome

    def _fail(self, source: Source[Item], item: Item, claim: Claim | None, error: Exception) -> Outcome:
        outcome = source.fail(item, claim, error)
        if outcome is Outcome.FAILED and claim is not None:
            self._breaker.failed(claim.handlers, error)
        return outcome

    @property
    def is_one_by_one(self) -> bool:
        """True while each message has a transaction of its own, after one that failed."""
        return self._alone_left > 0

    def reset(self) -> None:
        """Forget the deliveries so far, as the next ones are others."""
        self._alone_left = 0

    def _run(
        self,
        source: Source[Item],
        items: Sequence[Item],
        attempt: Attempt,
        is_over: Callable[[], bool],
        *,
        together: bool,
    ) -> list[Claim]:
        """Handle deliveries in one transaction. Returns the claims that it completed.

        Args:
            together: after an error, they will be handled again.
        """
        prepared = source.prepare(items)
        if all(claim.outcome in (Outcome.SKIPPED, Outcome.WAITING) for claim in prepared):
            return list(prepared)
        done: list[Claim] = []
        has_begun = False
        trace = current_tracing().processing(self._group, using=self._using, together=together)
        with trace as run_handlers, handler_transaction(self._using):
            attempt.claims = claims = source.claim(items, prepared)
            calls = Calls(run_handlers, attempt)
            for claim in claims:
                if claim.event is not None and claim.outcome is Outcome.CONSUMED:
                    if has_begun and is_over():
                        break
                    calls.add(claim.event, claim.handlers)
                    has_begun = True
                done.append(claim)
            calls.finish()
            source.settle(done, claims[len(done) :])
        self._report(done)
        return done

    def _report(self, done: Sequence[Claim]) -> None:
        """Log dead and consumed messages, after the commit."""
        handled = [each.message for each in done if each.outcome is Outcome.CONSUMED and each.message is not None]
        for claim in done:
            if claim.outcome is Outcome.REQUEUED and claim.reason:
                instrumentation.requeued(claim.reason)
            if claim.outcome is Outcome.DEAD and claim.message is not None:
                report_dead(log, claim.message, claim.reason, using=self._using)
        # By id, as a handler may be any callable, also one without a hash.
        succeeded = {id(claim.handlers): claim.handlers for claim in done if claim.outcome is Outcome.CONSUMED}
        for handlers in succeeded.values():
            self._breaker.succeeded(handlers)
        instrumentation.consumed(handled, group=self._group, using=self._using)
        if log.isEnabledFor(logging.DEBUG):
            for message in handled:
                log.debug("%s is consumed.", name_of(message), extra=log_extra("consumed", message))
