"""Runs a consumer through outages of its database."""

from __future__ import annotations

from django.db import Error, connection

from tests.support import inbox
from tests.support.outbox import Pipeline
from tests.support.processes import wait_until


def run_through_outages(pipeline: Pipeline, turns: int) -> int:
    """Run some rounds of the consumer; returns how many ended with an outage."""
    outages = 0
    for _ in range(turns):
        inbox.make_due()
        pipeline.consumer.inbox_due_at = 0.0
        try:
            pipeline.consumer.run_once()
        except Error:
            outages += 1
            wait_until(is_back)
    return outages


def is_back() -> bool:
    connection.close()
    try:
        connection.ensure_connection()
    except Error:
        return False
    return True
