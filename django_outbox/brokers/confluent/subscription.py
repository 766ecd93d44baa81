"""Reading as a member of a consumer group through confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaTopicPartition

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.brokers.calls import SLICE_SECONDS, Patience
from django_outbox.brokers.commits import Offsets
from django_outbox.brokers.confluent.client import Faults
from django_outbox.brokers.confluent.commits import CommitReports
from django_outbox.brokers.confluent.errors import client_error, told_by
from django_outbox.brokers.confluent.records import place_of, received
from django_outbox.brokers.errors import Code, broken
from django_outbox.brokers.subscription import GroupMember, LookUpProgress
from django_outbox.brokers.tansu import settle
from django_outbox.exceptions import BrokerUnavailable, RecordsUndecodable

SETTLE_SLICE_SECONDS = 0.3

# The client reports these among the records and recovers by itself.
_PASSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
    }
)
# The client reports these instead of records that it cannot decode, and would go on behind them.
_UNDECODABLE = frozenset({KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError._NOT_IMPLEMENTED})


class ConfluentSubscription(GroupMember):
    """Reads through a client that calls back, in the thread that polls, when partitions come or go."""

    # The client raises RuntimeError once it is closed.
    errors = (KafkaException, RuntimeError, TimeoutError)
    client_error = staticmethod(client_error)

    def __init__(
        self,
        client: Consumer,
        faults: Faults,
        topics: Sequence[str],
        look_up: LookUpProgress,
        knock: Callable[[float], None],
        can_leave: Callable[[], bool] = lambda: True,
        reports: CommitReports | None = None,
    ) -> None:
        """
        Args:
            client: connected; its ``error_cb`` is ``faults``, its ``on_commit`` is ``reports``.
            knock, can_leave: ask through another client.
        """
        super().__init__(faults.access, look_up)
        self._client = client
        self._faults = faults
        self._topics = topics
        self._ask_brokers = knock
        self._can_leave = can_leave
        self._reports = reports or CommitReports()
        self._new: set[TopicPartition] = set()
        self._lost: set[TopicPartition] = set()  # since the last message
        self._kept: Message | None = None  # comes with the next poll
        self._has_assignment = False
        self._ends: dict[TopicPartition, int] = {}
        self._undecodable: RecordsUndecodable | None = None
        try:
            client.subscribe(list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        except BaseException:
            self.close()
            raise

    def take_assigned(self) -> set[TopicPartition]:
        new, self._new = self._new, set()
        return new

    @property
    def is_assigned(self) -> bool:
        # With cooperative assignment, a member that gives up partitions keeps the rest and may get no callback for it.
        return self._has_assignment or bool(self._assigned())

    def _read(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        deadline = time.monotonic() + timeout
        while True:
            records = self._poll(max(0.0, deadline - time.monotonic()), limit)
            if self._faults.refusal is not None:
                raise self._failure(self._faults.refusal)
            if self._notice_silence(bool(records), is_down=self._faults.is_down):
                self._faults.heard()
            if records or time.monotonic() >= deadline:
                return records

    def _poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        """Wait for one record and take what came with it: asking for many would wait for as many."""
        if self._undecodable is not None:
            raise self._undecodable
        first, self._kept = self._kept, None
        if first is None:  # a message without a value is false
            first = self._next(timeout)
        if first is None:
            return []
        messages = self._client.consume(limit - 1, 0) if limit > 1 else []
        if place_of(first) not in self._lost:  # meanwhile
            messages = [first, *messages]
        records: list[ReceivedRecord] = []
        try:
            records.extend(received(message) for message in messages if self._is_record(message))  # one by one
        except RecordsUndecodable as error:
            # Return the records before it; they would never be handled if the error came with them each time.
            # The records behind it are read again: committing them would skip what could not be read.
            if not records:
                raise
            self._undecodable = error
        return records

    def _next(self, timeout: float) -> Message | None:
        first = self._client.poll(timeout)
        self._lost.clear()
        return first

    def _is_record(self, message: Message) -> bool:
        """False for a report of the client.

        Raises:
            TopicNotReadable: the client cannot read this topic.
            KafkaException: the client cannot go on reading.
        """
        error = message.error()
        if error is None:
            return True
        place = place_of(message)
        if error.code() == KafkaError._PARTITION_EOF:
            self._ends[place] = message.offset() or 0
        elif error.code() not in _PASSING:
            if place.topic and error.code() in _UNDECODABLE:
                raise broken(place, message.offset() or 0, client_error(error).text)
            raise self._exception(error, {place.topic} - {""})
        return False

    def _exception(self, error: KafkaError, topics: Collection[str]) -> Exception:
        """TopicNotReadable if the client may not read these topics, else KafkaException."""
        told = client_error(error)
        if topics and told.code == Code.TOPIC_AUTHORIZATION_FAILED:
            return self._not_readable(told, topics)
        return KafkaException(error)

    def _assigned(self) -> set[TopicPartition]:
        return {_ours(place) for place in self._client.assignment()}

    def _set_paused(self, places: Collection[TopicPartition], paused: bool) -> None:
        change = self._client.pause if paused else self._client.resume
        change([_theirs(place) for place in places])

    def _positions(self, places: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int | None, int]]:
        found = {}
        for told in self._client.position([_theirs(place) for place in places]):
            place = _ours(told)
            # The marks of transactions behind the last record are not records.
            position = max(told.offset, self._ends.get(place, -1))
            if self._undecodable is not None:  # the client is past records that were not returned
                position = -1
            end = -1  # that came with the last records
            with suppress(KafkaException):
                end = self._client.get_watermark_offsets(_theirs(place), cached=True)[1]
            found[place] = (position if position >= 0 else None, end)
        kept = self._kept
        if kept is not None and kept.error() is None and (place := place_of(kept)) in found:
            found[place] = (kept.offset(), found[place][1])
        return found

    def _begin_commit(self, offsets: Offsets) -> Future[None]:
        answer = self._reports.expect(offsets, self._exception)
        # Without waiting: the library lets a poll wait until a commit that waits has ended.
        self._client.commit(offsets=_positions(offsets), asynchronous=True)
        return answer

    def commit_soon(self, offsets: Offsets) -> bool:
        if self._kept is None and self._reports.are_due:
            with suppress(*self.errors):  # the next poll shows them
                self._kept = self._next(0)  # answers come in a poll only
        return super().commit_soon(offsets)

    def _commit_once(self, offsets: Offsets, seconds: float) -> None:
        try:
            answers = self._client.commit(offsets=_positions(offsets), asynchronous=False)  # waits as long as it takes
        except KafkaException as error:  # the same for all partitions
            raise self._exception(error.args[0], {place.topic for place in offsets}) from error
        for answer in answers:
            if answer.error is not None:
                raise self._exception(answer.error, {answer.topic})

    def _reported(self) -> str:
        return self._faults.reason

    def _knock(self, seconds: float) -> None:
        self._ask_brokers(seconds)

    def _ask_client(self, seconds: float) -> None:
        if self._faults.is_down:
            self._knock(seconds)  # another client fails sooner, and says why
        # The client may lose all brokers for ever (librdkafka issue 5301) while others find them.
        # It ends before the wait for it, or the next poll would find it under way.
        question = partial(self._client.list_topics, self._topics[0], seconds - SLICE_SECONDS)
        try:
            self._call("a question for topics", question, Patience(time.monotonic() + seconds, self._interrupted))
        except (KafkaException, TimeoutError) as error:
            self._knock(seconds)
            told = told_by(error)
            # Otherwise the answer may wait behind a long fetch.
            if told is not None and told.code() == KafkaError._TRANSPORT:
                raise BrokerUnavailable(
                    f"The consumer's client has lost all brokers of {self._location}, although they answer other clients."
                ) from error

    def _leave(self) -> None:
        if not self._is_lost:
            with suppress(KafkaException, RuntimeError):
                settle(self._can_leave, lambda: self._client.poll(SETTLE_SLICE_SECONDS))
        # New partitions must be reported before close(), which may wait for ever for an answer in its callback, and block
        # the interpreter (librdkafka issues 4041 and 4884). A record read here is not committed: another member reads it.
        with suppress(KafkaException, RuntimeError):
            self._client.poll(0)
        self._client.close()

    def _on_assign(self, client: Consumer, places: Iterable[KafkaTopicPartition]) -> None:
        self._has_assignment = True
        for place in map(_ours, places):
            self._new.add(place)
            self._ends.pop(place, None)

    def _on_revoke(self, client: Consumer, places: Iterable[KafkaTopicPartition]) -> None:
        if offsets := self._lose(places):
            with suppress(KafkaException):  # the client sends this before it gives the partitions back
                client.commit(offsets=_positions(offsets), asynchronous=True)

    def _on_lost(self, client: Consumer, places: Iterable[KafkaTopicPartition]) -> None:
        self._lose(places)

    def _lose(self, places: Iterable[KafkaTopicPartition]) -> Offsets:
        self._has_assignment = False
        gone = {_ours(place) for place in places}
        self._new -= gone
        self._lost |= gone
        if paused := self._paused & gone:  # the client would keep them paused after the next assignment
            self._paused -= paused
            with suppress(KafkaException):
                self._client.resume([_theirs(place) for place in paused])
        for place in gone:
            self._ends.pop(place, None)
        return self.on_revoked(gone)


def _ours(place: KafkaTopicPartition) -> TopicPartition:
    return TopicPartition(place.topic, place.partition)


def _theirs(place: TopicPartition, offset: int = -1001) -> KafkaTopicPartition:
    return KafkaTopicPartition(place.topic, place.partition, offset)


def _positions(offsets: Offsets) -> list[KafkaTopicPartition]:
    return [_theirs(place, offset) for place, offset in offsets.items()]
