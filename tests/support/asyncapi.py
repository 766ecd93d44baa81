"""The documents that outbox_asyncapi prints, and AsyncAPI's own JSON Schema of them, from npm."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from django.core.management import call_command
from jsonschema import Draft7Validator

from django_outbox.handlers.handler import Handler
from tests.support.declaring import only_handlers
from tests.support.overrides import outbox_settings
from tests.support.servers.fetching import fetched

VERSION = "6.11.1"
PACKAGE = f"@asyncapi/specs@{VERSION}"
SCHEMA = "package/schemas/3.0.0.json"


@dataclass
class Item:
    sku: str


@dataclass
class Order:
    id: int
    items: list[Item] = field(default_factory=list)


@dataclass
class Larger(Order):
    currency: str = field(kw_only=True)


def printed(*handlers: Handler, options: Any = (), **settings: Any) -> Any:
    """The document of a project with these handlers and settings."""
    out = io.StringIO()
    with only_handlers(*handlers), outbox_settings(**settings):
        call_command("outbox_asyncapi", *options, stdout=out)
    return json.loads(out.getvalue())


def dangling_references(document: Any) -> list[str]:
    """The references that do not lead to anything in the document."""
    return [reference for reference in references(document) if not _leads_somewhere(reference, document)]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for each in part:
            yield from references(each)
    elif isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for each in part.values():
            yield from references(each)


def _leads_somewhere(reference: str, document: Any) -> bool:
    for part in reference.removeprefix("#/").split("/"):
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True


def faults_of(document: Any) -> list[str]:
    """What is wrong with an AsyncAPI document."""
    return [f"{error.json_path}: {error.message[:300]}" for error in _validator().iter_errors(document)]


@cache
def _validator() -> Draft7Validator:
    return Draft7Validator(json.loads(_schema().read_text()))


def _schema() -> Path:
    """The file, which is fetched once."""
    return fetched(f"asyncapi-specs-{VERSION}", _fetch) / "3.0.0.json"


def _fetch(folder: Path) -> None:
    npm = shutil.which("npm")
    assert npm is not None, "npm is not installed; it fetches AsyncAPI's JSON Schema"
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            [npm, "pack", "--silent", PACKAGE], cwd=directory, check=True, timeout=240, stdout=subprocess.DEVNULL
        )
        (archive,) = Path(directory).iterdir()
        with tarfile.open(archive) as tar:
            member = tar.extractfile(SCHEMA)
            assert member is not None
            (folder / "3.0.0.json").write_bytes(member.read())
