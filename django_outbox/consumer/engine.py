"""The engine: runs handlers, and commits their effects together with the state of their messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from django_outbox.consumer.delivery import Claim, Item, Outcome, Source
from django_outbox.exceptions import in_one_line, name_handlers
from django_outbox.observability import instrumentation
from django_outbox.observability.logging import log_extra
from django_outbox.observability.outcomes import report_dead
from django_outbox.observability.tracing import hooks as tracing
from django_outbox.state.failures import fingerprint
from django_outbox.worker.database_errors import is_outage, session_of
from django_outbox.worker.pooling import stop_preparing
from django_outbox.worker.transactions import OutageCounts, handler_transaction, retry_transaction

log = logging.getLogger("django_outbox.consumer")

TIME_BUDGET_SECONDS = 1.0
"""For one transaction of several messages. Offsets are committed and stop requests are checked in between."""


class Engine:
    """Handles messages of any source, several in one transaction as long as none of them raises.

    If one raises, the transaction is rolled back, and each of its messages is handled again in its own transaction:
    no retry is counted for the others. An engine serves one thread.
    """

    def __init__(self, using: str, group: str, clock: Callable[[], float]) -> None:
        self._using = using
        self._group = group
        self._clock = clock
        self._outages = OutageCounts()
        self.transaction_size = 2
        """Messages per transaction; adapted so that they take about ``TIME_BUDGET_SECONDS``."""
        self._alone_left = 0  # messages to handle one by one

    def handle(
        self, source: Source[Item], items: Sequence[Item], is_stopping: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        """Handle deliveries in one transaction, as many as fit; returns the outcomes of at least the first.

        Args:
            is_stopping: called between two messages; if True, the transaction ends.

        Raises:
            OperationalError, InterfaceError: the connection is lost; nothing changed.
        """
        batch = items[: self.transaction_size]
        if len(batch) < 2 or self._alone_left:
            return [self.handle_alone(source, items[0])]
        started = self._clock()
        session = session_of(self._using)

        def is_over() -> bool:
            return is_stopping() or self._clock() - started >= TIME_BUDGET_SECONDS

        try:
            done = self._run(source, batch, is_over, together=True)
        except Exception as error:
            self._alone_left = len(batch)  # also after an outage, to find the message that causes it
            if not stop_preparing(error, self._using) and is_outage(error, self._using, session):
                raise
            log.debug("Handling one by one after %s", fingerprint(error), extra={"action": "one_by_one"})
        else:
            is_slow = self._clock() - started >= TIME_BUDGET_SECONDS
            self.transaction_size = max(2, len(done)) if is_slow else max(self.transaction_size, 2 * len(batch))
            return [claim.outcome for claim in done]
        # Outside the except block, where the error would be the context of later ones.
        self.transaction_size = max(2, len(batch) // 2)
        return [self.handle_alone(source, items[0])]

    def handle_alone(self, source: Source[Item], item: Item) -> Outcome:
        """Handle one delivery in its own transaction, again after transient faults.

        Raises:
            OperationalError, InterfaceError: the connection is lost, or the message cannot be locked.
        """
        claims: list[Claim] = []

        def work() -> Outcome:
            claims.clear()
            (claim,) = self._run(source, [item], lambda: False, together=False, claims=claims)
            return claim.outcome

        def fail(error: Exception) -> Outcome:
            claim = claims[0] if claims else None
            if claim is not None:
                name_handlers(error, (handler.name for handler in claim.handlers))
            return source.fail(item, claim, error)

        def log_retry(fault: Exception) -> None:
            what, extra = source.describe(item)
            log.info("Retrying %s: %s", what, in_one_line(fault), extra={"action": "again", **extra})

        outcome = retry_transaction(
            work,
            using=self._using,
            on_error=fail,
            on_exhausted=lambda fault: source.requeue(item, fault),
            on_retry=log_retry,
            outages=self._outages,
            work_id=source.delivery_id(item),
        )
        self._alone_left = max(0, self._alone_left - 1)
        return outcome

    def reset(self) -> None:
        """Forget the deliveries so far, as the next ones are others."""
        self._alone_left = 0

    def _run(
        self,
        source: Source[Item],
        items: Sequence[Item],
        is_over: Callable[[], bool],
        *,
        together: bool,
        claims: list[Claim] | None = None,
    ) -> list[Claim]:
        """Handle deliveries in one transaction. Returns the claims that it completed."""
        claims = [] if claims is None else claims
        done: list[Claim] = []
        prepared = source.prepare(items)
        if prepared and all(claim.outcome is Outcome.SKIPPED for claim in prepared):
            return prepared
        has_run = False
        trace = tracing.processing(self._group, using=self._using, together=together)
        with trace as run_handlers, handler_transaction(self._using):
            claims += source.claim(items, prepared)
            for claim in claims:
                if claim.event is not None and claim.outcome is Outcome.CONSUMED:
                    if has_run and is_over():
                        break
                    run_handlers(claim.event, claim.handlers)
                    has_run = True
                done.append(claim)
            source.settle(done, claims[len(done) :])
        self._after_commit(done)
        return done

    def _after_commit(self, done: Sequence[Claim]) -> None:
        handled = []
        for claim in done:
            if claim.message is None:
                continue
            if claim.outcome is Outcome.CONSUMED:
                handled.append(claim.message)
            elif claim.outcome is Outcome.DEAD:
                report_dead(log, claim.message, claim.reason, using=self._using)
        instrumentation.consumed(handled, group=self._group, using=self._using)
        if log.isEnabledFor(logging.DEBUG):
            for message in handled:
                log.debug("%s is consumed.", message, extra=log_extra("consumed", message))
