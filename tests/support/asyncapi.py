"""AsyncAPI's own JSON Schema of its documents, from npm."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from tests.support.servers.apache_kafka import CACHE

PACKAGE = "@asyncapi/specs@6.11.1"
SCHEMA = "package/schemas/3.0.0.json"


def faults_of(document: Any) -> list[str]:
    """What is wrong with an AsyncAPI document."""
    validator = Draft7Validator(json.loads(_schema().read_text()))
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(document)]


def _schema() -> Path:
    """The file, which is fetched once."""
    path = CACHE / "asyncapi-specs-6.11.1" / "3.0.0.json"
    if not path.exists():
        npm = shutil.which("npm")
        assert npm is not None, "npm is not installed; it fetches AsyncAPI's JSON Schema"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(
                [npm, "pack", "--silent", PACKAGE], cwd=directory, check=True, timeout=240, stdout=subprocess.DEVNULL
            )
            (archive,) = Path(directory).iterdir()
            with tarfile.open(archive) as tar:
                member = tar.extractfile(SCHEMA)
                assert member is not None
                # Whole or not at all, also where two runs fetch at once or one is interrupted.
                staged = path.with_name(f"{uuid.uuid4().hex}.json")
                staged.write_bytes(member.read())
        staged.replace(path)
    return path
