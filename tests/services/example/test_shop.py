"""The example shop's own tests and checks, run with its own settings."""

import os
import re
import subprocess
import sys

import pytest

from tests.services.example.processes import EXAMPLE
from tests.support.processes import ROOT

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.brokers("tansu")]

OURS = ("DATABASE_URL", "DEBUG", "DJANGO_SETTINGS_MODULE", "KAFKA_URL", "SECRET_KEY")


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    return subprocess.run(
        [sys.executable, str(EXAMPLE / "manage.py"), *arguments],
        cwd=EXAMPLE,
        env={**clean, "PYTHONPATH": str(ROOT), "DATABASE_URL": "sqlite://:memory:", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "number"),
    [(("orders", "shipping", "mail"), 22), (("warehouse", "--settings", "warehouse.settings"), 3)],
    ids=["shop", "warehouse"],
)
def test_the_tests_of_the_projects_pass(arguments: tuple[str, ...], number: int) -> None:
    result = manage("test", *arguments, WAREHOUSE_DATABASE_URL="sqlite://:memory:")

    assert result.returncode == 0, result.stdout
    found = re.search(r"Ran (\d+) tests", result.stdout)
    assert found is not None
    assert int(found[1]) >= number
    assert "skipped" not in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [("check", "--fail-level", "WARNING"), ("makemigrations", "--check", "--dry-run")],
    ids=["system-checks", "migrations"],
)
def test_the_project_is_in_order(arguments: tuple[str, ...]) -> None:
    result = manage(*arguments)

    assert result.returncode == 0, result.stdout


def test_outside_of_development_a_secret_key_is_demanded() -> None:
    result = manage("check", DEBUG="false")

    assert result.returncode != 0
    assert "SECRET_KEY" in result.stdout
