"""The functions of ``transaction.on_commit()`` in a ``TestCase``, whose transaction never commits."""

from __future__ import annotations

import itertools
import logging
from typing import Any

from django.db import connections

log = logging.getLogger(__name__)


def run_on_commit(using: str) -> None:
    """Call what the test, and what a drain has run, registered: as a commit would have done by now.

    Each function is called once. Without a transaction around the test there is nothing to do, as commits have called them.
    """
    connection = connections[using]
    for position in itertools.count():
        registered: list[Any] = connection.run_on_commit  # it grows, and is another list after a rollback
        if position >= len(registered):
            return
        savepoints, function, is_robust = registered[position]
        # Those of setUpTestData() are no part of the test.
        if function is not _called and savepoints.issuperset(connection.savepoint_ids):
            # Replaced, not removed: captureOnCommitCallbacks() counts them.
            registered[position] = (savepoints, _called, is_robust)
            try:
                function()
            except Exception:
                if not is_robust:
                    raise
                log.exception("An on_commit function raised.", extra={"action": "on_commit"})


def _called() -> None:
    """In place of a function that was called."""
