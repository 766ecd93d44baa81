"""Brokers of a test's own, and the two client libraries by which they are reached."""

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
    """Keep members in their group while the machine stands still for a moment: what they lose is read twice."""
    if pytestconfig.option.kafka != "tansu":  # which makes a member wait for the longer the longer its session may be
        IMPATIENT["session_timeout_ms"] = IMPATIENT_TOO["session.timeout.ms"] = 10_000


@pytest.fixture
def own_broker(pytestconfig: pytest.Config) -> Iterator[Service]:
    """A broker of the test's own, which may be taken away."""
    with OWN[pytestconfig.option.kafka]() as service:
        yield service


@pytest.fixture(scope="module")
def first_of_two() -> Iterator[ApacheKafka]:
    """A broker of the module's own, which a second one may join and leave. For tests marked with `brokers("apache")`."""
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
    """The way to `proxied_url`, which lets everything through until it is told otherwise."""
    yield _proxy
    _proxy.heal()


@pytest.fixture
def proxied_url(proxy: Proxy, _service_behind_proxy: Service) -> str:
    """Where to reach a broker through `proxy`, and only through it."""
    return _service_behind_proxy.url
