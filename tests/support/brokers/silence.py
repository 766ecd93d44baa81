"""Brokers of a cluster that answer, or do not."""

from __future__ import annotations

from django_outbox.brokers.silence import SilentBrokers


def all_answer() -> SilentBrokers:
    """What a producer knows of a cluster in order."""
    return SilentBrokers(lambda topics, seconds: None, lambda address: True)
