"""Reading as a member of a consumer group through kafka-python."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from django_outbox.brokers import tansu
from django_outbox.brokers.base import Progress, ReceivedRecord, Subscription, TopicPartition, are_at_end
from django_outbox.brokers.calls import (
    CLOSE_SECONDS,
    COMMIT_SECONDS,
    GRACE_SECONDS,
    SLICE_SECONDS,
    Call,
    Patience,
    close_in_time,
)
from django_outbox.brokers.kafka_client import CLIENT_AT_FAULT, CONNECT_SECONDS, error_code, error_text
from django_outbox.brokers.kafka_library import (
    ConsumerRebalanceListener,
    KafkaConsumer,
    KafkaTopicPartition,
    MemberState,
    OffsetAndMetadata,
    kafka_errors,
)
from django_outbox.brokers.kafka_records import RenamedHeaders, take_apart_carefully
from django_outbox.brokers.refusals import refusal
from django_outbox.brokers.undecodable import HEADERS_ARE_NO_TEXT
from django_outbox.exceptions import BrokerUnavailable, TopicNotReadable

JOIN_SECONDS = 5.0
JOIN_SLICE_SECONDS = 0.2  # after which a signal is noticed
# After so long without a record a subscription asks whether the broker is still there.
SILENCE_SECONDS = 10.0

# The client raises RuntimeError and OSError when its I/O thread is gone.
_BROKEN = (kafka_errors.KafkaError, RuntimeError, OSError)


class KafkaSubscription(Subscription):
    def __init__(
        self,
        client: KafkaConsumer,
        topics: Sequence[str],
        location: str,
        look_up: Callable[[Collection[TopicPartition], float], Mapping[TopicPartition, Progress]],
        interrupted: Callable[[], bool],
        *,
        answering: Callable[[], Collection[str]] = lambda: (),
    ) -> None:
        """
        Args:
            client: connected.
            topics: what to read.
            location: of the broker, for people.
            look_up: asks the broker within so many seconds how far the group is. Not by this
                client, which may be about to join: other questions make it forget that.
            interrupted: whether the process is to end.
            answering: which of several brokers answer now.
        """
        self._client = client
        self._location = location
        self._look_up = look_up
        self._interrupted = interrupted
        self._answering = answering
        self._listener = _Assignments()
        self._heard_at = time.monotonic()
        self._is_lost = False  # the broker is at fault
        self._stuck_since: float | None = None
        take_apart_carefully(client)
        try:
            client.subscribe(topics=topics, listener=self._listener)
            # Or partitions that become known only after the first join would make the group join again.
            client.bootstrap(timeout_ms=_milliseconds(CONNECT_SECONDS), refresh=True)
        except BaseException:
            self.close()
            raise

    def poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        try:
            self._notice_forbidden()
            self._go_on_joining()
            batches = self._poll(timeout, limit)
            self._notice_silence(bool(batches))
        except _BROKEN as error:
            raise self._unavailable(error) from error
        return [
            ReceivedRecord(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                key=record.key,
                value=record.value,
                headers=tuple(record.headers),
                fault=HEADERS_ARE_NO_TEXT if isinstance(record.headers, RenamedHeaders) else "",
            )
            for records in batches.values()
            for record in records
        ]

    def _poll(self, timeout: float, limit: int) -> dict[Any, list[Any]]:
        """The client's own poll; for some seconds more while this member waits for its share of the partitions.

        The client takes the answer to a join in a poll that waits for it, and otherwise begins anew, by which all others
        of the group have to join again. With other work between its polls, this member would never come to anything.
        """
        deadline = time.monotonic() + JOIN_SECONDS
        while True:
            seconds = timeout if self._has_its_share() else max(timeout, JOIN_SLICE_SECONDS)
            batches: dict[Any, list[Any]] = self._client.poll(timeout_ms=_milliseconds(seconds), max_records=limit)
            if batches or self._has_its_share() or self._interrupted() or time.monotonic() >= deadline:
                return batches

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        mine = self._client.assignment()
        positions = {
            KafkaTopicPartition(place.topic, place.partition): OffsetAndMetadata(offset, "", -1)
            for place, offset in offsets.items()
            if KafkaTopicPartition(place.topic, place.partition) in mine
        }
        if not positions:
            return
        try:
            self._commit(positions)
        except (
            kafka_errors.CommitFailedError,
            kafka_errors.RebalanceInProgressError,
            kafka_errors.IllegalGenerationError,
            kafka_errors.UnknownMemberIdError,
        ):
            # A rebalance is under way. Whoever gets the partition reads these records again and
            # skips them, as their rows say that they are done.
            return
        except _BROKEN as error:
            raise self._unavailable(error) from error

    def _commit(self, positions: Mapping[Any, OffsetAndMetadata]) -> None:
        """Commit; an answer that is late, as while the group's coordinator moves, is no reason to leave the group."""
        patience = Patience(time.monotonic() + COMMIT_SECONDS, self._interrupted)
        commit = partial(self._client.commit, positions, timeout_ms=_milliseconds(CONNECT_SECONDS))
        while True:
            try:
                Call(commit).result(CONNECT_SECONDS + SLICE_SECONDS, patience.is_over)
                return
            except (kafka_errors.KafkaTimeoutError, TimeoutError):
                if patience.is_over():
                    raise
            self._knock(CONNECT_SECONDS)

    def take_assigned(self) -> set[TopicPartition]:
        return self._listener.take()

    @property
    def is_assigned(self) -> bool:
        return self._has_its_share()

    @property
    def is_idle(self) -> bool:
        return self.is_assigned and not self._client.assignment()

    @property
    def needs_new_client(self) -> bool:
        is_stuck = self._is_on_tansu and self._client._coordinator._is_leader and self.is_idle
        now = time.monotonic()
        self._stuck_since = (self._stuck_since or now) if is_stuck else None
        return self._stuck_since is not None and now - self._stuck_since >= tansu.IDLE_SECONDS

    @property
    def _is_on_tansu(self) -> bool:
        return tansu.is_tansu(self._client._client.cluster.cluster_id)

    def caught_up(self) -> bool:
        if not self._has_its_share():
            return False
        mine = self._mine()  # once, as partitions come and go in another thread
        return are_at_end(mine, self._progress_of(mine), self._location)

    def progress(self) -> dict[TopicPartition, Progress]:
        return self._progress_of(self._mine())

    def close(self) -> None:
        seconds = GRACE_SECONDS if self._interrupted() else CLOSE_SECONDS
        if self._is_on_tansu:
            close_in_time(self._leave_tansu, seconds)
            return
        with suppress(Exception):
            self._client.close(autocommit=False, timeout_ms=_milliseconds(seconds))

    def _leave_tansu(self) -> None:
        is_settled = False
        if not self._is_lost:
            with suppress(*_BROKEN):
                is_settled = tansu.settle(self._can_leave_tansu, self._go_on)
        if not is_settled:
            self._client._coordinator.reset_generation()  # or close() would leave the group
        self._client.close(autocommit=False, timeout_ms=_milliseconds(CLOSE_SECONDS))

    def _can_leave_tansu(self) -> bool:
        """True if no rebalance is under way, or this member is in no group."""
        coordinator = self._client._coordinator
        if coordinator.state is MemberState.UNJOINED:
            return True
        if not self._has_its_share():
            return False
        try:
            self._client._net.run(coordinator._send_heartbeat_request)
        except kafka_errors.KafkaError:
            return False
        return True

    def _go_on(self) -> None:
        self._go_on_joining()
        self._client.poll(timeout_ms=_milliseconds(JOIN_SLICE_SECONDS), max_records=1)

    def _has_its_share(self) -> bool:
        """True if the group has told what this member has, be it nothing, and is about to tell nothing else."""
        # Between two polls the client has taken over what it was told as soon as it is stable.
        return self._client.group_metadata().state is MemberState.STABLE and not self._client._coordinator.rejoin_needed

    def _mine(self) -> set[TopicPartition]:
        return {TopicPartition(place.topic, place.partition) for place in self._client.assignment()}

    def _progress_of(self, mine: set[TopicPartition]) -> dict[TopicPartition, Progress]:
        return {
            place: self._with_position(place, found) for place, found in self._look_up(mine, CONNECT_SECONDS).items()
        }

    def _with_position(self, place: TopicPartition, found: Progress) -> Progress:
        # Without a question to the broker, which the client's own position() would ask.
        state = self._client._subscription.assignment.get(KafkaTopicPartition(place.topic, place.partition))
        if state is None or state.position is None:
            return found
        position = int(state.position.offset)
        # Not every broker tells the true end when asked, but what it sent does.
        return replace(found, high=max(found.high, state.highwater or 0, position), position=position)

    def _go_on_joining(self) -> None:
        """Have the client take up a join that outlasted the last poll.

        It forgets one that it started because the partitions of a topic changed, or became known: it would
        then neither have partitions nor be in the group, and never try again.
        """
        if self._client.group_metadata().state is MemberState.REBALANCING:
            self._client._coordinator.request_rejoin()

    def _notice_forbidden(self) -> None:
        """Tell of topics that this client may no longer know of: the client only logs that, and waits for them.

        Raises:
            TopicAuthorizationFailedError: with the topics.
        """
        forbidden = self._client._client.cluster.unauthorized_topics
        if forbidden:
            raise kafka_errors.TopicAuthorizationFailedError(set(forbidden))

    def _notice_silence(self, heard: bool) -> None:
        """Ask for a sign of life if none was heard for long: the client waits for brokers for ever.

        Raises:
            KafkaError: no broker answers.
        """
        if not heard:
            if time.monotonic() - self._heard_at < SILENCE_SECONDS:
                return
            self._knock(CONNECT_SECONDS)
        self._heard_at = time.monotonic()

    def _knock(self, seconds: float) -> None:
        """See whether a broker answers within so many seconds.

        Raises:
            KafkaError, TimeoutError: none does.
        """
        asking = Call(partial(self._client.bootstrap, timeout_ms=_milliseconds(seconds), refresh=True))
        try:
            asking.result(seconds, self._interrupted)
        except _BROKEN:
            if not self._answering():  # or only the broker that the client asked is away
                raise

    def _unavailable(self, error: BaseException) -> BrokerUnavailable:
        if isinstance(error, CLIENT_AT_FAULT):
            reason = refusal(self._location, error_text(error), error_code(error))
            topics = error.args[0] if error.args else ()
            if isinstance(error, kafka_errors.TopicAuthorizationFailedError) and isinstance(topics, set):
                return TopicNotReadable(topics, reason)
            return BrokerUnavailable(reason)
        self._is_lost = True
        return BrokerUnavailable(f"{self._location} does not answer ({error_text(error)}).")


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


class _Assignments(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes which partitions come. Called on the client's I/O thread, so it does no more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: set[TopicPartition] = set()

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        with self._lock:
            self._new -= {TopicPartition(place.topic, place.partition) for place in revoked}

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        with self._lock:
            self._new |= {TopicPartition(place.topic, place.partition) for place in assigned}

    def take(self) -> set[TopicPartition]:
        with self._lock:
            new, self._new = self._new, set()
            return new
