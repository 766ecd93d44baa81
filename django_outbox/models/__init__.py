"""The models of outbox, inbox and operations."""

from django_outbox.models.inbox import InboxDeadLetter, InboxMessage, InboxQuerySet
from django_outbox.models.message import default_max_retry
from django_outbox.models.operations import Activity, MessageFailure, Worker
from django_outbox.models.outbox import (
    DeadLetter,
    EventCatalogue,
    OutboxMessage,
    OutboxQuerySet,
    Overview,
    outbox_database,
)
from django_outbox.models.pause import Pause
from django_outbox.models.task_run import TaskRun

__all__ = [
    "Activity",
    "DeadLetter",
    "EventCatalogue",
    "InboxDeadLetter",
    "InboxMessage",
    "InboxQuerySet",
    "MessageFailure",
    "OutboxMessage",
    "OutboxQuerySet",
    "Overview",
    "Pause",
    "TaskRun",
    "Worker",
    "default_max_retry",
    "outbox_database",
]
