"""What the handlers of the benchmarks write."""

from __future__ import annotations

from django.db import models


class Effect(models.Model):
    """One handled event, and when on the machine's monotonic clock."""

    event_id = models.CharField(max_length=36)
    handled_at = models.FloatField()

    def __str__(self) -> str:
        return self.event_id
