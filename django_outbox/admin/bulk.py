"""The actions on all messages of a selection: which messages, which permission, and their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from django_outbox.admin.tables import Table
from django_outbox.operations.cancelling import cancel_reason
from django_outbox.state import controls
from django_outbox.state.controls import Controlled
from django_outbox.state.purging import delete
from django_outbox.state.retry import retry

Text = str | Promise


class Bulk(NamedTuple):
    """An action on messages; texts with ``%(count)d`` are for so many.

    Attributes:
        permission: the one that it needs besides ``view``.
        status: of the messages.
        messages: those of a table that it may change.
        work: does it; takes messages, table, the user's name, the reason and the rate.
        seen: the column that is later than the page for messages that the page did not show.
        title, button, done: on the page, and after it.
        intro: what will happen.
        warning: the text of the page if no filter is set.
        has_rate: whether the form asks for a rate.
    """

    permission: str
    status: str
    messages: Callable[[Table], QuerySet[Any]]
    work: Callable[[QuerySet[Any], Table, str, str, int | None], Controlled]
    seen: str
    title: Any
    button: Any
    done: Any
    intro: Text
    warning: Text
    nothing: Text
    all: Text
    has_rate: bool = False
    is_dangerous: bool = False


def _retry(messages: QuerySet[Any], table: Table, user: str, reason: str, rate: int | None) -> Controlled:
    return Controlled(retry(messages, using=table.database, rate=rate))


def _delete(messages: QuerySet[Any], table: Table, user: str, reason: str, rate: int | None) -> Controlled:
    return Controlled(delete(messages, using=table.database))


def _send_now(messages: QuerySet[Any], table: Table, user: str, reason: str, rate: int | None) -> Controlled:
    return _total(controls.make_due(messages, using=table.database))


def _cancel(messages: QuerySet[Any], table: Table, user: str, reason: str, rate: int | None) -> Controlled:
    return _total(controls.cancel(messages, cancel_reason(user, reason), using=table.database))


def _total(batches: Iterable[Controlled]) -> Controlled:
    return Controlled(*map(sum, zip(Controlled(), *batches, strict=True)))


_ALL_DEAD = _("No filter is set. This includes all dead letters.")
_ALL_PENDING = _("No filter is set. This includes all pending messages.")
_NONE_DEAD = _("None of these messages is dead any more. There is nothing to do.")
_NONE_WAITS = _("None of these messages waits any more. There is nothing to do.")
_NONE_PENDING = _("None of these messages is pending any more. There is nothing to do.")

BULK: dict[str, Bulk] = {
    "retry": Bulk(
        permission="retry",
        status="dead",
        messages=lambda table: table.dead,
        work=_retry,
        seen="updated_at",
        title=ngettext_lazy("Retry %(count)d dead letter?", "Retry %(count)d dead letters?", "count"),
        button=ngettext_lazy("Retry %(count)d dead letter", "Retry %(count)d dead letters", "count"),
        done=ngettext_lazy(
            "%(count)d dead letter is pending again and due now.",
            "%(count)d dead letters are pending again and due now.",
            "count",
        ),
        intro=_("They become pending in the order in which they were written, with their failure count reset."),
        warning=_ALL_DEAD,
        nothing=_NONE_DEAD,
        all=_("all dead letters"),
        has_rate=True,
    ),
    "delete": Bulk(
        permission="delete",
        status="dead",
        messages=lambda table: table.dead,
        work=_delete,
        seen="updated_at",
        title=ngettext_lazy("Delete %(count)d dead letter?", "Delete %(count)d dead letters?", "count"),
        button=ngettext_lazy("Delete %(count)d dead letter", "Delete %(count)d dead letters", "count"),
        done=ngettext_lazy("%(count)d dead letter was deleted.", "%(count)d dead letters were deleted.", "count"),
        intro=_(
            "They are deleted permanently, with their payloads and errors. Later messages with the same keys continue."
        ),
        warning=_ALL_DEAD,
        nothing=_NONE_DEAD,
        all=_("all dead letters"),
        is_dangerous=True,
    ),
    "send_now": Bulk(
        permission="retry",
        status="pending",
        messages=lambda table: controls.waiting(table.messages),
        work=_send_now,
        seen="created_at",
        title=ngettext_lazy(
            "Make %(count)d waiting message due now?", "Make %(count)d waiting messages due now?", "count"
        ),
        button=ngettext_lazy("Make %(count)d message due now", "Make %(count)d messages due now", "count"),
        done=ngettext_lazy("%(count)d message is due now.", "%(count)d messages are due now.", "count"),
        intro=_(
            "They no longer wait for their retry or delay. Their failures stay counted. A message behind an earlier one "
            "with the same key still waits for it."
        ),
        warning=_("No filter is set. This includes all waiting messages."),
        nothing=_NONE_WAITS,
        all=_("all waiting messages"),
    ),
    "cancel": Bulk(
        permission="cancel",
        status="pending",
        messages=lambda table: controls.pending(table.messages),
        work=_cancel,
        seen="created_at",
        title=ngettext_lazy("Cancel %(count)d pending message?", "Cancel %(count)d pending messages?", "count"),
        button=ngettext_lazy("Cancel %(count)d message", "Cancel %(count)d messages", "count"),
        done=ngettext_lazy("%(count)d message was cancelled.", "%(count)d messages were cancelled.", "count"),
        intro=_(
            "They become dead letters, and are neither sent nor handled unless someone retries them. A message that is "
            "being sent or handled is skipped."
        ),
        warning=_ALL_PENDING,
        nothing=_NONE_PENDING,
        all=_("all pending messages"),
        is_dangerous=True,
    ),
}
