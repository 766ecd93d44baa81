"""The overview: all that an operator looks at first, on one page."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db.models import Min, Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext, pgettext

from django_outbox import texts
from django_outbox.admin import audit, figures, findings
from django_outbox.admin.filters import known_handlers, main_topics
from django_outbox.admin.groups import dead_groups
from django_outbox.admin.plots import Plot, bar_plot, line_plot
from django_outbox.admin.redaction import Redaction, redaction_for
from django_outbox.admin.tables import INBOX, OUTBOX, TABLES, Table
from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.figures import Throughput
from django_outbox.handlers import registry
from django_outbox.lag import Answer, group_lag
from django_outbox.selection import Selection

GROUPS = 5
PARTITIONS = 20


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
            **overview(OUTBOX, request),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/django_outbox/overview.html", context)


def overview(table: Table, request: HttpRequest) -> dict[str, Any]:
    """All that the page shows of a table."""
    now = timezone.now()
    redaction = redaction_for(request.user, table.name)
    handlers = known_handlers()
    pending, published, dead = (figures.unfinished(table, status) for status in ("pending", "published", "dead"))
    overdue = table.messages.filter(status="pending", next_retry_at__lte=now).order_by("next_retry_at", "id").first()
    awaited = figures.oldest_awaited(table, {handler.event_type for handler in handlers}) if published.count else None
    workers = figures.workers(table.database)
    groups = dead_groups(table, redaction, GROUPS) if dead.count else []
    answer = _lag()
    throughput = figures.throughput(table, now)
    may_retry = table.may(request, "retry")
    inbox = _inbox(request)
    found = [
        *_handler_findings(),
        *findings.dead_finding(table, dead, groups, _retry_url(table, request), now),
        *findings.worker_findings(workers, overdue, awaited, now),
        *_failing(table, pending.oldest, redaction),
        *(_inbox_findings(inbox, request, now) if inbox else ()),
        *findings.broker_findings(answer),
    ]
    found.sort(key=lambda finding: finding.level != "bad")
    return {
        "table": table,
        "now": now,
        "findings": found
        or [findings.Finding("good", gettext("All is well"), gettext("Nothing is stuck and nothing is dead."))],
        "states": [(each.status, each) for each in (pending, published, dead)],
        "awaited": awaited,
        "inbox": inbox,
        "rows_estimate": figures.rows_estimate(table),
        "consumed_in_a_day": sum(throughput.consumed),
        "throughput_plot": _throughput_plot(throughput),
        "dead_plot": _dead_plot(table, now),
        "failing_types": figures.failing_types(table, now),
        "groups": groups,
        "may_retry": may_retry,
        "may_delete": table.may(request, "delete"),
        "workers": workers,
        # Not the handlers themselves: a template calls whatever can be called.
        "handlers": sorted((handler.event_type, handler.topic or "", handler.name) for handler in handlers),
        "group_name": settings.consumer_group,
        "lag": answer,
        "partitions": answer.partitions[:PARTITIONS] if answer else [],
        "more_partitions": max(0, len(answer.partitions) - PARTITIONS) if answer else 0,
        "deeds": audit.deeds([each.model for each in TABLES]),
    }


def _retry_url(table: Table, request: HttpRequest) -> str | None:
    return table.action_url("retry", Selection()) if table.may(request, "retry") else None


def _inbox(request: HttpRequest) -> dict[str, Any] | None:
    """The state of the inbox; None if there is none, or if the user may not look at it."""
    if not INBOX.may(request, "view") or not INBOX.messages.exists():
        return None
    pending, dead = (figures.unfinished(INBOX, status) for status in ("pending", "dead"))
    return {
        "table": INBOX,
        "states": [(each.status, each) for each in (pending, dead)],
        "groups": dead_groups(INBOX, redaction_for(request.user, INBOX.name), GROUPS) if dead.count else [],
        "may_retry": INBOX.may(request, "retry"),
        "may_delete": INBOX.may(request, "delete"),
    }


def _inbox_findings(inbox: dict[str, Any], request: HttpRequest, now: datetime) -> list[findings.Finding]:
    pending, dead = (state for _, state in inbox["states"])
    due_since = INBOX.messages.filter(status="pending").aggregate(first=Min("next_retry_at"))["first"]
    return [
        *findings.dead_finding(INBOX, dead, inbox["groups"], _retry_url(INBOX, request), now),
        *findings.inbox_finding(due_since, f"{INBOX.list_url}?status=pending", now),
        *_failing(INBOX, pending.oldest, redaction_for(request.user, INBOX.name)),
    ]


def _handler_findings() -> list[findings.Finding]:
    try:
        registry.load()
    except HandlersNotImportable as error:
        return [findings.Finding("bad", gettext("Handlers cannot be imported"), str(error))]
    return []


def _failing(table: Table, oldest: Any, redaction: Redaction) -> list[findings.Finding]:
    if oldest is None or not oldest.retry_count:
        return []
    error = texts.one_line(redaction.mask_text(oldest.last_error, oldest.payload, oldest.headers), 200)
    return findings.failing_finding(oldest, error, table.url_of(oldest))


def _lag() -> Answer | None:
    try:
        return group_lag(main_topics(), settings.consumer_group)
    except ImproperlyConfigured as error:
        return Answer([], str(error))


def _throughput_plot(throughput: Throughput) -> Plot:
    local = [texts.local(start) for start in throughput.starts]
    return line_plot(
        gettext("Messages written and consumed in ten minutes, over 24 hours"),
        [date_format(start, "H:i") for start in local],
        [
            ("in", gettext("written"), throughput.written),
            ("out", gettext("consumed"), throughput.consumed),
        ],
        every=24,
    )


def _dead_plot(table: Table, now: datetime) -> Plot:
    days = figures.dead_by_day(table, now)
    # Translators: a day without its year, short, in Django's format
    day_format = pgettext("date format", "N j")
    numbers = [(date_format(day, day_format), count) for day, count in days.items()]
    return bar_plot(gettext("Messages given up on each of 14 days"), numbers, every=4)
