"""kafka-python is imported only by its backend."""

from __future__ import annotations

from pathlib import Path

import django_outbox.brokers

FOLDER = Path(django_outbox.brokers.__path__[0])


def test_only_this_backend_imports_the_library() -> None:
    lines = [
        f"{path.name}: {line}"
        for path in FOLDER.parent.rglob("*.py")
        if path.parent != FOLDER / "kafka"  # whose __init__.py keeps the library quiet
        for line in path.read_text().splitlines()
        if line.strip().startswith(("from kafka", "import kafka"))
    ]
    assert lines == []
