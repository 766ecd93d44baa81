"""Returning what kafka-python has fetched where the client itself would stop.

A record that the client cannot decode ends its reading of the partition at the same place each time. Brokers accept header
names that are not UTF-8, so such a record is returned with a mark. For other records that cannot be decoded, the client
does not say where they are, which a consumer needs to go on with other topics.

The client keeps what it has fetched of a partition that is paused. It looks for that again only when a poll begins while no
other partition's records are at hand (3.0.12). With a backlog in the others, it would never read the partition again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import UnsupportedCodecError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import decode_varint

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.errors import broken, compressed
from django_outbox.brokers.kafka.errors import error_text

_PACKAGES = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}


def decode_carefully(client: KafkaConsumer) -> None:
    """Have a consumer decode records as described above."""
    client._fetcher.PartitionRecords = _PartitionRecords


def go_on_after_pauses(client: KafkaConsumer) -> None:
    """Have a consumer return what it had fetched of a partition before it was paused."""
    fetcher = client._fetcher
    on_drain = fetcher._on_partition_records_drain

    def drained(records: Fetcher.PartitionRecords) -> None:
        on_drain(records)
        if fetcher._next_partition_records is records:
            # Before the next fetch: its records may outlast this poll, and the next one as well.
            parked, subscriptions = fetcher._paused_partition_records, fetcher._subscriptions
            resumed = next((place for place in parked if not subscriptions.is_paused(place)), None)
            fetcher._next_partition_records = parked.pop(resumed, None)

    fetcher._on_partition_records_drain = drained


class RenamedHeaders(list[tuple[str, bytes]]):
    """Headers with a name that is not UTF-8, decoded as far as possible."""


class _Lenient(bytearray):
    """Bytes that can always be decoded."""

    def __getitem__(self, where: SupportsIndex | slice) -> Any:
        found = super().__getitem__(where)
        return _Lenient(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    """Also returns records with a header name that is not UTF-8."""

    _buffer: bytearray
    _pos: int

    def _read_msg(self) -> DefaultRecord:
        try:
            return super()._read_msg()  # does not advance if it fails
        except UnicodeDecodeError:
            return self._read_leniently()

    def _read_leniently(self) -> DefaultRecord:
        whole, begin = self._buffer, self._pos
        length, body = decode_varint(whole, begin)
        self._buffer, self._pos = _Lenient(whole[begin : body + length]), 0
        record = super()._read_msg()
        self._buffer, self._pos = whole, begin + self._pos
        record._headers = RenamedHeaders(record._headers)
        return record


class _Batches:
    """The batches of a fetch."""

    def __init__(self, records: MemoryRecords) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        return _Batch(batch._buffer) if isinstance(batch, DefaultRecordBatch) else batch


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """Says where it cannot go on."""

    def _unpack_records(self, place: KafkaTopicPartition, records: MemoryRecords, *decoders: Any) -> Iterator[Any]:
        try:
            yield from super()._unpack_records(place, _Batches(records), *decoders)
        except Exception as error:  # codecs may raise anything
            ours, text = TopicPartition(place.topic, place.partition), error_text(error)
            for codec, package in _PACKAGES.items():
                if isinstance(error, UnsupportedCodecError) and codec in text:
                    raise compressed(ours, codec, package) from error
            raise broken(ours, self.next_fetch_offset, text) from error
