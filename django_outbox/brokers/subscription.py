"""Reading as a member of a consumer group: commits, progress and outages. Shared by the client libraries."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from django_outbox.brokers.base import Progress, ReceivedRecord, Subscription, TopicPartition
from django_outbox.brokers.calls import (
    CLOSE_SECONDS,
    COMMIT_SECONDS,
    CONNECT_SECONDS,
    GRACE_SECONDS,
    SLICE_SECONDS,
    Call,
    Patience,
    close_in_time,
)
from django_outbox.brokers.commits import Commits, Offsets
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.errors import Blame, ClientError, Code, refusal
from django_outbox.exceptions import BrokerUnavailable, TopicNotReadable

# After so long without a record, a member asks whether a broker is still there.
SILENCE_SECONDS = 10.0

LookUpProgress = Callable[[Collection[TopicPartition], float], Mapping[TopicPartition, Progress]]
"""Asks the broker, within ``seconds``, for the group's progress in partitions.

It uses another client: questions would disturb that of a member while it joins, or wait behind its reading.
"""


class GroupMember(Subscription):
    """Reads through a client library."""

    # What the library raises while the broker is away, or after its client is closed.
    errors: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, access: Access, look_up: LookUpProgress) -> None:
        self._access = access
        self._location = access.url.location
        self._interrupted = access.interrupted
        self._look_up = look_up
        self._heard_at = time.monotonic()
        self._is_lost = False  # the broker is away
        self._calls: dict[str, Call[None]] = {}  # under way, by what they ask for
        self._commits = Commits(self._begin_commit, self._is_late)
        self._paused: set[TopicPartition] = set()

    @staticmethod
    @abstractmethod
    def client_error(error: Any) -> ClientError:
        """One of these errors in Kafka's terms."""

    @abstractmethod
    def _knock(self, seconds: float) -> None:
        """Raise an error if no broker answers within ``seconds``."""

    @abstractmethod
    def _read(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        """See ``poll()``; calls ``_notice_silence()``."""

    @abstractmethod
    def _assigned(self) -> set[TopicPartition]:
        """The partitions that this member has now."""

    @abstractmethod
    def _set_paused(self, places: Collection[TopicPartition], paused: bool) -> None:
        """Pause assigned partitions, or go on reading them."""

    @abstractmethod
    def _positions(self, places: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int | None, int]]:
        """By partition, the position (None if unknown) and the end of the log according to the last fetch."""

    @abstractmethod
    def _commit_once(self, offsets: Offsets, seconds: float) -> None:
        """Commit and wait for the answer, if the library allows for at most ``seconds``. Called in a thread."""

    @abstractmethod
    def _begin_commit(self, offsets: Offsets) -> Future[None]:
        """Commit while this member goes on reading; the future ends with the answer."""

    @abstractmethod
    def _ask_client(self, seconds: float) -> None:
        """Raise an error if the client gets no answer within ``seconds`` and no broker answers other clients."""

    @abstractmethod
    def _leave(self) -> None:
        """Leave the group and close the client. Called in a thread."""

    def poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        try:
            self._check()
            if limit:
                return self._read(timeout, limit)
            paused = set(self._paused)
            self.pause(self._assigned())
            try:
                return self._read(timeout, 1)
            finally:
                self.pause(paused)
        except self.errors as error:
            raise self._unavailable(error) from error

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        if not partitions and not self._paused:
            return
        mine = self._assigned()
        wanted = mine.intersection(partitions)
        self._paused &= mine
        try:
            for places, paused in ((wanted - self._paused, True), (self._paused - wanted, False)):
                if places:
                    self._set_paused(places, paused)
        except self.errors as error:
            raise self._unavailable(error) from error
        self._paused = wanted

    def commit(self, offsets: Offsets) -> bool:
        return self._commit_by(self._commit_now, offsets)

    def commit_soon(self, offsets: Offsets) -> bool:
        return self._commit_by(self._commits.commit, offsets)

    def _commit_by(self, commit: Callable[[Offsets], bool], offsets: Offsets) -> bool:
        try:
            self._check()
            mine = self._assigned()
            positions = {place: offset for place, offset in offsets.items() if place in mine}
            return commit(positions) if positions else True
        except self.errors as error:
            told = self.client_error(error)
            # The partitions of a topic that was deleted are lost with the next rebalance.
            if told.code != Code.UNKNOWN_TOPIC_OR_PARTITION and Blame.REBALANCE not in told.blame:
                raise self._unavailable(error) from error
            return False

    @property
    def is_idle(self) -> bool:
        return self.is_assigned and not self._assigned()

    def caught_up(self) -> bool:
        if not self.is_assigned:
            return False
        mine = self._assigned()  # once, as partitions may come and go in another thread
        found = self._progress_of(mine)
        for place in mine:
            if place not in found:
                raise BrokerUnavailable(f"{self._location} does not describe {place.topic}[{place.partition}].")
        return all(progress.is_at_end for progress in found.values())

    def progress(self) -> dict[TopicPartition, Progress]:
        return self._progress_of(self._assigned())

    def close(self) -> None:
        close_in_time(self._end, GRACE_SECONDS if self._interrupted() else CLOSE_SECONDS)

    def _end(self) -> None:
        for call in self._calls.values():
            call.wait()  # closing the client under a call would not be safe
        self._leave()

    def _commit_now(self, offsets: Offsets) -> bool:
        """Commit; retry a late answer while a broker is there, as when the group's coordinator moves."""
        patience = Patience(time.monotonic() + COMMIT_SECONDS, self._interrupted)
        while True:
            try:
                self._call("a commit", partial(self._commit_once, offsets, CONNECT_SECONDS - SLICE_SECONDS), patience)
                return True
            except self.errors as error:
                if not self._is_late(error) or patience.is_over():
                    raise
            self._knock(CONNECT_SECONDS)
            time.sleep(SLICE_SECONDS)

    def _is_late(self, error: BaseException) -> bool:
        """True if a commit may succeed when it is repeated."""
        told = self.client_error(error)
        return told.late or Blame.COORDINATOR in told.blame

    def _call(self, what: str, start: Callable[[], None], patience: Patience) -> None:
        """Wait for a client's call in a new thread, or for the one that is still under way."""
        call = self._calls.pop(what, None) or Call(start)
        try:
            call.result(CONNECT_SECONDS, patience.is_over)
        except TimeoutError:
            if not call.is_done:
                self._calls[what] = call
            raise

    def _check(self) -> None:
        """Raise TimeoutError while a call hangs: the client may let any other wait for its end."""
        for what, call in self._calls.items():
            if not call.is_done:
                raise TimeoutError(f"no answer to {what}")
        self._calls.clear()

    def _notice_silence(self, heard: bool, *, is_down: bool = False) -> bool:
        """Raise an error if no broker answers after a long silence, or at once if ``is_down``: the client waits for ever.

        Returns whether a broker is known to be there.
        """
        if not heard:
            if not is_down and time.monotonic() - self._heard_at < SILENCE_SECONDS:
                return False
            self._ask_client(CONNECT_SECONDS)
        self._heard_at = time.monotonic()
        return True

    def _reported(self) -> str:
        """What the client has reported of an outage."""
        return ""

    def _progress_of(self, mine: set[TopicPartition]) -> dict[TopicPartition, Progress]:
        try:
            self._check()
            positions = self._positions(mine)
        except self.errors as error:
            raise self._unavailable(error) from error
        found = self._look_up(mine, CONNECT_SECONDS)
        return {place: _with_position(progress, *positions[place]) for place, progress in found.items()}

    def _unavailable(self, error: Exception) -> BrokerUnavailable:
        return self._failure(self.client_error(error))

    def _failure(self, error: ClientError) -> BrokerUnavailable:
        if error.is_refusal:
            return BrokerUnavailable(refusal(self._location, error))
        self._is_lost = True
        return BrokerUnavailable(f"{self._location} does not answer ({self._reported() or error.text}).")

    def _not_readable(self, error: ClientError, topics: Collection[str]) -> TopicNotReadable:
        return TopicNotReadable(topics, refusal(self._location, error))


def _with_position(found: Progress, position: int | None, end: int) -> Progress:
    # Tansu may report too low an end; the records that it sent show the true one.
    return replace(found, high=max(found.high, end, position or 0), position=position)
