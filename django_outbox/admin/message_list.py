"""The lists and pages of messages and dead letters in the admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Max, Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from django_outbox.admin import actions
from django_outbox.admin.failures import dead_letters
from django_outbox.admin.filters import filters
from django_outbox.admin.message_page import message_context
from django_outbox.admin.tables import INBOX, OUTBOX, Table, page_url
from django_outbox.models import InboxMessage
from django_outbox.observability import text as texts
from django_outbox.operations.selection import CRITERIA, Selection, has_event_id, has_id, has_name, parse_id
from django_outbox.operations.topics import known_topics, loaded_registry

BEFORE = "before"
RECENT = 1_000_000
MOST_FOUND = 500


class KeysetChangeList(ChangeList):
    """Stays fast on large tables: nothing is counted, and a page starts below the last id of the one before."""

    older: str | None = None
    newest: str | None = None
    before = ""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-id"]

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        # Dropped from the links of filters and search, which start with the newest again.
        self.before = before = request.GET.get(BEFORE, "")
        for kept in (self.params, self.filter_params):
            kept.pop(BEFORE, None)
        queryset = super().get_queryset(request, exclude_parameters).defer(*self.model_admin.list_defer)  # type: ignore[attr-defined]
        last_id = parse_id(before)
        return queryset if last_id is None else queryset.filter(id__lt=last_id)

    def get_results(self, request: HttpRequest) -> None:
        rows = list(self.queryset[: self.list_per_page + 1])
        self.result_list = rows[: self.list_per_page]
        if len(rows) > self.list_per_page:
            self.older = self.get_query_string({BEFORE: rows[self.list_per_page - 1].id})
        if self.before:
            self.newest = self.get_query_string()
        # Django's templates need these. The number of messages on other pages is unknown.
        self.result_count = len(self.result_list)
        # Equal, so that the search box shows no number and does not offer to show all.
        self.full_result_count = None if self.query else self.result_count
        self.show_full_result_count = False
        self.show_admin_actions = bool(self.result_list)
        self.can_show_all = False
        self.multi_page = False
        self.paginator = Paginator(self.result_list, self.list_per_page)


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Django's own pages do not write."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
        context = {**self.admin_site.each_context(request), "opts": self.opts, **context}
        return TemplateResponse(request, f"admin/django_outbox/{template}.html", context)


def _column(title: Any, shown: Callable[[Any], str]) -> Any:
    """A column of a list, with a function from a message to its text."""
    return admin.display(description=title)(lambda self, message: shown(message))


def find_ids(table: Table, term: str) -> set[int]:
    """The newest messages with this id, event id or key.

    By key: unfinished messages in known topics (inbox: and groups), and all among the last million messages. An index
    on all keys would slow every write down for a rare search. The same is true of event ids in the inbox.
    """
    messages = table.messages.order_by("-id").values_list("id", flat=True)
    newest = table.messages.aggregate(newest=Max("id"))["newest"] or 0
    unfinished = messages.filter(topic__in=known_topics(), message_key=term)
    recent = messages.filter(id__gt=newest - RECENT)
    # In separate queries, as each has its own partial index on keys.
    unfinished_statuses = (("pending", "dead"), ("published",))
    named = has_id(term)
    if table.is_inbox:
        unfinished = unfinished.filter(group__in=loaded_registry().groups)
        recent = recent.filter(Q(message_key=term) | has_event_id(table.model, term))
    else:
        recent = recent.filter(message_key=term)
        named |= has_event_id(table.model, term)
    return {
        *messages.filter(named)[:2],
        *(id for statuses in unfinished_statuses for id in unfinished.filter(status__in=statuses)[:MOST_FOUND]),
        *recent[:MOST_FOUND],
    }


class MessageAdmin(ReadOnlyAdmin):
    """Read-only: only ``django_outbox.state`` writes messages."""

    change_list_template = "admin/django_outbox/messages.html"
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    sortable_by = ()
    actions: Any = ("retry", "send_now", "cancel", "delete")
    search_help_text = _("Exact id, event id or key. By key: unfinished messages and the last million.")
    search_fields = ("id",)  # shows the search box; see get_search_results
    # The most important columns first: small screens cut off the last ones.
    list_display: Any = ["id", "state", "event", "key", "age", "failures", "due", "in_topic"]
    # Columns that the list does not show.
    list_defer: tuple[str, ...] = ("payload", "raw_value", "headers", "last_error", "fingerprint")
    list_filter: ClassVar[Any] = filters("status", "type", "topic", "source", "age", "failures", "error")

    @property
    def table(self) -> Table:
        return INBOX if issubclass(self.model, InboxMessage) else OUTBOX

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return self.table.may(request, "retry")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return self.table.may(request, "cancel")

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return self.table.may(request, "delete")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[KeysetChangeList]:
        return KeysetChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).using(self.table.database)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Filters only: other lookups would reveal masked values guess by guess, and actions on a whole list ignore them."""
        return lookup in [each.parameter_name for each in self.list_filter]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        return (queryset.filter(id__in=find_ids(self.table, term)) if term else queryset), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        query = {name: str(value) for name, value in request.GET.items() if name in CRITERIA and value}
        context = {
            "title": capfirst(self.opts.verbose_name_plural),
            "table": self.table,
            "selection": Selection(query),
            "may_retry": self.has_retry_permission(request),
            "may_cancel": self.has_cancel_permission(request),
            "may_delete": self.has_remove_permission(request),
            **self.list_context(request, query),
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    def list_context(self, request: HttpRequest, query: dict[str, str]) -> dict[str, Any]:
        return {"acts_on_all": query.get("status")}

    state = _column(_("status"), texts.status_badge)
    event = _column(_("event type"), lambda message: texts.breakable(texts.shortened(message.event_type)))
    key = _column(_("key"), lambda message: texts.in_pieces(texts.shortened(message.message_key)))
    age = _column(_("age"), lambda message: texts.age(message.created_at))
    due = _column(_("due"), lambda message: texts.until(message.next_retry_at))
    failures = _column(_("failures"), lambda message: f"{message.retry_count} / {max(message.max_retry, 1)}")
    in_topic = _column(_("topic"), lambda message: texts.breakable(message.topic))
    in_group = _column(_("consumer group"), lambda message: texts.breakable(message.group))

    @admin.display(description=_("topic and source"))
    def origin(self, message: Any) -> SafeString:
        """Topic and source in one column, as two would be too wide for most screens."""
        source = texts.breakable(message.source)
        return format_html('{}<span class="outbox-sample">{}</span>', texts.breakable(message.topic), source)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method not in ("GET", "HEAD") or not self.has_view_permission(request):
            raise PermissionDenied
        message = self.get_object(request, object_id)
        if message is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[no-any-return,attr-defined]
        return self.page(request, "message", {**message_context(self.table, message, request), **(extra_context or {})})

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The message's page shows its history, with secrets masked."""
        return HttpResponseRedirect(page_url(self.model, "change", object_id))

    @admin.action(description=_("Retry dead letters…"), permissions=["retry"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._confirm("retry", request)

    @admin.action(description=_("Make waiting messages due now…"), permissions=["retry"])
    def send_now(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._confirm("send_now", request)

    @admin.action(description=_("Cancel pending messages…"), permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._confirm("cancel", request)

    @admin.action(description=_("Delete dead letters…"), permissions=["remove"])
    def delete(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._confirm("delete", request)

    def _confirm(self, action: str, request: HttpRequest) -> HttpResponse:
        """Redirect to the confirmation page, with the selected messages."""
        ids = request.POST.getlist("_selected_action")
        return HttpResponseRedirect(self.table.action_url(action, Selection({"ids": ",".join(ids)})))


class InboxMessageAdmin(MessageAdmin):
    """Messages in the inbox."""

    search_help_text = _("Exact id, event id or key, among unfinished messages and the last million.")
    list_display: Any = [*MessageAdmin.list_display[:-1], "in_group", "origin"]
    list_defer = (*MessageAdmin.list_defer, *INBOX.deferred)
    list_filter: ClassVar[Any] = filters("status", "group", "type", "topic", "age", "failures", "error")


class DeadLetterAdmin(MessageAdmin):
    """Dead letters, grouped by error, with the actions on them."""

    actions: Any = ("retry", "delete")
    search_help_text = _("Exact id, event id or key")
    list_display: Any = ["id", "event", "short_error", "key", "dead_for", "failures", "in_topic"]
    # Payloads and headers are needed to mask their values in errors.
    list_defer: tuple[str, ...] = ()
    list_filter: ClassVar[Any] = filters("type", "topic", "source", "age", "failures", "error")

    def get_urls(self) -> list[URLPattern]:
        pages = [
            path(f"{name}/", self.admin_site.admin_view(view), {"table": self.table}, name=f"{self.table.name}_{name}")
            for name, view in actions.VIEWS.items()
        ]
        return [*pages, *super().get_urls()]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        redaction = self.table.redaction(request)
        for message in found.result_list:
            message.shown_error = redaction.error_of(message)
        return found

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(id__gt=0)  # for the index; see Table.dead

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Dead letters are few and have an index: all are searched."""
        term = search_term.strip()
        return (queryset.filter(has_name(self.model, term)) if term else queryset), False

    def list_context(self, request: HttpRequest, query: dict[str, str]) -> dict[str, Any]:
        if query or BEFORE in request.GET:
            return {"acts_on_all": "dead"}
        letters = dead_letters(self.table, self.table.redaction(request))
        return {"acts_on_all": "dead", "groups": letters.groups, "more_groups": letters.more}

    short_error = _column(_("last error"), lambda message: texts.breakable(texts.one_line(message.shown_error)))
    dead_for = _column(_("dead for"), lambda message: texts.age(message.updated_at))


class InboxDeadLetterAdmin(DeadLetterAdmin):
    """Dead letters of the inbox."""

    list_display: Any = [*DeadLetterAdmin.list_display[:-1], "in_group", "origin"]
    list_defer = INBOX.deferred
    list_filter: ClassVar[Any] = filters("group", "type", "topic", "age", "failures", "error")
