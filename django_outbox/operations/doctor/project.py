"""The project's settings, as ``manage.py check`` sees them."""

from __future__ import annotations

from collections.abc import Iterator

from django.core.checks import ERROR, run_checks

from django_outbox.operations.doctor.finding import Finding, fault, warning
from django_outbox.operations.doctor.installation import Installation

# Other checks of the doctor report the same.
REPORTED_ELSEWHERE = ("django_outbox.E007", "django_outbox.E009", "django_outbox.W004", "django_outbox.W009")


def checks(installation: Installation) -> Iterator[Finding]:
    """What the system checks of the outbox report, including those of the database."""
    for message in run_checks(databases=[installation.using]):
        is_ours = str(message.id).startswith("django_outbox.") and message.id not in REPORTED_ELSEWHERE
        if is_ours and not message.is_silenced():
            find = fault if message.level >= ERROR else warning
            yield find(message.msg, f"({message.id})", str(message.hint or ""))
