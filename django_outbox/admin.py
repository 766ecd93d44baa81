"""The admin: look at messages, find dead letters, read why, retry them."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from typing import Any

from django.contrib import admin, messages
from django.db import router
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from django_outbox import inbox_state, state
from django_outbox.models import DeadLetter, InboxDeadLetter, InboxMessage, OutboxMessage
from django_outbox.storable import as_text

ERROR_COLUMN_LENGTH = 80
SHOWN_BYTES = 4096


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """An admin that shows and never writes: states change in ``django_outbox.state`` alone."""

    show_full_result_count = False
    list_per_page = 50
    actions = ("retry",)
    ordering = ("-id",)
    search_help_text = _("Exact id, event id or key")
    search_fields = ("id",)  # shows the search box; get_search_results does the search
    fieldsets = (
        (None, {"fields": ("id", "status", "event_type", "event_version", "event_id")}),
        (_("Last error"), {"fields": ("error",)}),
        (_("Content"), {"fields": ("message_key", "pretty_payload", "pretty_headers")}),
        (
            _("Way"),
            {
                "fields": (
                    "topic",
                    "partition",
                    "offset",
                    "publish_count",
                    "delivery_count",
                    "retry_count",
                    "max_retry",
                )
            },
        ),
        (
            _("Times"),
            {"fields": ("created_at", "next_retry_at", "published_at", "consumed_at", "updated_at")},
        ),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Needed for the action ``retry``."""
        return request.user.has_perm("django_outbox.retry_outboxmessage")

    def revive(self, queryset: QuerySet[Any]) -> int:
        """Make dead messages pending; returns how many were dead."""
        return state.retry(queryset, using=router.db_for_write(OutboxMessage))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find what is called exactly so; payloads and errors are not searched."""
        term = search_term.strip()
        if not term:
            return queryset, False
        wanted = Q(message_key=term)
        if term.isascii() and term.isdigit() and len(term) < 20:
            wanted |= Q(id=int(term))
        with suppress(ValueError):
            wanted |= Q(event_id=uuid.UUID(term))
        return queryset.filter(wanted), False

    def told(self, retried: int) -> str:
        """What to say after a retry."""
        return ngettext(
            "%(count)d dead letter is pending again and will be sent at once.",
            "%(count)d dead letters are pending again and will be sent at once.",
            retried,
        )

    @admin.action(description=_("Retry dead letters"), permissions=["retry"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        retried = self.revive(queryset)
        level = messages.SUCCESS if retried else messages.WARNING
        self.message_user(request, self.told(retried) % {"count": retried}, level)

    @admin.display(description=_("payload"))
    def pretty_payload(self, message: OutboxMessage) -> SafeString:
        return _preformatted(_pretty(message.payload))

    @admin.display(description=_("headers"))
    def pretty_headers(self, message: OutboxMessage) -> SafeString:
        return _preformatted(_pretty(message.headers))

    @admin.display(description=_("last error"))
    def error(self, message: OutboxMessage) -> SafeString | str:
        return _preformatted(message.last_error) if message.last_error else "-"

    @admin.display(description=_("last error"))
    def short_error(self, message: OutboxMessage) -> str:
        first_line = message.last_error.split("\n", 1)[0]
        if len(first_line) <= ERROR_COLUMN_LENGTH:
            return first_line
        return first_line[: ERROR_COLUMN_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


@admin.register(OutboxMessage)
class OutboxMessageAdmin(ReadOnlyAdmin):
    """All messages."""

    list_display = (
        "id",
        "event_type",
        "message_key",
        "topic",
        "status",
        "retry_count",
        "next_retry_at",
        "created_at",
    )
    list_filter = ("status",)


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    """The dead ones, with their reason."""

    list_display = (
        "id",
        "event_type",
        "message_key",
        "topic",
        "short_error",
        "retry_count",
        "updated_at",
        "created_at",
    )


class ReadOnlyInboxAdmin(ReadOnlyAdmin):
    """The same for what other services sent."""

    search_help_text = _("Exact id, event id or key")
    fieldsets = (
        (
            None,
            {"fields": ("id", "status", "event_type", "event_version", "source", "event_id", "event_time", "group")},
        ),
        (_("Last error"), {"fields": ("error",)}),
        (_("Content"), {"fields": ("message_key", "pretty_payload", "pretty_headers", "key_bytes", "value_bytes")}),
        (
            _("Way"),
            {"fields": ("topic", "partition", "offset", "delivery_count", "retry_count", "max_retry")},
        ),
        (_("Times"), {"fields": ("created_at", "next_retry_at", "consumed_at", "updated_at")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("payload", "headers", "raw_key", "raw_value")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("django_outbox.retry_inboxmessage")

    def revive(self, queryset: QuerySet[Any]) -> int:
        return inbox_state.retry(queryset, using=router.db_for_write(InboxMessage))

    def told(self, retried: int) -> str:
        return ngettext(
            "%(count)d dead letter is pending again and will be handled at once.",
            "%(count)d dead letters are pending again and will be handled at once.",
            retried,
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        wanted = Q(message_key=term) | Q(event_id=term)
        if term.isascii() and term.isdigit() and len(term) < 20:
            wanted |= Q(id=int(term))
        return queryset.filter(wanted), False

    @admin.display(description=_("key as received"))
    def key_bytes(self, message: InboxMessage) -> SafeString | str:
        return _bytes(message.raw_key)

    @admin.display(description=_("value as received"))
    def value_bytes(self, message: InboxMessage) -> SafeString | str:
        return _bytes(message.raw_value)


@admin.register(InboxMessage)
class InboxMessageAdmin(ReadOnlyInboxAdmin):
    """All messages of the inbox."""

    list_display = ("id", "group", "source", "event_type", "message_key", "status", "retry_count", "created_at")
    list_filter = ("status",)


@admin.register(InboxDeadLetter)
class InboxDeadLetterAdmin(ReadOnlyInboxAdmin):
    """The dead ones of the inbox, with their reason."""

    list_display = ("id", "group", "source", "event_type", "topic", "short_error", "retry_count", "updated_at")


def _bytes(data: Any) -> SafeString | str:
    """Bytes as text and as hexadecimal digits, of a page at most."""
    if data is None:
        return "-"
    shown = bytes(data[:SHOWN_BYTES])
    rest = f"\n... {len(data)} bytes in all" if len(data) > SHOWN_BYTES else ""
    return _preformatted(f"{as_text(shown)}\n\n{shown.hex(' ')}{rest}")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _preformatted(text: str) -> SafeString:
    return format_html("<pre>{}</pre>", text)
