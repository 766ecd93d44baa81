"""Reading as a member of a consumer group through kafka-python."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition
from kafka import errors as kafka_errors
from kafka.structs import MemberState, OffsetAndMetadata

from django_outbox.brokers import tansu
from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.brokers.calls import CLOSE_SECONDS, CONNECT_SECONDS, SLICE_SECONDS, Call
from django_outbox.brokers.commits import Offsets
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.errors import HEADERS_ARE_NO_TEXT
from django_outbox.brokers.kafka.errors import client_error
from django_outbox.brokers.kafka.records import RenamedHeaders, decode_carefully, go_on_after_pauses
from django_outbox.brokers.subscription import GroupMember, LookUpProgress
from django_outbox.exceptions import BrokerUnavailable

JOIN_SECONDS = 5.0
JOIN_SLICE_SECONDS = 0.2  # after which a signal is noticed


class KafkaSubscription(GroupMember):
    # The client raises RuntimeError and OSError when its I/O thread is gone.
    errors = (kafka_errors.KafkaError, RuntimeError, OSError)
    client_error = staticmethod(client_error)

    def __init__(self, client: KafkaConsumer, topics: Sequence[str], access: Access, look_up: LookUpProgress) -> None:
        super().__init__(access, look_up)
        self._client = client
        self._listener = Assignments(self._lose)
        self._stuck_since: float | None = None
        self._committing: list[Call[None]] = []
        decode_carefully(client)
        go_on_after_pauses(client)
        _fail_commits_of_missing_topics(client)
        try:
            client.subscribe(topics=topics, listener=self._listener)
            # Otherwise partitions that become known only after the first join would make the group join again.
            client.bootstrap(timeout_ms=_milliseconds(CONNECT_SECONDS), refresh=True)
        except BaseException:
            self.close()
            raise

    def take_assigned(self) -> set[TopicPartition]:
        return self._listener.take()

    def _lose(self, partitions: set[TopicPartition]) -> None:
        self._paused -= partitions
        self.on_revoked(partitions)  # a commit would wait for the thread that calls this

    @property
    def is_assigned(self) -> bool:
        # Between two polls, the client has applied its assignment as soon as it is stable.
        return self._client.group_metadata().state is MemberState.STABLE and not self._client._coordinator.rejoin_needed

    @property
    def needs_new_client(self) -> bool:
        is_stuck = self._is_on_tansu and self._client._coordinator._is_leader and self.is_idle
        now = time.monotonic()
        self._stuck_since = (self._stuck_since or now) if is_stuck else None
        return self._stuck_since is not None and now - self._stuck_since >= tansu.IDLE_SECONDS

    def _read(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        self._notice_forbidden()
        self._go_on_joining()
        batches = self._poll(timeout, limit)
        self._notice_silence(bool(batches))
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
        """The client's own poll; some seconds longer while this member waits for its assignment.

        The client takes the answer to a join only in the poll that waits for it. Otherwise it joins again, and so must all
        other members. With other work between its polls, this member would never get an assignment.
        """
        deadline = time.monotonic() + JOIN_SECONDS
        while True:
            seconds = timeout if self.is_assigned else max(timeout, JOIN_SLICE_SECONDS)
            batches: dict[Any, list[Any]] = self._client.poll(timeout_ms=_milliseconds(seconds), max_records=limit)
            if batches or self.is_assigned or self._interrupted() or time.monotonic() >= deadline:
                return batches

    def _assigned(self) -> set[TopicPartition]:
        return {_ours(place) for place in self._client.assignment()}

    def _set_paused(self, places: Collection[TopicPartition], paused: bool) -> None:
        change = self._client.pause if paused else self._client.resume
        change(*map(_theirs, places))

    def _positions(self, places: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int | None, int]]:
        # The client's own position() may ask the broker.
        found: dict[TopicPartition, tuple[int | None, int]] = {}
        for place in places:
            state = self._client._subscription.assignment.get(_theirs(place))
            is_known = state is not None and state.position is not None
            found[place] = (int(state.position.offset), state.highwater or 0) if is_known else (None, 0)
        return found

    def _commit_once(self, offsets: Offsets, seconds: float) -> None:
        positions = {_theirs(place): OffsetAndMetadata(offset, "", -1) for place, offset in offsets.items()}
        self._client.commit(positions, timeout_ms=_milliseconds(seconds))

    def _begin_commit(self, offsets: Offsets) -> Future[None]:
        call = Call(partial(self._commit_once, offsets, CONNECT_SECONDS - SLICE_SECONDS))
        self._committing = [each for each in self._committing if not each.is_done] + [call]
        call.wait(SLICE_SECONDS)  # most have their answer by then
        return call.future

    def _knock(self, seconds: float) -> None:
        self._ask_client(seconds)

    def _ask_client(self, seconds: float) -> None:
        question = Call(partial(self._client.bootstrap, timeout_ms=_milliseconds(seconds), refresh=True))
        try:
            question.result(seconds, self._interrupted)
        except self.errors:
            if not self._access.answering():  # or only the broker that the client asked is away
                raise

    def _leave(self) -> None:
        for call in self._committing:
            call.wait()  # closing the client under a call would not be safe
        if self._is_on_tansu:
            is_settled = False
            if not self._is_lost:
                with suppress(*self.errors):
                    is_settled = tansu.settle(self._can_leave_tansu, self._go_on)
            if not is_settled:
                self._client._coordinator.reset_generation()  # or close() would leave the group
        self._client.close(autocommit=False, timeout_ms=_milliseconds(CLOSE_SECONDS))

    @property
    def _is_on_tansu(self) -> bool:
        return tansu.is_tansu(self._client._client.cluster.cluster_id)

    def _can_leave_tansu(self) -> bool:
        """True if no rebalance is under way, or this member is in no group."""
        coordinator = self._client._coordinator
        if coordinator.state is MemberState.UNJOINED:
            return True
        if not self.is_assigned:
            return False
        try:
            self._client._net.run(coordinator._send_heartbeat_request)
        except kafka_errors.KafkaError:
            return False
        return True

    def _go_on(self) -> None:
        self._go_on_joining()
        self._client.poll(timeout_ms=_milliseconds(JOIN_SLICE_SECONDS), max_records=1)

    def _go_on_joining(self) -> None:
        """Have the client take up a join that outlasted the last poll.

        It forgets a join that it started because a topic's partitions changed or became known. Then it would have no
        partitions, not be in the group, and never try again.
        """
        if self._client.group_metadata().state is MemberState.REBALANCING:
            self._client._coordinator.request_rejoin()

    def _notice_forbidden(self) -> None:
        """Raise TopicAuthorizationFailedError with forbidden topics: the client only logs them and waits."""
        forbidden = self._client._client.cluster.unauthorized_topics
        if forbidden:
            raise kafka_errors.TopicAuthorizationFailedError(set(forbidden))

    def _unavailable(self, error: Exception) -> BrokerUnavailable:
        if isinstance(error, kafka_errors.TopicAuthorizationFailedError):
            topics = error.args[0] if error.args else None
            if isinstance(topics, set):
                return self._not_readable(client_error(error), topics)
        return super()._unavailable(error)


def _fail_commits_of_missing_topics(client: KafkaConsumer) -> None:
    """Have a consumer give up a commit with a topic that is gone, instead of repeating it until its time is over."""
    coordinator = client._coordinator
    send = coordinator._send_offset_commit_request

    async def send_once(offsets: dict[KafkaTopicPartition, OffsetAndMetadata]) -> None:
        try:
            await send(offsets)
        except kafka_errors.UnknownTopicOrPartitionError as error:
            raise kafka_errors.CommitFailedError(error) from error

    coordinator._send_offset_commit_request = send_once


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _ours(place: KafkaTopicPartition) -> TopicPartition:
    return TopicPartition(place.topic, place.partition)


def _theirs(place: TopicPartition) -> KafkaTopicPartition:
    return KafkaTopicPartition(place.topic, place.partition)


class Assignments(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes new partitions; called on the client's I/O thread, which must not do more."""

    def __init__(self, on_lost: Callable[[set[TopicPartition]], object]) -> None:
        self._lock = threading.Lock()
        self._new: set[TopicPartition] = set()
        self._revoked: set[TopicPartition] = set()
        self._on_lost = on_lost

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        with self._lock:
            gone = {_ours(place) for place in revoked}
            self._new -= gone
            self._revoked |= gone

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        with self._lock:
            new = {_ours(place) for place in assigned}
            self._new |= new
            # With eager assignment, all partitions are revoked, and the client goes on where it was in those that stay.
            lost, self._revoked = self._revoked - new, set()
        if lost:
            self._on_lost(lost)

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        """The member is out of its group; the client forgets where it was."""
        with self._lock:
            gone = {_ours(place) for place in lost} | self._revoked
            self._new -= gone
            self._revoked = set()
        self._on_lost(gone)

    def take(self) -> set[TopicPartition]:
        with self._lock:
            new, self._new = self._new, set()
            return new
