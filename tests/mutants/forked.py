"""A pytest plugin that lets one process run pytest several times, as mutmut does: itself, then in a fork per mutant.

The first run sets Django up, so the later ones must take it as it is. They make a database once and then copies of it,
because migrations would take longer than most tests.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.process import make_directory, remove_directory

made: str | None = None
"""The database to copy: SQLite's file, once a run has made it."""


UNFIT = (
    "consumer/test_inbox_failures.py::test_failures_that_no_handler_made_are_told_apart",
    "consumer/test_inbox_faults.py::test_a_claimed_event_is_not_claimed_again_at_once",
    "consumer/test_inbox_poison.py::test_what_a_mapper_fails_on_or_nobody_wants_is_dead_either_way",
    "handlers/test_handlers.py::test_payload_that_does_not_fit_counts_as_a_failure_and_the_row_says_why",
    "state/test_failures.py::test_payloads_that_do_not_fit_are_told_apart_by_their_handlers",
    "tasks/test_running.py::test_a_task_that_cannot_succeed_is_dead_at_once",
)
"""Tests that look at the calls themselves: mutmut puts its own between them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not any(name in item.nodeid for name in UNFIT)]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    from django.conf import settings

    if settings.configured:
        # As those of pytest-xdist: they start no servers, and take their settings from the process before them.
        config.workerinput = {"database": "of mutmut", "kafka_url": None, "workerid": ""}  # type: ignore[attr-defined]
        _use_another_database(config)


def _use_another_database(config: pytest.Config) -> None:
    from django.db import connection

    directory = make_directory("test-mutant")
    database: dict[str, Any] = connection.settings_dict
    database["NAME"] = str(directory / "db.sqlite3")
    database["TEST"]["NAME"] = f"{database['NAME']}.test"
    os.environ["DATABASE_URL"] = f"sqlite:///{database['NAME']}"
    if made is None:
        config.option.reuse_db = True  # do not delete it in the end
        config.add_cleanup(lambda: _keep(Path(database["TEST"]["NAME"])))
    else:
        config.add_cleanup(lambda: remove_directory(directory))
        connection.creation.create_test_db = _copy


def _keep(file: Path) -> None:
    global made
    if file.exists():
        made = str(file)  # the watchdog removes it


def _copy(*args: Any, **options: Any) -> str:
    """In place of Django's ``create_test_db``."""
    import sqlite3

    from django.db import connection

    connection.close()
    name = connection.settings_dict["NAME"] = connection.settings_dict["TEST"]["NAME"]
    with sqlite3.connect(str(made)) as source, sqlite3.connect(name) as copy:
        source.backup(copy)
    source.close()
    copy.close()
    return str(name)
