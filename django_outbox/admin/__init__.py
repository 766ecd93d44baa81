"""The admin pages for operators: problems, their causes, and the actions against them."""

from __future__ import annotations

from django.contrib import admin

from django_outbox.admin.event_types import EventCatalogueAdmin
from django_outbox.admin.message_list import DeadLetterAdmin, InboxDeadLetterAdmin, InboxMessageAdmin, MessageAdmin
from django_outbox.admin.overview import OverviewAdmin
from django_outbox.admin.pauses import PauseAdmin
from django_outbox.models import (
    DeadLetter,
    EventCatalogue,
    InboxDeadLetter,
    InboxMessage,
    OutboxMessage,
    Overview,
    Pause,
)

admin.site.register(OutboxMessage, MessageAdmin)
admin.site.register(DeadLetter, DeadLetterAdmin)
admin.site.register(InboxMessage, InboxMessageAdmin)
admin.site.register(InboxDeadLetter, InboxDeadLetterAdmin)
admin.site.register(Overview, OverviewAdmin)
admin.site.register(EventCatalogue, EventCatalogueAdmin)
admin.site.register(Pause, PauseAdmin)
