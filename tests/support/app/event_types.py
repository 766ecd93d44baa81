"""Declared event types of the tests' app."""

from __future__ import annotations

from dataclasses import dataclass

from django_outbox import event_type


@event_type("test.declared")
@dataclass
class Declared:
    name: str
    count: int = 1
