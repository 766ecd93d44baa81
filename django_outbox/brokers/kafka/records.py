"""Taking apart what kafka-python has fetched, where the client by itself would come to a halt.

A record that it cannot decode ends the client's reading of the partition, at the same place each
time. Brokers take header names that are not UTF-8, so such a record is given out with a mark. Of all
else that cannot be taken apart the client does not say where it is, which is needed to go on with
other topics.
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
from django_outbox.brokers.kafka.errors import error_text
from django_outbox.brokers.undecodable import broken, compressed

_PACKAGES = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}


def take_apart_carefully(client: KafkaConsumer) -> None:
    """Have a consumer give out records as this module says."""
    client._fetcher.PartitionRecords = _PartitionRecords


class RenamedHeaders(list[tuple[str, bytes]]):
    """Headers of which a name is not UTF-8, with the name as far as it could be read."""


class _Lenient(bytearray):
    """Bytes of which every part can be decoded."""

    def __getitem__(self, where: SupportsIndex | slice) -> Any:
        found = super().__getitem__(where)
        return _Lenient(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    """Gives out a record with a header whose name is not UTF-8 as well."""

    _buffer: bytearray
    _pos: int

    def _read_msg(self) -> DefaultRecord:
        try:
            return super()._read_msg()  # does not move on before it is done
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
    """The batches of a fetch, one by one."""

    def __init__(self, records: MemoryRecords) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        return _Batch(batch._buffer) if isinstance(batch, DefaultRecordBatch) else batch


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """Says where it is that it cannot go on."""

    def _unpack_records(self, place: KafkaTopicPartition, records: MemoryRecords, *decoders: Any) -> Iterator[Any]:
        try:
            yield from super()._unpack_records(place, _Batches(records), *decoders)
        except Exception as error:  # whatever a codec raises, too
            ours, text = TopicPartition(place.topic, place.partition), error_text(error)
            for codec, package in _PACKAGES.items():
                if isinstance(error, UnsupportedCodecError) and codec in text:
                    raise compressed(ours, codec, package) from error
            raise broken(ours, self.next_fetch_offset, text) from error
