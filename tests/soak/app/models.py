"""The business rows of a soak run. Their number is constant, so that only the outbox can grow."""

from __future__ import annotations

from django.db import models


class Account(models.Model):
    """What the handler has done for a key: the number of the last event, which counts them as well."""

    key = models.CharField(max_length=16, primary_key=True)
    handled = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.key} {self.handled}"


class Ledger(models.Model):
    """What was published for a key, written in the transactions of the events."""

    key = models.CharField(max_length=16, primary_key=True)
    published = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.key} {self.published}"
