"""`outbox_consume --list`: which handlers there are and which command runs them, told without any server."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.processes import ROOT
from tests.support.servers.process import free_port


@pytest.mark.parametrize("database", ["postgres", "mysql"])
def test_neither_broker_nor_database_is_needed(database: str) -> None:
    env: dict[str, Any] = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.support.settings",
        "DATABASE_URL": f"{database}://nobody@127.0.0.1:{free_port()}/nothing",
        "OUTBOX_BACKEND": "django_outbox.brokers.kafka.KafkaBroker",
        "KAFKA_URL": f"kafka://127.0.0.1:{free_port()}",
    }
    command = [sys.executable, "-m", "django", "outbox_consume", "--list"]
    listed = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "tests.support.app.handlers.typed" in listed.stdout
    assert listed.stderr == ""
