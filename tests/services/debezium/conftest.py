"""Kafka Connect with one connector, which the tests share, and settings that use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support.servers.kafka_connect import KafkaConnect

# Of the shared connector. Other tests of a run make slots with the default name on the same server.
NAMES = {"SLOT": "outbox_of_connect", "PUBLICATION": "outbox_of_connect"}


@pytest.fixture(scope="session")
def kafka_connect(kafka_url: str) -> Iterator[KafkaConnect]:
    """The server. It has a connector only if a test asks for one."""
    from tests.support.debezium import PASSWORD

    with KafkaConnect(kafka_url.removeprefix("kafka://"), env={"OUTBOX_DEBEZIUM_PASSWORD": PASSWORD}) as server:
        yield server


@pytest.fixture(scope="session")
def shared_connector(kafka_connect: KafkaConnect, django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    from tests.support.debezium import connector
    from tests.support.overrides import outbox_settings

    with django_db_blocker.unblock(), outbox_settings(DEBEZIUM=NAMES), connector(kafka_connect):
        yield


@pytest.fixture
def kafka_outbox(kafka_outbox: dict[str, Any], settings: Any, servers: str, topic: str) -> dict[str, Any]:
    """As elsewhere, with Debezium as publisher and a topic that exists."""
    from tests.support.debezium import create_topic

    create_topic(servers, topic)
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISHER": "debezium", "DEBEZIUM": NAMES}
    return dict(settings.OUTBOX)


@pytest.fixture
def subprocess_env(subprocess_env: dict[str, str]) -> dict[str, str]:
    return {**subprocess_env, "OUTBOX_PUBLISHER": "debezium", "OUTBOX_DEBEZIUM": json.dumps(NAMES)}


@pytest.fixture
def debezium(
    kafka_connect: KafkaConnect, shared_connector: None, transactional_db: None, kafka_outbox: Any
) -> KafkaConnect:
    """The server, with a connector that runs, and settings that use it."""
    return kafka_connect


@pytest.fixture
def servers(kafka_url: str) -> str:
    """Bootstrap servers of the broker."""
    return kafka_url.removeprefix("kafka://")


@pytest.fixture
def log(servers: str, topic: str, kafka_outbox: Any) -> Iterator[Any]:
    """The records of the test's topic."""
    from tests.support.debezium import Log

    with closing(Log(servers, topic)) as log:
        yield log
