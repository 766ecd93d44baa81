"""kafka-python is imported without a warning, and changes nobody's filters."""

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


def test_other_modules_do_not_import_the_library_themselves() -> None:
    lines = [
        f"{path.name}: {line}"
        for path in FOLDER.parent.rglob("*.py")
        if path != FOLDER / "kafka" / "library.py"
        for line in path.read_text().splitlines()
        if line.strip().startswith(("from kafka", "import kafka"))
    ]
    assert lines == []
