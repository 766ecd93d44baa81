"""What is used of kafka-python. The other modules of this backend import the library from here."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # At import it reads its message schemas with a function that Python 3.11 and 3.12 call deprecated.
    warnings.filterwarnings("ignore", r"(read|open)_text is deprecated", DeprecationWarning)
    from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer
    from kafka import TopicPartition as KafkaTopicPartition
    from kafka import errors as kafka_errors
    from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType, OffsetSpec
    from kafka.consumer.fetcher import Fetcher
    from kafka.errors import UnsupportedCodecError
    from kafka.net.compat import KafkaNetClient
    from kafka.net.connection import KafkaConnection
    from kafka.net.manager import KafkaConnectionManager
    from kafka.net.selector import NetworkSelector
    from kafka.net.transport import KafkaTCPTransport
    from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
    from kafka.record.memory_records import MemoryRecords
    from kafka.record.util import decode_varint
    from kafka.structs import MemberState, OffsetAndMetadata

__all__ = [
    "ConfigFilterType",
    "ConfigResource",
    "ConfigResourceType",
    "ConsumerRebalanceListener",
    "DefaultRecord",
    "DefaultRecordBatch",
    "Fetcher",
    "KafkaAdminClient",
    "KafkaConnection",
    "KafkaConnectionManager",
    "KafkaConsumer",
    "KafkaNetClient",
    "KafkaProducer",
    "KafkaTCPTransport",
    "KafkaTopicPartition",
    "MemberState",
    "MemoryRecords",
    "NetworkSelector",
    "OffsetAndMetadata",
    "OffsetSpec",
    "UnsupportedCodecError",
    "decode_varint",
    "kafka_errors",
]
