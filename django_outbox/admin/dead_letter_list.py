"""The lists of dead letters in the admin."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import URLPattern, path
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from django_outbox.admin import actions
from django_outbox.admin.error_groups import dead_letters
from django_outbox.admin.filters import filters
from django_outbox.admin.message_list import BEFORE, MessageAdmin
from django_outbox.admin.tables import INBOX
from django_outbox.observability import text as texts
from django_outbox.operations.selection import has_name


class DeadLetterAdmin(MessageAdmin):
    """Dead letters, grouped by error, with the actions on them."""

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
            return {"acts_on_all": True}
        letters = dead_letters(self.table, self.table.redaction(request))
        return {"acts_on_all": True, "groups": letters.groups, "more_groups": letters.more}

    @admin.display(description=_("last error"))
    def short_error(self, message: Any) -> SafeString:
        return texts.breakable(texts.one_line(message.shown_error))

    @admin.display(description=_("dead for"))
    def dead_for(self, message: Any) -> str:
        return texts.age(message.updated_at)


class InboxDeadLetterAdmin(DeadLetterAdmin):
    """Dead letters of the inbox."""

    list_display: Any = [*DeadLetterAdmin.list_display[:-1], "in_group", "origin"]
    list_defer = INBOX.deferred
    list_filter: ClassVar[Any] = filters("group", "type", "topic", "age", "failures", "error")
