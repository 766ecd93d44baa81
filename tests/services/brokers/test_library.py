"""Each module of kafka-python's broker is imported in a fresh process without a warning, and changes no filters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import django_outbox.brokers

FOLDER = Path(django_outbox.brokers.__path__[0])
MODULES = sorted(path.stem for path in (FOLDER / "kafka").glob("[a-z]*.py"))
IMPORT = """
import importlib, sys, warnings
before = list(warnings.filters)
importlib.import_module(sys.argv[1])
assert warnings.filters == before
assert "kafka" in sys.modules
"""


@pytest.mark.parametrize("module", MODULES)
def test_each_module_is_imported_where_warnings_are_errors(module: str) -> None:
    command = [sys.executable, "-W", "error", "-c", IMPORT, f"django_outbox.brokers.kafka.{module}"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parents[1], check=False)
    assert ended.returncode == 0, ended.stderr
