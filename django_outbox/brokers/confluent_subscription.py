"""Reading as a member of a consumer group through confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import methodcaller

from django_outbox.brokers.base import Headers, Progress, ReceivedRecord, Subscription, TopicPartition, are_at_end
from django_outbox.brokers.calls import (
    CLOSE_SECONDS,
    COMMIT_SECONDS,
    GRACE_SECONDS,
    SLICE_SECONDS,
    Call,
    Patience,
    close_in_time,
)
from django_outbox.brokers.confluent_client import (
    CLIENT_AT_FAULT,
    CONNECT_SECONDS,
    TOPIC_IS_MISSING,
    Faults,
    error_text,
    protocol_code,
)
from django_outbox.brokers.confluent_library import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
)
from django_outbox.brokers.confluent_library import TopicPartition as KafkaTopicPartition
from django_outbox.brokers.refusals import refusal
from django_outbox.brokers.tansu import settle
from django_outbox.brokers.undecodable import HEADERS_ARE_NO_TEXT, broken
from django_outbox.exceptions import BrokerUnavailable, RecordsUndecodable, TopicNotReadable

SETTLE_SLICE_SECONDS = 0.3
# After so long without a record a subscription asks whether the broker is still there.
SILENCE_SECONDS = 10.0

# A rebalance is under way. Whoever gets the partition reads these records again and skips them, as
# their rows say that they are done.
_REBALANCING = frozenset(
    {
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._NO_OFFSET,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)
# Another broker is about to coordinate the group, or waits for a replica that hangs.
_COORDINATOR_IS_MOVING = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._WAIT_COORD,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
# What the client tells among the records and gets over by itself.
_PASSING = TOPIC_IS_MISSING | {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
}
# What the client tells in place of records that it cannot take apart; it would go on behind them.
_UNDECODABLE = frozenset({KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError._NOT_IMPLEMENTED})
Committed = list[KafkaTopicPartition]

# The client raises RuntimeError once it is closed.
_BROKEN = (KafkaException, RuntimeError, TimeoutError)


class ConfluentSubscription(Subscription):
    """Reads through a client that calls back, in the thread that polls, when partitions come or go."""

    def __init__(
        self,
        client: Consumer,
        faults: Faults,
        topics: Sequence[str],
        look_up: Callable[[Collection[TopicPartition], float], Mapping[TopicPartition, Progress]],
        knock: Callable[[float], None],
        interrupted: Callable[[], bool],
        can_leave: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Args:
            client: connected.
            faults: the client's ``error_cb``.
            topics: what to read.
            look_up: asks the broker within so many seconds how far the group is. Not by this
                client, where questions wait for half a second behind its reading.
            knock: raises ``BrokerUnavailable`` if no broker answers another client within so many seconds.
            interrupted: whether the process is to end.
            can_leave: whether the broker can let a member leave the group now.
        """
        self._client = client
        self._faults = faults
        self._can_leave = can_leave
        self._is_lost = False  # the broker is at fault
        self._look_up = look_up
        self._knock = knock
        self._interrupted = interrupted
        self._new: set[TopicPartition] = set()
        self._is_between = True  # shares: what this member had is gone, and what it gets not known yet
        self._committing: Call[Committed] | None = None
        self._topics = topics
        self._asking: Call[object] | None = None  # whether the client still has a broker
        self._ends: dict[TopicPartition, int] = {}
        self._undecodable: RecordsUndecodable | None = None
        self._heard_at = time.monotonic()
        try:
            client.subscribe(list(topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        except BaseException:
            self.close()
            raise

    def poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        deadline = time.monotonic() + timeout
        try:
            self._check()
            while True:
                records = self._read(max(0.0, deadline - time.monotonic()), limit)
                self._notice_silence(bool(records))
                if records or time.monotonic() >= deadline:
                    return records
        except _BROKEN as error:
            raise self._unavailable(error) from error

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        try:
            self._check()
            mine = self._mine()
            positions = [_their(place, offset) for place, offset in offsets.items() if place in mine]
            if positions:
                self._commit(positions)
        except _BROKEN as error:
            if _code(error) not in _REBALANCING:
                raise self._unavailable(error) from error

    def take_assigned(self) -> set[TopicPartition]:
        new, self._new = self._new, set()
        return new

    @property
    def is_assigned(self) -> bool:
        # With cooperative assignment a member that gives something up keeps the rest, and need not be told of more.
        return not self._is_between or bool(self._mine())

    @property
    def is_idle(self) -> bool:
        return self.is_assigned and not self._mine()

    def caught_up(self) -> bool:
        if not self.is_assigned:
            return False
        # Partitions come and go in poll() alone.
        return are_at_end(self._mine(), self.progress(), self._faults.location)

    def progress(self) -> dict[TopicPartition, Progress]:
        try:
            self._check()
            mine = self._mine()
            positions = self._client.position([_their(place) for place in mine])
        except _BROKEN as error:
            raise self._unavailable(error) from error
        found = self._look_up(mine, CONNECT_SECONDS)
        return {
            place: self._with_position(found[place], place, offset)
            for place, offset in _by_place(positions)
            if place in found
        }

    def close(self) -> None:
        close_in_time(self._end, GRACE_SECONDS if self._interrupted() else CLOSE_SECONDS)

    def _end(self) -> None:
        for call in (self._committing, self._asking):
            if call is not None:  # to free the client under it would not be safe
                call.join()
        if not self._is_lost:
            with suppress(KafkaException, RuntimeError):
                settle(self._can_leave, lambda: self._client.poll(SETTLE_SLICE_SECONDS))
        # Partitions that have come and were not told yet must not be told by close(): that waits at times for ever for
        # an answer within its callback, and the interpreter with it (librdkafka issues 4041 and 4884). A record that is
        # read here is not committed, so that another member reads it.
        with suppress(KafkaException, RuntimeError):
            self._client.poll(0)
        self._client.close()

    def _commit(self, positions: list[KafkaTopicPartition]) -> None:
        """Commit, and wait for the answer, which the client itself would do for ever.

        An answer that is late, as while the group's coordinator moves, is no reason to leave the group.
        """
        patience = Patience(time.monotonic() + COMMIT_SECONDS, self._interrupted)
        while True:
            try:
                return self._commit_once(positions, patience)
            except KafkaException as error:
                if error.args[0].code() not in _COORDINATOR_IS_MOVING or patience.is_over():
                    raise
            self._knock(CONNECT_SECONDS)
            time.sleep(SLICE_SECONDS)

    def _commit_once(self, positions: list[KafkaTopicPartition], patience: Patience) -> None:
        self._committing = Call(lambda: self._client.commit(offsets=positions, asynchronous=False))
        try:
            answers = self._await_late_answer(self._committing, patience)
        except KafkaException as error:  # of all partitions the same
            self._blame(error.args[0], {place.topic for place in positions})
            raise
        for place in answers:
            if place.error is not None:
                self._blame(place.error, {place.topic})
                raise KafkaException(place.error)

    def _await_late_answer(self, call: Call[Committed], patience: Patience) -> Committed:
        """What the broker answers, however late; asks now and then whether a broker is there at all."""
        while True:
            try:
                return call.result(CONNECT_SECONDS, patience.is_over)
            except TimeoutError:
                if patience.is_over():
                    raise
            self._knock(CONNECT_SECONDS)

    def _blame(self, error: KafkaError, topics: Collection[str]) -> None:
        """Raise TopicNotReadable if that is what the error is."""
        if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise TopicNotReadable(topics, refusal(self._faults.location, error_text(error), protocol_code(error)))

    def _check(self) -> None:
        """Raise TimeoutError while a call hangs: the client would let any other wait for its end."""
        for call, question in ((self._committing, "a commit"), (self._asking, "a question for topics")):
            if call is not None and call.is_alive():
                raise TimeoutError(f"no answer to {question}")

    def _read(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        """Wait for one record, and take what has come with it: to ask for many would wait for as many."""
        if self._undecodable is not None:
            raise self._undecodable
        first = self._client.poll(timeout)
        if first is None:
            return []
        messages = [first, *self._client.consume(limit - 1, 0)] if limit > 1 else [first]
        records: list[ReceivedRecord] = []
        try:
            records.extend(_received(message) for message in messages if self._is_record(message))  # as far as it comes
        except RecordsUndecodable as error:
            # What came before is good, and would never be handled if it came with the error each time.
            # What comes after is read again: to commit it would pass what could not be read.
            if not records:
                raise
            self._undecodable = error
        return records

    def _is_record(self, message: Message) -> bool:
        """False for what the client only has to say.

        Raises:
            TopicNotReadable: it will not read this topic on.
            KafkaException: it will not read on.
        """
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            place = TopicPartition(message.topic() or "", message.partition() or 0)
            self._ends[place] = message.offset() or 0
        elif error.code() not in _PASSING:
            if topic := message.topic():
                if error.code() in _UNDECODABLE:
                    place = TopicPartition(topic, message.partition() or 0)
                    raise broken(place, message.offset() or 0, error_text(error))
                self._blame(error, {topic})
            raise KafkaException(error)
        return False

    def _with_position(self, found: Progress, place: TopicPartition, position: int) -> Progress:
        # Behind the last record there may be marks of transactions, which are no records.
        position = max(position, self._ends.get(place, -1))
        # Not every broker tells the true end when asked, but what it sent does.
        high = max(found.high, self._sent_end(place), position)
        return replace(found, high=high, position=position if position >= 0 else None)

    def _sent_end(self, place: TopicPartition) -> int:
        """The end that came with the last records: not every broker tells the true one when asked."""
        with suppress(KafkaException):
            return self._client.get_watermark_offsets(_their(place), cached=True)[1]
        return -1

    def _mine(self) -> set[TopicPartition]:
        return {TopicPartition(place.topic, place.partition) for place in self._client.assignment()}

    def _assigned(self, client: Consumer, places: Iterable[KafkaTopicPartition]) -> None:
        new = {TopicPartition(place.topic, place.partition) for place in places}
        self._is_between = False
        self._new |= new
        self._forget_ends(new)

    def _revoked(self, client: Consumer, places: Iterable[KafkaTopicPartition]) -> None:
        gone = {TopicPartition(place.topic, place.partition) for place in places}
        self._is_between = True
        self._new -= gone
        self._forget_ends(gone)

    def _forget_ends(self, places: Iterable[TopicPartition]) -> None:
        for place in places:
            self._ends.pop(place, None)

    def _notice_silence(self, heard: bool) -> None:
        """Ask for a sign of life if none was heard for long: the client waits for brokers for ever.

        Raises:
            KafkaException: the broker refuses this client.
            BrokerUnavailable: no broker answers, or the client has none any more.
        """
        if self._faults.refusal is not None:
            raise KafkaException(self._faults.refusal)
        if not heard:
            if self._faults.is_down:
                self._knock(CONNECT_SECONDS)  # it knows sooner, and why
            elif time.monotonic() - self._heard_at < SILENCE_SECONDS:
                return
            self._ask_client()
        self._faults.heard()
        self._heard_at = time.monotonic()

    def _ask_client(self) -> None:
        """See whether the client still has a broker: it may lose all of them for ever while others find them."""
        self._asking = Call(lambda: self._client.list_topics(self._topics[0], CONNECT_SECONDS))
        patience = Patience(time.monotonic() + CONNECT_SECONDS, self._interrupted)
        try:
            self._asking.result(CONNECT_SECONDS, patience.is_over)
        except (KafkaException, TimeoutError) as error:
            self._knock(CONNECT_SECONDS)
            if _code(error) == KafkaError._TRANSPORT:  # else its answer may wait behind a long fetch
                raise BrokerUnavailable(
                    f"The consumer's client has lost all brokers of {self._faults.location}, which answer others."
                ) from error

    def _unavailable(self, error: Exception) -> BrokerUnavailable:
        told = error.args[0] if isinstance(error, KafkaException) and error.args else None
        if isinstance(told, KafkaError) and told.code() in CLIENT_AT_FAULT | {KafkaError.TOPIC_AUTHORIZATION_FAILED}:
            return BrokerUnavailable(refusal(self._faults.location, error_text(told), protocol_code(told)))
        reason = error_text(told) if isinstance(told, KafkaError) else str(error)
        self._is_lost = True
        return BrokerUnavailable(f"{self._faults.location} does not answer ({self._faults.reason or reason}).")


def _by_place(places: Iterable[KafkaTopicPartition]) -> list[tuple[TopicPartition, int]]:
    return [(TopicPartition(place.topic, place.partition), place.offset) for place in places]


def _their(place: TopicPartition, offset: int = -1001) -> KafkaTopicPartition:
    return KafkaTopicPartition(place.topic, place.partition, offset)


def _received(message: Message) -> ReceivedRecord:
    headers, fault = _headers(message)
    return ReceivedRecord(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=message.value(),
        headers=headers,
        fault=fault,
    )


# For a name that is not UTF-8 the library returns headers with holes and leaves an error behind. Python's interpreter,
# once it has seen enough calls of a method, no longer looks for that; calls made for it in C always do.
_call_headers = methodcaller("headers")


def _headers(message: Message) -> tuple[Headers, str]:
    """The headers of a record and, if the library cannot read them, what is wrong with them."""
    try:
        return tuple(_call_headers(message) or ()), ""
    except (SystemError, UnicodeDecodeError):
        return (), HEADERS_ARE_NO_TEXT


def _code(error: Exception) -> int | None:
    told = error.args[0] if error.args else None
    return told.code() if isinstance(told, KafkaError) else None
