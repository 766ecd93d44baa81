"""The pages of actions on messages: each action is confirmed, needs a reason, and is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_outbox.admin import audit
from django_outbox.admin.bulk import BULK, Bulk
from django_outbox.admin.tables import Table
from django_outbox.conf import settings
from django_outbox.events.declared import event_types
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import database_now, json_value
from django_outbox.models.validation import json_payload
from django_outbox.observability import text as texts
from django_outbox.operations.retry_preview import frequent_types, newest, seconds_until_last
from django_outbox.operations.selection import Selection, SelectionError, parse_id
from django_outbox.serializers.configured import current_serializers
from django_outbox.state.ordering import holds_behind_dead
from django_outbox.state.retry import retry_with_payload

DEFAULT_RATE = 50


class ReasonForm(forms.Form):
    """The fields of every action."""

    reason = forms.CharField(
        label=_("Reason"),
        max_length=500,
        help_text=_("Recorded in the audit log with your name."),
        widget=forms.TextInput(attrs={"size": 60, "autocomplete": "off"}),
    )
    # When the page was opened: messages that died later were not shown, and are not touched.
    seen = forms.DateTimeField(
        widget=forms.HiddenInput, error_messages={"invalid": _("This page is incomplete. Open it again.")}
    )


class RetryForm(ReasonForm):
    rate = forms.IntegerField(
        label=_("Messages per second"),
        min_value=1,
        max_value=100_000,
        required=False,
        help_text=_("Limits the load on a system that has just recovered. Leave empty to retry all at once."),
    )


class EditForm(ReasonForm):
    payload = forms.CharField(
        label=_("Payload (JSON)"),
        strip=False,
        widget=forms.Textarea(attrs={"rows": 16, "cols": 80, "spellcheck": "false", "class": "outbox-code"}),
    )

    field_order = ("payload", "reason")

    def __init__(self, *args: Any, using: str, message: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._using = using
        self._message = message

    def clean_payload(self) -> str:
        try:
            payload = json.loads(self.cleaned_data["payload"])
            payload = json_payload(payload, using=self._using)
            message = self._message
            # It is sent again. Copies of dead letters may not fit.
            if isinstance(message, OutboxMessage) and message.topic != settings.dead_letter_topic:
                current_serializers().validate(payload, message.event_type, message.topic)
                declared = event_types.find(message.event_type, message.event_version, message.source)
                if declared is not None:
                    declared.payload.require(json.dumps(payload))
            self.stored = json_value(payload)
        except (ValueError, RecursionError, ImproperlyConfigured) as error:
            raise forms.ValidationError(_("Not a valid payload: %(error)s"), params={"error": error}) from error
        return str(self.cleaned_data["payload"])


def may_edit(table: Table, request: HttpRequest) -> bool:
    """Editing needs the right to see all of the payload, or a mask would be saved in place of a secret."""
    return table.may(request, "edit") and table.may(request, "see_payload")


def confirm_view(request: HttpRequest, table: Table, action: str) -> HttpResponse:
    """Confirm, preview or execute an action on all messages of a selection."""
    bulk = BULK[action]
    if not (table.may(request, "view") and table.may(request, bulk.permission)):
        raise PermissionDenied
    try:
        selection = Selection.from_query(request.GET.dict())
    except SelectionError as error:
        return HttpResponseBadRequest(gettext("Unknown filter: %(names)s") % {"names": error})
    if "text" in selection.values and not table.may(request, "see_payload"):
        raise PermissionDenied  # the count would reveal, guess by guess, what redaction masks in errors
    selected = selection.apply(bulk.messages(table))
    is_dry_run = "dry_run" in request.POST
    form = (RetryForm if bulk.has_rate else ReasonForm)(
        request.POST if request.method == "POST" else None,
        initial={"seen": database_now(table.messages).isoformat(), "rate": DEFAULT_RATE},
    )
    form.fields["reason"].required = not is_dry_run
    preview: dict[str, Any] | None = None
    if form.is_valid():
        selected = selected.filter(**{f"{bulk.seen}__lte": form.cleaned_data["seen"]})
        rate = form.cleaned_data.get("rate")
        if not is_dry_run:
            return _execute(request, table, action, selection, selected, form.cleaned_data["reason"], rate)
        preview = {"types": frequent_types(selected)}
    redaction = table.redaction(request)
    sample = newest(selected)
    for message in sample:
        message.shown_error = texts.one_line(redaction.error_of(message))
    count = selected.count()
    if preview is not None:
        seconds = seconds_until_last(count, rate)
        preview |= {
            "count": count,
            "duration": texts.duration(seconds) if seconds else "",
            "is_ordered": settings.ordering == "key",
        }
    return _page(
        request,
        table,
        "admin/django_outbox/confirm.html",
        title=bulk.title % {"count": count},
        action=action,
        bulk=bulk,
        button=bulk.button % {"count": count},
        back=_list_url(table, bulk),
        holds=action == "cancel" and holds_behind_dead(),
        count=count,
        criteria=selection.describe(),
        sample=sample,
        preview=preview,
        form=form,
    )


def _execute(
    request: HttpRequest, table: Table, action: str, selection: Selection, selected: Any, reason: str, rate: int | None
) -> HttpResponse:
    bulk = BULK[action]
    subject = str(selection) or str(bulk.all)
    entry = audit.begin(request.user, table.model, action, subject, reason, object_id=selection.only_id)
    done, skipped, released = bulk.work(selected, table, request.user.get_username(), reason, rate)
    audit.finish(entry, done, **({"rate": rate} if bulk.has_rate else {}))
    text = _in_time(done, rate) if rate is not None and done > rate else str(bulk.done % {"count": done})
    if released:
        text += " " + ngettext(
            "%(count)d later message with the same key is due now too.",
            "%(count)d later messages with the same keys are due now too.",
            released,
        ) % {"count": released}
    if skipped:
        text += " " + ngettext(
            "%(count)d was skipped: it is being sent or handled, or has changed.",
            "%(count)d were skipped: they are being sent or handled, or have changed.",
            skipped,
        ) % {"count": skipped}
    messages.add_message(request, messages.SUCCESS if done else messages.WARNING, text)
    message = None if selection.only_id is None else table.messages.filter(id=selection.only_id).first()
    return HttpResponseRedirect(_list_url(table, bulk) if message is None else table.url_of(message))


def _in_time(count: int, rate: int) -> str:
    return gettext("%(count)d dead letters are pending again. The last will be due in %(duration)s.") % {
        "count": count,
        "duration": texts.duration(seconds_until_last(count, rate)),
    }


def _list_url(table: Table, bulk: Bulk) -> str:
    return table.dead_list_url if bulk.status == "dead" else f"{table.list_url}?status={bulk.status}"


def edit_view(request: HttpRequest, table: Table) -> HttpResponse:
    """Show the payload of a dead letter in a form, or replace it and retry."""
    if not (table.may(request, "view") and may_edit(table, request)):
        raise PermissionDenied
    message = get_object_or_404(table.dead, id=parse_id(request.GET.get("ids", "")))
    if not table.is_editable(message):
        raise Http404
    initial = {"payload": texts.pretty(message.payload), "seen": message.updated_at.isoformat()}
    form = EditForm(
        request.POST if request.method == "POST" else None, initial=initial, using=table.database, message=message
    )
    if form.is_valid():
        if form.cleaned_data["seen"] == message.updated_at and _replace(request, table, message, form):
            messages.success(request, gettext("The payload was replaced. The message is pending again."))
            return HttpResponseRedirect(table.url_of(get_object_or_404(table.messages, id=message.id)))
        form.add_error(None, gettext("The message has changed since you opened it. Nothing was saved."))
    return _page(
        request,
        table,
        "admin/django_outbox/edit.html",
        title=gettext("Edit the payload of message %(id)d") % {"id": message.id},
        message=message,
        error=message.last_error,
        form=form,
    )


def _replace(request: HttpRequest, table: Table, message: Any, form: EditForm) -> bool:
    # The admin log may be in another database. If not, a rollback undoes both.
    with transaction.atomic(using=table.database):
        entry = audit.begin(
            request.user, table.model, "edit", str(message), form.cleaned_data["reason"], object_id=message.id
        )
        if retry_with_payload(message, form.stored, using=table.database):
            audit.finish(entry, 1, payload_before=message.payload)
            return True
        entry.delete()
    return False


def _page(request: HttpRequest, table: Table, template: str, **context: Any) -> HttpResponse:
    return TemplateResponse(
        request,
        template,
        {**admin.site.each_context(request), "opts": table.model._meta, "table": table, **context},
    )


VIEWS: dict[str, Callable[..., HttpResponse]] = {
    **{action: partial(confirm_view, action=action) for action in BULK},
    "edit": edit_view,
}
