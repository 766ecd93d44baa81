"""The settings of this project, as ``manage.py check`` sees them."""

from __future__ import annotations

from collections.abc import Iterator

from django.core.checks import ERROR, CheckMessage, run_checks

from django_outbox.operations.doctor.finding import Finding, fault, warning
from django_outbox.operations.doctor.subject import Subject

# Examinations of their own say the same.
ELSEWHERE = ("django_outbox.E007", "django_outbox.E009", "django_outbox.W004", "django_outbox.W009")


def checks(subject: Subject) -> Iterator[Finding]:
    """What the system checks of the outbox have to say, those of the database among them."""
    for message in run_checks(databases=[subject.using]):
        if _is_ours(message) and not message.is_silenced():
            find = fault if message.level >= ERROR else warning
            yield find(message.msg, f"({message.id})", str(message.hint or ""))


def _is_ours(message: CheckMessage) -> bool:
    return str(message.id).startswith("django_outbox.") and message.id not in ELSEWHERE
