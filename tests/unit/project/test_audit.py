"""The audit of dependencies: a finding fails it, a service that cannot be asked does not, and is told."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.support.processes import ROOT

PACKAGES = {"Django": "5.2", "kafka-python": "3.0"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    specification = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert specification is not None
    assert specification.loader is not None
    module = sys.modules["audit"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def answer(*packages: dict[str, Any]) -> tuple[str, str]:
    return json.dumps({"dependencies": packages, "fixes": []}), "WARNING: something"


def clean(name: str) -> dict[str, Any]:
    return {"name": name, "version": PACKAGES[name], "vulns": []}


def unknown(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": "not found"}


DJANGO_IS_VULNERABLE = {**clean("Django"), "vulns": [{"id": "PYSEC-1", "fix_versions": ["5.2.1"]}]}
UNREACHABLE = ("", "Traceback\nrequests.exceptions.ConnectionError: no such host")


@pytest.mark.parametrize(
    ("answers", "code", "told"),
    [
        ([answer(clean("Django"), clean("kafka-python"))], 0, "2 of 2 packages looked up: no vulnerability is known"),
        ([answer(DJANGO_IS_VULNERABLE, clean("kafka-python"))], 1, "Django 5.2: PYSEC-1 (fixed in 5.2.1)"),
        ([UNREACHABLE, UNREACHABLE], 0, "NOT AUDITED, as no service could be asked: Django 5.2, kafka-python 3.0."),
        ([UNREACHABLE, UNREACHABLE], 0, "pypi was no help: it cannot be reached (requests.exceptions.ConnectionError"),
        ([answer(unknown("Django"), unknown("kafka-python")), UNREACHABLE], 0, "pypi was no help: it knows none of"),
        ([answer(unknown("Django"), unknown("kafka-python")), UNREACHABLE], 0, "NOT AUDITED"),
        ([UNREACHABLE, answer(DJANGO_IS_VULNERABLE, clean("kafka-python"))], 1, "Known vulnerabilities:"),
        ([answer(DJANGO_IS_VULNERABLE, unknown("kafka-python")), UNREACHABLE], 1, "NOT AUDITED, .*: kafka-python 3.0."),
        ([answer(clean("Django"), unknown("kafka-python")), UNREACHABLE], 0, "1 of 2 packages looked up"),
        ([("", "usage: pip-audit")], 2, "pip-audit failed:\nusage: pip-audit"),
        ([("", "")], 2, "pip-audit failed:\nit printed nothing"),
    ],
)
def test_only_a_finding_or_a_failure_of_its_own_fails_the_audit(
    audit: ModuleType, capsys: pytest.CaptureFixture[str], answers: list[tuple[str, str]], code: int, told: str
) -> None:
    left = iter(answers)
    assert audit.audit(PACKAGES, lambda service, packages: audit.judge(*next(left))) == code
    printed = capsys.readouterr().out
    assert all(part in printed for part in told.split(".*"))
    if code or "NOT AUDITED" in told:
        assert "no vulnerability is known" not in printed
    assert not list(left)


def test_what_the_package_needs_is_found_with_what_that_needs(audit: ModuleType) -> None:
    found = audit.dependencies("django-kafka-outbox", ["confluent"])
    assert found.keys() >= {"Django", "sqlparse", "kafka-python", "crc32c", "confluent-kafka"}
    assert "pytest" not in found
