"""A list that stays fast whatever the size of its table: nothing is counted, pages go on by id."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

from django_outbox.operations.selection import id_of

BEFORE = "before"


class KeysetChangeList(ChangeList):
    """Newest first; the next page begins below the last id of this one, with no OFFSET to walk over."""

    older: str | None = None
    newest: str | None = None
    before = ""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-id"]

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        # Not among what links of filters and the search keep: these begin with the newest again.
        self.before = before = request.GET.get(BEFORE, "")
        for kept in (self.params, self.filter_params):
            kept.pop(BEFORE, None)
        queryset = super().get_queryset(request, exclude_parameters).defer(*self.model_admin.list_defer)  # type: ignore[attr-defined]
        last_id = id_of(before)
        return queryset if last_id is None else queryset.filter(id__lt=last_id)

    def get_results(self, request: HttpRequest) -> None:
        rows = list(self.queryset[: self.list_per_page + 1])
        self.result_list = rows[: self.list_per_page]
        if len(rows) > self.list_per_page:
            self.older = self.get_query_string({BEFORE: rows[self.list_per_page - 1].id})
        if self.before:
            self.newest = self.get_query_string()
        # What Django's templates ask for. Nobody knows how many there are on other pages.
        self.result_count = len(self.result_list)
        # Equal, so that the search box tells no number; else it offers to show all.
        self.full_result_count = None if self.query else self.result_count
        self.show_full_result_count = False
        self.show_admin_actions = bool(self.result_list)
        self.can_show_all = False
        self.multi_page = False
        self.paginator = Paginator(self.result_list, self.list_per_page)
