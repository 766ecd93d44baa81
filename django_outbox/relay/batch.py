"""A batch of the relay: encodes its messages, sends them, and stores the result of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.base import Acknowledged, Failed, Producer, Record, Refused, SendResult, TopicTrouble
from django_outbox.brokers.waiting import PartitionTrouble
from django_outbox.conf import settings
from django_outbox.events.writer import Outgoing, encode
from django_outbox.exceptions import RegistryUnavailable, in_one_line, text_of
from django_outbox.observability import instrumentation
from django_outbox.observability.logging import repeats
from django_outbox.observability.tracing.base import current_tracing
from django_outbox.serializers.base import LOAD_SECONDS, NotLoaded
from django_outbox.serializers.configured import current_serializers
from django_outbox.state import outbox as state
from django_outbox.state import transitions
from django_outbox.state.dialects.results import Published
from django_outbox.state.ordering import has_order, holds_behind_dead

log = logging.getLogger("django_outbox.relay")


# As Published(...), in half the time.
_published: Callable[[tuple[int | None, ...]], Published] = partial(tuple.__new__, Published)


class NoSchema(NamedTuple):
    """The result of a message whose schema cannot be loaded now: its topic waits, uncounted."""

    seconds: float


NotSent = Refused | Failed | NoSchema | None
"""Why a message is not sent. None if its schema is about to be loaded, or it comes after one that was not sent."""


class Batch:
    """Locked messages, in the order in which they are sent.

    Attributes:
        messages: those to send.
        acknowledged: messages that the broker has, with their position.
        published, failed, dead, held: how many were published, could not be sent, can never be sent, and were not sent
            because their schema is not loaded, or because of one before them in their key that was not encoded.
        not_loaded: the schemas to load, after the transaction.
        waiting: topics of messages whose schema cannot be loaded now, with the seconds until the next try.
        written: topics of acknowledged messages.
        faults: topics that could not be written to.
        held_ids, held_topics: of messages whose partition cannot be written to now.
        after_commit: functions to call after the commit, for logs and signals.
    """

    def __init__(
        self, messages: Sequence[Outgoing], *, using: str, loads: Mapping[Hashable, Exception | None] | None = None
    ) -> None:
        """``loads``: the result of ``load_all`` for what the last batch did not have."""
        self._using = using
        self.messages = messages
        self._loads = loads or {}
        self._not_encoded: dict[int, NotSent] = {}  # by position in ``messages``
        self._results: Sequence[SendResult | NotSent] = []
        self.acknowledged: list[Published] = []
        self.published = self.failed = self.dead = self.held = 0
        self.written: set[str] = set()
        self.faults: dict[str, TopicTrouble] = {}
        self.not_loaded: list[NotLoaded] = []
        self.waiting: dict[str, float] = {}
        self.held_ids: set[int] = set()
        self.held_topics: set[str] = set()
        self.after_commit: list[Callable[[], None]] = []

    def send(self, producer: Producer) -> None:
        """Encode and send all messages, and wait for all results.

        Raises:
            BrokerUnavailable: no result is known.
        """
        if not self.messages:
            return
        with current_tracing().sending(self.messages) as trace:
            self._results = producer.send(self._records(), settings.publish_timeout)
            if unsent := self._not_encoded:
                answers = iter(self._results)
                positions = range(len(self.messages))
                self._results = [unsent[each] if each in unsent else next(answers) for each in positions]
            trace(self._results)

    def _records(self) -> Iterator[Record]:
        """Encode the messages while the producer takes them."""
        held: set[tuple[str, str]] = set()
        wire_format, serializers = settings.wire_format, current_serializers()
        for position, message in enumerate(self.messages):
            key = (message.topic, message.message_key)
            if held and key in held:
                self._not_encoded[position] = None
                continue
            result: NotSent
            try:
                record = encode(message, wire_format=wire_format, serializers=serializers)
            except NotLoaded as error:
                result = self._missing(error)
            except RegistryUnavailable as error:
                result = NoSchema(error.retry_after)
            except ImproperlyConfigured as error:
                result = Failed(text_of(error))
            except (ValueError, TypeError, AttributeError) as error:
                result = Refused(f"It cannot be encoded: {text_of(error)}")
            except Exception as error:  # a serializer may be the project's own
                result = Refused(f"It cannot be encoded: {type(error).__name__}: {in_one_line(error)}")
            else:
                yield record
                continue
            self._not_encoded[position] = result
            if has_order(message) and (not isinstance(result, Refused) or holds_behind_dead()):
                held.add(key)

    def _missing(self, error: NotLoaded) -> NotSent:
        """What becomes of a message whose schema is not loaded."""
        if error.key not in self._loads:
            self.not_loaded.append(error)
            return None
        fault = self._loads[error.key]
        if fault is None:  # the load takes longer than a relay waits
            return NoSchema(LOAD_SECONDS)
        if isinstance(fault, RegistryUnavailable):
            return NoSchema(fault.retry_after)
        return Refused(f"Its schema cannot be loaded: {type(fault).__name__}: {in_one_line(fault)}")

    def store(self) -> None:
        """Store the results in the transaction that locked the messages.

        Of each key, only the messages before the first one that was not sent count as published. One after it may be
        in the log already. It is sent again after the failed one, the row then names that record, and the consumer
        skips the earlier record.
        """
        broken: set[tuple[str, str]] = set()
        for message, result in zip(self.messages, self._results, strict=True):
            if result is None or isinstance(result, NoSchema):
                self.held += 1
                if result is not None:
                    self.waiting[message.topic] = max(result.seconds, self.waiting.get(message.topic, 0.0))
                continue
            if isinstance(result, PartitionTrouble):
                self.held_ids.add(message.id)
                self.held_topics.add(message.topic)
            if broken and (message.topic, message.message_key) in broken:
                continue
            if isinstance(result, Acknowledged):
                self.acknowledged.append(_published((message.id, message.publish_count + 1, *result)))
                self.written.add(message.topic)
                continue
            if isinstance(result, TopicTrouble):
                self.faults.setdefault(message.topic, result)
            elif not isinstance(result, PartitionTrouble):
                self._store_failure(message, result)
            if has_order(message) and (not isinstance(result, Refused) or holds_behind_dead()):
                broken.add((message.topic, message.message_key))
        self.published = state.mark_published(self.acknowledged, using=self._using)

    def _store_failure(self, message: Outgoing, result: Refused | Failed) -> None:
        rows = state.to_send(message.id, message.attempt, using=self._using)
        if isinstance(result, Refused):
            failed = transitions.mark_dead(rows, result.reason)
            self.dead += failed is not None
        else:
            failed = transitions.mark_failed(rows, result.reason)
            self.failed += failed is not None
        if failed is not None:
            self.after_commit.append(partial(_report, message, result, failed.status, self._using))


def _report(message: Outgoing, result: Refused | Failed, status: str, using: str) -> None:
    reason, final = result.reason, status == state.Status.DEAD
    level = logging.ERROR if final else logging.WARNING
    if isinstance(result, Refused):
        text = "Message %s (%s) is dead, as it can never be sent: %s"
        repeats.log_failure(log, level, "dead", message, reason, text, message.id, message.event_type, reason)
        instrumentation.dead(message, reason, using=using)
    else:
        text = "Message %s (%s) could not be sent and is %s: %s"
        repeats.log_failure(log, level, "failed", message, reason, text, message.id, message.event_type, status, reason)
        instrumentation.failed(message, reason, final=final, using=using)
