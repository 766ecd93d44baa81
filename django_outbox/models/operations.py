"""What operators look at besides messages: failures, workers and activity."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from django_outbox.conf import SOURCE_LENGTH
from django_outbox.models.fields import CurrentSource, DatabaseNow, ExactCharField, PartialIndex, current_source
from django_outbox.models.lengths import (
    BUSY_KEY_LENGTH,
    FINGERPRINT_LENGTH,
    GROUP_LENGTH,
    TOPICS_LENGTH,
    TROUBLE_LENGTH,
    WORKER_LENGTH,
)


class MessageFailure(models.Model):
    """One failure of one message of outbox or inbox. Deleted with the message."""

    class Stage(models.TextChoices):
        SEND = "send", _("sending")
        """The relay could not send the message."""
        HANDLE = "handle", _("handling")
        """The handler raised, or must not run."""
        CANCEL = "cancel", _("cancellation")
        """An operator cancelled the message."""

    id = models.BigAutoField(primary_key=True)
    # Exactly one of the two is set.
    message = models.ForeignKey(
        "django_outbox.OutboxMessage", models.CASCADE, related_name="failures", null=True, verbose_name=_("message")
    )
    inbox_message = models.ForeignKey(
        "django_outbox.InboxMessage",
        models.CASCADE,
        related_name="failures",
        null=True,
        verbose_name=_("inbox message"),
    )
    occurred_at = models.DateTimeField(_("occurred at"), db_default=DatabaseNow())
    worker = models.CharField(_("worker"), max_length=WORKER_LENGTH)
    stage = ExactCharField(_("stage"), max_length=6, choices=Stage.choices)
    attempt = models.PositiveIntegerField(_("attempt"))
    """Outbox: the number of the publication; the next three columns say where it is. Inbox: the number of the try."""
    published_at = models.DateTimeField(_("published at"), null=True)
    partition = models.IntegerField(_("partition"), null=True)
    offset = models.BigIntegerField(_("offset"), null=True)
    final = models.BooleanField(_("message was given up"))
    error = models.TextField(_("error"))
    fingerprint = ExactCharField(_("fingerprint"), max_length=FINGERPRINT_LENGTH)

    class Meta:
        verbose_name = _("failure")
        verbose_name_plural = _("failures")
        default_permissions = ()
        indexes: ClassVar[list[models.Index]] = [
            PartialIndex(name="django_outbox_given_up", fields=["occurred_at"], where=Q(final=True)),
        ]

    def __str__(self) -> str:
        return f"{self.fingerprint} ({self.stage}, attempt {self.attempt})"


class Worker(models.Model):
    """A running relay or consumer. It updates its row about every ten seconds and deletes it when it stops.

    A killed worker leaves its row behind with an old ``last_seen_at``; other workers delete it after a day.
    """

    class Kind(models.TextChoices):
        RELAY = "relay", _("relay")
        CONSUMER = "consumer", _("consumer")

    class State(models.TextChoices):
        STARTING = "starting", _("starting")
        WORKING = "working", _("working")
        TROUBLE = "trouble", _("in trouble")
        STOPPING = "stopping", _("stopping")

    id = models.BigAutoField(primary_key=True)
    kind = ExactCharField(_("kind"), max_length=16, choices=Kind.choices)
    host = models.CharField(_("host"), max_length=WORKER_LENGTH)
    pid = models.PositiveBigIntegerField(_("process id"))
    group = ExactCharField(_("consumer group"), max_length=GROUP_LENGTH, blank=True, default="", db_default="")
    """Empty for a relay."""
    source = ExactCharField(_("source"), max_length=SOURCE_LENGTH, default=current_source, db_default=CurrentSource())
    """The ``SOURCE`` of the worker's service."""
    topics = models.CharField(_("topics"), max_length=TOPICS_LENGTH, blank=True, default="", db_default="")
    """The topics that a consumer reads, separated by commas."""
    version = models.CharField(_("version"), max_length=32)
    started_at = models.DateTimeField(_("started at"), db_default=DatabaseNow())
    last_seen_at = models.DateTimeField(_("last seen at"), db_default=DatabaseNow())
    rate = models.FloatField(_("messages a second"), default=0.0)
    state = ExactCharField(_("state"), max_length=16, choices=State.choices, default=State.STARTING)
    trouble = models.CharField(_("trouble"), max_length=TROUBLE_LENGTH, blank=True, default="")
    lanes = models.PositiveIntegerField(_("lanes"), default=1, db_default=1)
    """How many messages it handles at the same time. The next columns are of a consumer, at its last heartbeat."""
    busy_lanes = models.PositiveIntegerField(_("busy lanes"), default=0, db_default=0)
    in_progress = models.PositiveIntegerField(_("messages in progress"), default=0, db_default=0)
    busy_since = models.DateTimeField(_("busy since"), null=True)
    """When the lane that has been busy longest began its transaction. Null if none is busy."""
    busy_key = models.CharField(_("key in progress"), max_length=BUSY_KEY_LENGTH, blank=True, default="", db_default="")
    """Topic and key of the first message of that lane; empty if it has no key."""

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.host}:{self.pid}"

    @property
    def busy_seconds(self) -> float | None:
        """How long the longest busy lane had been busy at the last heartbeat; None if none was."""
        return None if self.busy_since is None else (self.last_seen_at - self.busy_since).total_seconds()


class Activity(models.Model):
    """Messages that all workers together processed in ten minutes. Reports read this instead of counting rows."""

    SECONDS = 600

    id = models.BigAutoField(primary_key=True)
    period = models.DateTimeField(_("period"), unique=True)
    last_id = models.BigIntegerField(_("largest id of a message"), default=0)
    """The largest outbox id when a worker last reported. The difference of two periods is what was written."""
    published = models.PositiveBigIntegerField(_("published"), default=0)
    consumed = models.PositiveBigIntegerField(_("consumed"), default=0)
    inbox_received = models.PositiveBigIntegerField(_("received by the inbox"), default=0, db_default=0)
    inbox_consumed = models.PositiveBigIntegerField(_("consumed of the inbox"), default=0, db_default=0)

    class Meta:
        verbose_name = _("activity")
        verbose_name_plural = _("activities")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.period:%Y-%m-%d %H:%M}: {self.published} published, {self.consumed} consumed"
