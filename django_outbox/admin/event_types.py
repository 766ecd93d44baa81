"""The page of event types: what each looks like, who handles it and when it was last seen."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from django_outbox.admin.overview import OverviewAdmin
from django_outbox.admin.tables import INBOX, OUTBOX
from django_outbox.conf import settings
from django_outbox.operations.event_catalogue import RECENT, known_types


class EventCatalogueAdmin(OverviewAdmin):
    """A page like the overview, for everyone who may view messages."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        with_inbox = INBOX.may(request, "view")
        types = known_types(OUTBOX.database, with_inbox=with_inbox)
        context = {
            "title": gettext("Event types"),
            "types": types,
            "with_inbox": with_inbox,
            "has_groups": len({group for each in types for _, group in each.handlers}) > 1,
            "own_source": settings.source,
            "recent": RECENT,
        }
        return self.page(request, "event_types", {**context, **(extra_context or {})})
