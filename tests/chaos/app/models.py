"""The business rows of a chaos run: what publishers write, and what the handler makes of it."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class Departure(models.Model):
    """A flight that was published, written in the same transaction as its event."""

    number = models.IntegerField(primary_key=True)
    tail = models.CharField(max_length=16)
    publisher = models.IntegerField()
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.number} {self.tail}"


class Leg(models.Model):
    """What the handler made of a flight's event. No constraint keeps a wrong row out: the checker must see it."""

    number = models.IntegerField(db_index=True)
    tail = models.CharField(max_length=16, db_index=True)
    sequence = models.IntegerField(help_text="from 1, for each airplane")
    miles = models.BigIntegerField(help_text="of the airplane's flights so far")
    created_at = models.DateTimeField(db_default=Now())
    if settings.RELEASE >= 2:
        release = models.SmallIntegerField(null=True, help_text="of the handler; NULL: the first")

    def __str__(self) -> str:
        return f"{self.number} {self.tail} {self.sequence}"
