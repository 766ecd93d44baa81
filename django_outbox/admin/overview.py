"""The overview: the state of outbox, inbox, workers and topics on one page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import connections
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext

from django_outbox.admin import audit, notices
from django_outbox.admin.failures import TYPES, failing_types
from django_outbox.admin.message_list import ReadOnlyAdmin
from django_outbox.admin.notices import Notice
from django_outbox.admin.panels import Panel
from django_outbox.admin.pauses import may_pause
from django_outbox.admin.plots import overview_plots
from django_outbox.admin.tables import INBOX, OUTBOX, TABLES
from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import Registry, registry
from django_outbox.models import Pause
from django_outbox.operations.activity import throughput
from django_outbox.operations.counts import inbox_due, most_overdue, oldest_awaited
from django_outbox.operations.lag import GroupLag, lag_of_groups
from django_outbox.operations.pausing import known_pauses
from django_outbox.operations.topics import UnreadTopic, awaited, loaded_registry, topics_by_group
from django_outbox.operations.workers import has_lanes, is_late, known_workers
from django_outbox.state.unhandled import HandledEvents

PARTITIONS = 20
REFRESH_SECONDS = 10
VIEW_PAUSES = "django_outbox.view_pause"


class OverviewAdmin(ReadOnlyAdmin):
    """An entry among the admin's lists that is a page."""

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return OUTBOX.may(request, "view")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.changelist_view)
        return [path("", view, name=f"{self.opts.app_label}_{self.opts.model_name}_changelist")]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {"title": gettext("Outbox overview"), **overview(request), **(extra_context or {})}
        response = self.page(request, "overview", context)
        if context["refresh_seconds"]:
            response["Refresh"] = str(context["refresh_seconds"])  # by the browser, without a script
        return response


def overview(request: HttpRequest) -> dict[str, Any]:
    """The context of the page."""
    now, database = timezone.now(), OUTBOX.database
    handlers = loaded_registry()
    groups = sorted(handlers.groups)
    tables = [table for table in TABLES if table is OUTBOX or (table.may(request, "view") and table.messages.exists())]
    due = inbox_due(database) if INBOX in tables else {}
    wanted = HandledEvents.by(handlers.for_group(settings.consumer_group))
    waiting = {OUTBOX: oldest_awaited(database, wanted), INBOX: most_overdue(database, due)}
    panels = [Panel(table, request, waiting[table]) for table in tables]
    failing = failing_types(tables, now)
    workers = known_workers(database)
    alive = [worker for worker in workers if not worker.is_lost]
    lag = _lag(handlers)
    done = throughput(database, now)
    unread: list[UnreadTopic] = []
    since = panels[0].waiting_since
    published = None if since is None else (now - since).total_seconds()
    if is_late(published):
        published, unread = awaited(database, workers)
    # A service that only consumes needs no relay.
    publishes = INBOX not in tables or any(each.count for each in panels[0].statuses) or any(done.written)
    found = [
        *_handler_notices(),
        *notices.unread_notices(unread),
        *notices.pause_notices(
            known_pauses(database), may_view=request.user.has_perm(VIEW_PAUSES), may_resume=may_pause(request)
        ),
        *(notices.relay_notices(alive) if publishes else ()),
        *notices.consumer_notices(alive, handlers, published, due),
        *notices.trouble_notices(alive),
        *notices.lost_notices(workers, alive),
        *(
            notice
            for each in panels
            for notice in (
                *notices.dead_notice(each, now),
                *notices.failing_notice(each, failing.types, request),
            )
        ),
        *notices.broker_notices(lag.values()),
    ]
    found.sort(key=lambda notice: notice.level != "bad")
    partitions = sorted(
        ((group, partition) for group, each in lag.items() for partition in each.partitions),
        key=lambda pair: -pair[1].lag,
    )
    return {
        "now": now,
        "refresh_seconds": REFRESH_SECONDS if "watch" in request.GET else None,
        "notices": found or [Notice("good", gettext("No problems"), gettext("No message is stuck or dead."))],
        "panels": panels,
        "consumed_in_a_day": {"outbox": sum(done.consumed), "inbox": sum(done.inbox_consumed)},
        "plots": overview_plots(tables, done, now),
        "failing": failing.types[:TYPES],
        "failing_is_cut": failing.is_cut,
        "workers": workers,
        "has_lanes": has_lanes(workers),
        "database": database if len(connections.databases) > 1 else "",
        # Not the handlers themselves: a template calls whatever is callable.
        "handlers": [
            (handler.event_type, handler.topic or "", group, handler.name)
            for group in groups
            for handler in sorted(handlers.for_group(group), key=lambda handler: (handler.event_type, handler.name))
        ],
        "group_names": groups,
        "partitions": partitions[:PARTITIONS],
        "more_partitions": max(0, len(partitions) - PARTITIONS),
        "broker_is_silent": any(each.trouble for each in lag.values()),
        "audit_entries": audit.entries(
            [
                *(table.model for table in TABLES if table.may(request, "view")),
                *([Pause] if request.user.has_perm(VIEW_PAUSES) else []),
            ]
        ),
    }


def _handler_notices() -> list[Notice]:
    try:
        registry.load()
    except HandlersNotImportable as error:
        return [Notice("bad", gettext("Handlers cannot be imported"), str(error))]
    return []


def _lag(handlers: Registry) -> dict[str, GroupLag]:
    main = settings.consumer_group
    topics: Mapping[str, Collection[str]] = {
        group: each for group, each in sorted(topics_by_group().items()) if group == main or handlers.for_group(group)
    }
    try:
        return lag_of_groups(topics)
    except ImproperlyConfigured as error:
        return {main: GroupLag([], str(error))}
