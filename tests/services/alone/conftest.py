"""What the doctor examines, and a cluster of three brokers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.doctor import installation, other_session
from tests.support.servers.kafka_cluster import KafkaCluster

__all__ = ["installation", "other_session"]


@pytest.fixture(scope="module")
def _cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """Three brokers, of which a test may take one away."""
    yield _cluster
    _cluster.restore()
