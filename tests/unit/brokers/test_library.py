"""kafka-python is imported in one place."""

from __future__ import annotations

from pathlib import Path

import django_outbox.brokers

FOLDER = Path(django_outbox.brokers.__path__[0])


def test_other_modules_do_not_import_the_library_themselves() -> None:
    lines = [
        f"{path.name}: {line}"
        for path in FOLDER.parent.rglob("*.py")
        if path != FOLDER / "kafka" / "library.py"
        for line in path.read_text().splitlines()
        if line.strip().startswith(("from kafka", "import kafka"))
    ]
    assert lines == []
