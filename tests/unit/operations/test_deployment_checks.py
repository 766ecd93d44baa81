"""check --deploy warns of what is for development alone; all ids of checks are in the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection

import django_outbox
from django_outbox.operations.checks.deployment import check_deployment
from tests.support.overrides import outbox_settings
from tests.support.processes import ROOT
from tests.unit.test_conf import SECRET

KAFKA = "django_outbox.brokers.kafka.KafkaBroker"
CONFLUENT = "django_outbox.brokers.confluent.ConfluentBroker"
MEMORY = "django_outbox.brokers.memory.MemoryBroker"


@pytest.fixture(autouse=True, params=["postgresql"])
def vendor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the database be one for production, unless a test says otherwise."""
    monkeypatch.setattr(connection, "vendor", request.param)


def ids(**broker: Any) -> list[str]:
    with outbox_settings(BROKER=broker):
        found = check_deployment()
    assert all(message.hint for message in found)
    assert SECRET not in "".join(f"{message.msg}{message.hint}" for message in found)
    return [str(message.id).removeprefix("django_outbox.") for message in found]


@pytest.mark.parametrize("backend", [KAFKA, CONFLUENT])
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("kafka://localhost", ["W022"]),
        ("kafka://127.0.0.1:9092,[::1]:9093", ["W022"]),
        ("kafka+ssl://broker.localhost", ["W022"]),
        ("kafka://kafka:9092", ["W023"]),
        ("kafka://localhost,kafka.example.com", ["W023"]),
        ("kafka://10.0.0.7", ["W023"]),
        (f"kafka+sasl://shop:{SECRET}@kafka.example.com", ["W024"]),
        ("kafka+ssl://kafka.example.com", []),
        (f"kafka+sasl+ssl://shop:{SECRET}@kafka.example.com", []),
        ("kafka://", []),  # told by other checks
    ],
)
def test_a_broker_that_is_not_for_production_is_warned_of(backend: str, url: str, expected: list[str]) -> None:
    assert ids(BACKEND=backend, URL=url) == expected


def test_options_have_the_last_word_about_encryption() -> None:
    assert ids(BACKEND=KAFKA, URL="kafka://k", OPTIONS={"security_protocol": "SSL"}) == []
    assert ids(BACKEND=CONFLUENT, URL="kafka://k", OPTIONS={"security.protocol": "ssl"}) == []
    assert ids(BACKEND=KAFKA, URL="kafka+ssl://k?security_protocol=PLAINTEXT") == ["W023"]


def test_a_broker_in_memory_is_warned_of() -> None:
    assert ids(BACKEND=MEMORY) == ["W021"]


@pytest.mark.parametrize("vendor", ["sqlite"], indirect=True)
def test_sqlite_is_warned_of() -> None:
    assert ids(BACKEND=KAFKA, URL="kafka+ssl://kafka.example.com") == ["W025"]


def test_only_check_deploy_warns_of_it() -> None:
    def found(**options: Any) -> list[Any]:
        return [message.id for message in run_checks(**options) if str(message.id).startswith("django_outbox.")]

    with outbox_settings(BROKER={"BACKEND": MEMORY}):
        assert found() == []
        assert found(include_deployment_checks=True) == ["django_outbox.W021"]


def test_the_documentation_names_all_checks() -> None:
    package = Path(django_outbox.__file__).parent
    in_code = {
        found for path in package.rglob("*.py") for found in re.findall(r'id="(django_outbox\.\w+)"', path.read_text())
    }
    in_docs = re.findall(r"^``(django_outbox\.\w+)``", (ROOT / "docs" / "checks.rst").read_text(), re.MULTILINE)
    assert in_docs == sorted(in_code)
