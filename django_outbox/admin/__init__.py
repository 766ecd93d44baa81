"""The operators' pages: what is stuck, since when, why, and what to do about it."""

from __future__ import annotations

from django.contrib import admin

from django_outbox.admin.lists import DeadLetterAdmin, MessageAdmin
from django_outbox.admin.overview import OverviewAdmin
from django_outbox.models import DeadLetter, OutboxMessage, Overview

# A table of the same shape needs an admin of its own class here, and its name in TABLES (tables.py).
admin.site.register(OutboxMessage, MessageAdmin)
admin.site.register(DeadLetter, DeadLetterAdmin)
admin.site.register(Overview, OverviewAdmin)
