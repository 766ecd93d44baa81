"""Plugin of pytest for mutmut, which runs pytest many times in one process and in forks of it.

Each run gets a test database of its own, as the processes of pytest-xdist do.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATABASE = "OUTBOX_MUTMUT_DATABASE"
"""Variable with the URL of the database of the first run in this process; later ones keep its settings."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Say that this is a worker of pytest-xdist, so that nothing is set up that another run has set up."""
    from django.conf import settings

    if not settings.configured:
        directory = Path(os.environ.setdefault(DATABASE, f"/tmp/mutmut-{os.getpid()}"))  # noqa: S108
        directory.mkdir(parents=True, exist_ok=True)
        os.environ["DATABASE_URL"] = f"sqlite:///{directory / 'db.sqlite3'}"
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.support.settings"
        settings._setup()
    config.workerinput = {"workerid": f"fork{os.getpid()}", "database": "SQLite", "kafka_url": None}  # type: ignore[attr-defined]
