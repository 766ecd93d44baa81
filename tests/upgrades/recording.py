"""Records a release in one database: `python -m tests.upgrades.recording FOLDER`, with DATABASE_URL set."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import django
from django.core.management import call_command
from django.db import connection

from tests.upgrades.releases import DATABASES, as_text


def main(folder: Path) -> None:
    django.setup()
    # These need models.
    from tests.support.outbox import memory_broker
    from tests.upgrades.dumping import dump
    from tests.upgrades.scenario import fill

    call_command("migrate", verbosity=0)
    broker = memory_broker()
    fill(broker)
    (folder / DATABASES[connection.vendor]).write_text(dump())
    if connection.vendor == "postgresql":
        entries = [_entry(record) for record in broker.records("outbox")]
        (folder / "records.json").write_text(as_lines(entries))


def as_lines(entries: list[dict[str, Any]]) -> str:
    """A JSON list with a line for each entry."""
    return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n"


def _entry(record: Any) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "offset": record.offset,
        "key": as_text(record.key),
        "value": as_text(record.value),
        "headers": [(name, as_text(value)) for name, value in record.headers],
        "event": read_elsewhere(record),
    }


def read_elsewhere(record: Any) -> dict[str, Any]:
    """What a handler in another service gets for a record, as JSON."""
    from django_outbox.events.reader import EventReader
    from tests.support.overrides import outbox_settings

    with outbox_settings(SOURCE="elsewhere"):
        event = EventReader(using="default", accepts=lambda *_: True, accepts_own=True).read(record)
    assert event is not None
    return {
        "type": event.type,
        "payload": as_text(event.payload) if isinstance(event.payload, bytes) else event.payload,
        "is_tombstone": event.is_tombstone,
        "key": event.key,
        "headers": event.headers,
        "version": event.version,
        "id": event.id,
        "source": event.source,
        "time": event.time.isoformat() if event.time else None,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
