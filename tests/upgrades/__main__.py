"""Records the tables and records of a release: `python -m tests.upgrades 0.1.0`. Needs MariaDB's server and Maven."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.support.processes import ROOT
from tests.support.servers.mariadb import MariaDB
from tests.support.servers.postgres import PostgreSQL
from tests.upgrades.releases import FOLDER, migrations, released


def main(release: str) -> None:
    if release in released():
        sys.exit(f"{release} is released: its records are not to change.")
    folder = FOLDER / release
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "migrations.json").write_text(json.dumps(migrations(), indent=1) + "\n")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mariadb = stack.enter_context(MariaDB())
        mariadb.create_database()
        urls = [
            stack.enter_context(PostgreSQL()).url,
            mariadb.url,
            f"sqlite:///{directory / 'db.sqlite3'}",
        ]
        for url in urls:
            subprocess.run(
                [sys.executable, "-m", "tests.upgrades.recording", str(folder)],
                cwd=ROOT,
                env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.support.settings"},
                check=True,
            )
    for path in sorted(folder.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"{__doc__}")
    main(sys.argv[1])
