"""Records of this service's own outbox: what they claim to be, and whether their row agrees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.events.parsing import RecordIdentity, headers_of, identify, parse_time, text_header
from django_outbox.exceptions import UnreadableRecord
from django_outbox.state import outbox as state
from django_outbox.state.rows import LockedMessage

UNSEEN_FOR = timedelta(hours=1)
"""For how long after its insert a row may not be visible yet: its transaction may take long."""


class OwnRecord(NamedTuple):
    """A record of this service's outbox."""

    record: ReceivedRecord
    identity: RecordIdentity
    id: int

    @property
    def place(self) -> tuple[int, int, int]:
        """The id of the message, and the partition and offset of this record."""
        return self.id, self.record.partition, self.record.offset

    @property
    def partition(self) -> TopicPartition:
        return TopicPartition(self.record.topic, self.record.partition)

    @property
    def delivery(self) -> state.Delivery:
        record = self.record
        return state.Delivery(self.id, self.identity.attempt, record.topic, record.partition, record.offset)

    def is_current(self, message: LockedMessage, source: str) -> bool:
        """True if this record is the row's last publication by this ``source``, and it has not been handled yet.

        The attempt alone is not enough: after a relay was killed, the next one uses the same number.
        """
        record, identity = self.record, self.identity
        if message.source != source or message.status != state.Status.PUBLISHED:
            return False
        if message.event_id != identity.event_id or message.topic != record.topic:
            return False
        if identity.attempt not in (None, message.publish_count):
            return False
        return message.offset is None or (message.partition, message.offset) == (record.partition, record.offset)

    def event(self, message: LockedMessage) -> Event:
        """Return the event for handlers: the content of the row, and the position of the record."""
        return Event(
            type=message.event_type,
            payload=message.payload,
            key=message.message_key,
            headers=message.headers,
            topic=message.topic,
            version=message.event_version,
            id=message.event_id,
            source=message.source,
            time=message.created_at,
            attempt=message.publish_count,
            partition=self.record.partition,
            offset=self.record.offset,
            is_tombstone=message.is_tombstone,
        )

    @property
    def is_first(self) -> bool:
        """True for a first publication: Debezium sends no others.

        ``PUBLISHER`` does not decide: records may be older than a switch, or of processes that have not switched yet.
        """
        return self.identity.attempt == 1

    def may_be_unseen(self, now: datetime) -> bool:
        """True if its row may not be visible yet at this time of the database's clock, and cannot be purged.

        Debezium reads a commit from the log before other sessions see it; with synchronous replication, long before.
        """
        try:
            inserted_at = parse_time(text_header(headers_of(self.record), "ce_time"))
        except UnreadableRecord:
            return False
        ages = [age for status, age in settings.retention.items() if age is not None and status != "inbox"]
        # With USE_TZ = False, `now` is in the zone in which the writer took the row's time to be.
        return now.astimezone(UTC) - inserted_at < min([UNSEEN_FOR, *ages])


def own_record(record: ReceivedRecord, source: str) -> OwnRecord | None:
    """Return a record of the outbox of this ``source``; None if it is for the inbox."""
    try:
        identity = identify(record)
    except UnreadableRecord:
        return None
    if identity.outbox_id is None or identity.source not in (None, source):
        return None
    return OwnRecord(record, identity, identity.outbox_id)
