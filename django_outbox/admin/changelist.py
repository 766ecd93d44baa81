"""A list that stays fast on large tables: nothing is counted, and pages continue by id."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

from django_outbox.operations.selection import parse_id

BEFORE = "before"


class KeysetChangeList(ChangeList):
    """Newest first. The next page starts below the last id of this one, without OFFSET."""

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
