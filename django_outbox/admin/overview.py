"""The overview: all that an operator looks at first, on one page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import connections
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext

from django_outbox.admin import audit, findings
from django_outbox.admin.duties import duties
from django_outbox.admin.filters import handlers_of, known_groups, topics_of
from django_outbox.admin.history import TYPES, failing_types
from django_outbox.admin.overview_plots import overview_plots
from django_outbox.admin.panels import panel, panel_findings
from django_outbox.admin.staff import worker_findings
from django_outbox.admin.tables import OUTBOX, TABLES
from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import registry
from django_outbox.operations import stats as figures
from django_outbox.operations import unread_topics as unread
from django_outbox.operations.lag import Answer, lag_of_groups
from django_outbox.operations.unread_topics import UnreadTopic
from django_outbox.state.unhandled import Awaited

PARTITIONS = 20
WATCH_SECONDS = 10


class OverviewAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """An entry among the admin's lists that is a page."""

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return OUTBOX.may(request, "view")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.changelist_view)
        return [path("", view, name=f"{self.opts.app_label}_{self.opts.model_name}_changelist")]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Outbox overview"),
            **overview(request),
            **(extra_context or {}),
        }
        response = TemplateResponse(request, "admin/django_outbox/overview.html", context)
        if context["watched_every"]:
            response["Refresh"] = str(context["watched_every"])  # the browser's own, so that no script is needed
        return response


def overview(request: HttpRequest) -> dict[str, Any]:
    """All that the page shows."""
    now = timezone.now()
    handlers = {group: handlers_of(group) for group in sorted(known_groups())}
    awaited = Awaited.by(handlers[settings.consumer_group])
    tables = [table for table in TABLES if table is OUTBOX or (table.may(request, "view") and table.messages.exists())]
    panels = [panel(table, request, awaited, now) for table in tables]
    failing = failing_types(tables, now)
    workers = figures.workers(OUTBOX.database)
    lag = _lag({group: topics_of(group) for group in handlers if handlers[group] or group == settings.consumer_group})
    done = figures.throughput(OUTBOX.database, now)
    waiting_since = panels[0].waiting_since
    unread_topics: list[UnreadTopic] = []
    if waiting_since and now - waiting_since > figures.LATE:
        waits = unread.waits(OUTBOX.database, workers)
        unread_topics = waits.unread
        waiting_since = None if waits.read is None else now - timedelta(seconds=waits.read)
    partitions = sorted(
        ((group, each) for group, answer in lag.items() if answer for each in answer.partitions),
        key=lambda found: -found[1].lag,
    )
    found = [
        *_handler_findings(),
        *findings.unread_findings(unread_topics),
        *worker_findings(workers, duties(panels, handlers, done, waiting_since, now), now),
        *(finding for each in panels for finding in panel_findings(each, failing.of(each.table), request, now)),
        *findings.broker_findings(lag.values()),
    ]
    found.sort(key=lambda finding: finding.level != "bad")
    return {
        "now": now,
        "watched_every": WATCH_SECONDS if "watch" in request.GET else None,
        "findings": found
        or [findings.Finding("good", gettext("All is well"), gettext("Nothing is stuck and nothing is dead."))],
        "panels": panels,
        "in_a_day": {"outbox": sum(done.consumed), "inbox": sum(done.inbox_consumed)},
        "plots": overview_plots(tables, done, now),
        "failing": failing.types[:TYPES],
        "failing_is_cut": failing.is_cut,
        "workers": workers,
        "database": OUTBOX.database if len(connections.databases) > 1 else "",
        # Not the handlers themselves: a template calls whatever can be called.
        "handlers": [
            (handler.event_type, handler.topic or "", group, handler.name)
            for group, each in handlers.items()
            for handler in sorted(each, key=lambda handler: (handler.event_type, handler.name))
        ],
        "group_names": list(handlers),
        "partitions": partitions[:PARTITIONS],
        "more_partitions": max(0, len(partitions) - PARTITIONS),
        "broker_is_silent": any(answer is None or answer.trouble for answer in lag.values()),
        "deeds": audit.deeds([table.model for table in TABLES if table.may(request, "view")]),
    }


def _handler_findings() -> list[findings.Finding]:
    try:
        registry.load()
    except HandlersNotImportable as error:
        return [findings.Finding("bad", gettext("Handlers cannot be imported"), str(error))]
    return []


def _lag(topics: Mapping[str, Collection[str]]) -> dict[str, Answer | None]:
    try:
        return lag_of_groups(topics)
    except ImproperlyConfigured as error:
        return {settings.consumer_group: Answer([], str(error))}
