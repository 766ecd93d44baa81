"""Brokers that belong to one test or module, and the two client libraries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.brokers.backends import IMPATIENT, IMPATIENT_TOO, backend
from tests.support.brokers.proxy import Proxy
from tests.support.brokers.servers import BEHIND_PROXY, OWN
from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.base import Service

__all__ = ["backend"]


@pytest.fixture(scope="session", autouse=True)
def _patience(pytestconfig: pytest.Config) -> None:
    """Keep members in their group while the machine stalls for a moment: lost partitions are read twice."""
    if pytestconfig.option.kafka != "tansu":  # where joining takes longer with a longer session timeout
        IMPATIENT["session_timeout_ms"] = IMPATIENT_TOO["session.timeout.ms"] = 10_000


@pytest.fixture
def own_broker(pytestconfig: pytest.Config) -> Iterator[Service]:
    """A broker that only this test uses and may stop."""
    with OWN[pytestconfig.option.kafka]() as service:
        yield service


@pytest.fixture(scope="module")
def first_of_two() -> Iterator[ApacheKafka]:
    """A broker of this module that a second one may join and leave. For tests marked with `brokers("apache")`."""
    with ApacheKafka() as service:
        yield service


@pytest.fixture(scope="session")
def _proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def _service_behind_proxy(pytestconfig: pytest.Config, _proxy: Proxy) -> Iterator[Service]:
    with BEHIND_PROXY[pytestconfig.option.kafka](_proxy) as service:
        _proxy.target = service.port
        yield service


@pytest.fixture
def proxy(_proxy: Proxy) -> Iterator[Proxy]:
    """The proxy in front of `proxied_url`, which forwards everything by default."""
    yield _proxy
    _proxy.heal()


@pytest.fixture
def proxied_url(proxy: Proxy, _service_behind_proxy: Service) -> str:
    """The URL of a broker that is reached only through `proxy`."""
    return _service_behind_proxy.url
