"""What tasks of Django's Tasks framework returned."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from django_outbox.models.lengths import WORKER_LENGTH


class TaskRun(models.Model):
    """The run of a task that succeeded; failed runs are failures of its message. Deleted with the message."""

    message = models.OneToOneField(
        "django_outbox.OutboxMessage",
        models.CASCADE,
        primary_key=True,
        db_constraint=False,  # the database would look here for each message that is purged, task or not
        related_name="task_run",
        verbose_name=_("message"),
    )
    worker = models.CharField(_("worker"), max_length=WORKER_LENGTH)
    started_at = models.DateTimeField(_("started at"))
    return_value = models.JSONField(_("return value"), null=True)

    class Meta:
        verbose_name = _("task run")
        verbose_name_plural = _("task runs")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.message_id} ({self.worker})"
