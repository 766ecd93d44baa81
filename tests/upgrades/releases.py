"""What is kept of each release: a dump of its tables for each database, records as it sends them, and sums of its migrations.

Records are of the relay, and of Debezium as `tests/services/debezium/test_records.py` compares them with a real connector's.
Payloads are JSON or bytes: what serializers write is the format of the schema registry, not of a release.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from django_outbox.brokers.base import ReceivedRecord
from tests.support.processes import ROOT

FOLDER = Path(__file__).with_name("releases")
DATABASES = {"postgresql": "postgresql.sql", "mysql": "mariadb.sql", "sqlite": "sqlite.sql"}
"""The dump for each vendor, as Django names them."""
TABLES = "django_outbox_"


class Sent(NamedTuple):
    """A record that a release sent.

    Attributes:
        record: as it is in the broker's log.
        event: what a handler of that release got for it in another service; bytes are text in Latin-1.
    """

    record: ReceivedRecord
    event: dict[str, Any]


def releases() -> list[str]:
    """The releases that were recorded, the newest last."""
    names = (path.name for path in FOLDER.iterdir() if path.is_dir())
    return sorted(names, key=lambda name: [int(number) for number in name.split(".")])


def released() -> list[str]:
    """The versions of the changelog that are out."""
    headings = re.findall(r"^(\d+\.\d+\.\d+)(.*)\n=+$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    return [version for version, note in headings if "unreleased" not in note]


def migrations() -> dict[str, str]:
    """The SHA-256 of each migration of today, by the name of its file."""
    paths = sorted((ROOT / "django_outbox" / "migrations").glob("0*.py"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def migrations_of(release: str) -> dict[str, str]:
    sums: dict[str, str] = json.loads((FOLDER / release / "migrations.json").read_text())
    return sums


def dump_of(release: str, vendor: str) -> str:
    return (FOLDER / release / DATABASES[vendor]).read_text()


def records_of(release: str) -> Iterator[Sent]:
    """The records of a release by offset, as they were in the only partition of their topic."""
    for entry in json.loads((FOLDER / release / "records.json").read_text()):
        record = ReceivedRecord(
            topic=entry["topic"],
            partition=0,
            offset=entry["offset"],
            key=from_text(entry["key"]),
            value=from_text(entry["value"]),
            headers=tuple((name, text.encode("latin-1")) for name, text in entry["headers"]),
        )
        yield Sent(record, entry["event"])


def as_text(data: bytes | None) -> str | None:
    return None if data is None else bytes(data).decode("latin-1")


def from_text(text: str | None) -> bytes | None:
    return None if text is None else text.encode("latin-1")
