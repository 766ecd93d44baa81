"""The models of outbox, inbox and operations."""

from django_outbox.models.inbox import InboxDeadLetter, InboxMessage, InboxQuerySet
from django_outbox.models.message import default_max_retry
from django_outbox.models.operations import Activity, MessageFailure, Worker
from django_outbox.models.outbox import DeadLetter, OutboxMessage, OutboxQuerySet, Overview, outbox_database

__all__ = [
    "Activity",
    "DeadLetter",
    "InboxDeadLetter",
    "InboxMessage",
    "InboxQuerySet",
    "MessageFailure",
    "OutboxMessage",
    "OutboxQuerySet",
    "Overview",
    "Worker",
    "default_max_retry",
    "outbox_database",
]
