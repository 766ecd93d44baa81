"""The page of pauses, and the pages that begin and end one."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.models import LogEntry
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, path
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_outbox.admin import audit
from django_outbox.admin.message_list import ReadOnlyAdmin
from django_outbox.admin.tables import OUTBOX, page_url
from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable, PauseLocked
from django_outbox.models import Pause
from django_outbox.models.lengths import OPERATOR_LENGTH, REASON_LENGTH, TYPE_LENGTH
from django_outbox.operations.pausing import UnknownSubject, known_pauses, require_subject
from django_outbox.operations.selection import parse_id
from django_outbox.operations.topics import loaded_registry
from django_outbox.state.pauses import pause, resume


class ResumeForm(forms.Form):
    """Why a pause ends."""

    reason = forms.CharField(
        label=_("Reason"),
        max_length=REASON_LENGTH,
        help_text=_("Recorded in the audit log with your name."),
        widget=forms.TextInput(attrs={"size": 60, "autocomplete": "off"}),
    )


class PauseForm(ResumeForm):
    """What to pause, and why."""

    group = forms.ChoiceField(label=_("Consumer group"))
    event_type = forms.CharField(
        label=_("Event type"),
        max_length=TYPE_LENGTH,
        required=False,
        help_text=_("A type or a pattern such as order.*; leave empty to pause a handler."),
        widget=forms.TextInput(attrs={"size": 60, "autocomplete": "off"}),
    )
    handler = forms.ChoiceField(
        label=_("Handler"),
        required=False,
        help_text=_("Messages for this handler wait, also for their other handlers."),
    )

    field_order = ("group", "event_type", "handler", "reason")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        handlers = loaded_registry()
        names = sorted({each.name for _, each in handlers.of_all_groups()})
        self.fields["group"].choices = [(name, name) for name in handlers.groups]  # type: ignore[attr-defined]
        self.fields["handler"].choices = [("", "-"), *((name, name) for name in names)]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = self.cleaned_data
        if self.errors:
            return data
        subject = {"event_type": data["event_type"], "handler": data["handler"]}
        if all(subject.values()) or not any(subject.values()):
            raise forms.ValidationError(_("Name either an event type or a handler."))
        try:
            require_subject(data["group"], **subject)
        except (UnknownSubject, HandlersNotImportable) as error:
            raise forms.ValidationError(str(error)) from error
        return data


class PauseAdmin(ReadOnlyAdmin):
    """Pauses are few: one page lists them all."""

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("django_outbox.view_pause")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        pages = (
            ("", self.changelist_view, "changelist"),
            ("pause/", self.pause_view, "pause"),
            ("resume/", self.resume_view, "resume"),
        )
        return [
            path(address, self.admin_site.admin_view(view), name=f"{name}_{view_name}")
            for address, view, view_name in pages
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            "title": gettext("Pauses"),
            "pauses": known_pauses(OUTBOX.database),
            "may_change": may_pause(request),
            "pause_url": page_url(Pause, "pause"),
        }
        return self.page(request, "pauses", {**context, **(extra_context or {})})

    def pause_view(self, request: HttpRequest) -> HttpResponse:
        """Ask what to pause, or pause it."""
        self._require_permission(request)
        form = PauseForm(
            request.POST if request.method == "POST" else None,
            initial={"group": settings.consumer_group, **request.GET.dict()},
        )
        if not form.is_valid():
            return self._form(request, form, title=gettext("Pause an event type or a handler"), button=gettext("Pause"))
        data = form.cleaned_data
        subject = data["event_type"] or data["handler"]
        entry = audit.begin(request.user, Pause, "pause", f"{subject} ({data['group']})", data["reason"])
        try:
            pause(**data, by=request.user.get_username()[:OPERATOR_LENGTH], using=OUTBOX.database)
        except PauseLocked:
            return _locked(request, entry)
        audit.finish(entry, 1)
        text = gettext("%(subject)s is paused. Consumers obey within five seconds.") % {"subject": subject}
        messages.success(request, text)
        return HttpResponseRedirect(page_url(Pause, "changelist"))

    def resume_view(self, request: HttpRequest) -> HttpResponse:
        """Ask whether to end a pause, or end it."""
        self._require_permission(request)
        pauses = Pause.objects.using(OUTBOX.database)
        found = get_object_or_404(pauses, id=parse_id(request.GET.get("id", "")))
        form = ResumeForm(request.POST if request.method == "POST" else None)
        if not form.is_valid():
            shown = [each for each in known_pauses(OUTBOX.database) if each.id == found.id]
            title = gettext("Resume %(subject)s?") % {"subject": found}
            return self._form(request, form, title=title, button=gettext("Resume"), pauses=shown)
        entry = audit.begin(request.user, Pause, "resume", f"{found} ({found.group})", form.cleaned_data["reason"])
        try:
            _, count = resume(pauses.filter(id=found.id), using=OUTBOX.database)
        except PauseLocked:
            return _locked(request, entry)
        audit.finish(entry, count)
        text = ngettext(
            "%(subject)s is resumed. %(count)d message is due now.",
            "%(subject)s is resumed. %(count)d messages are due now.",
            count,
        ) % {"subject": found, "count": count}
        messages.success(request, text)
        return HttpResponseRedirect(page_url(Pause, "changelist"))

    def _require_permission(self, request: HttpRequest) -> None:
        if not (self.has_view_permission(request) and may_pause(request)):
            raise PermissionDenied

    def _form(self, request: HttpRequest, form: forms.Form, **context: Any) -> HttpResponse:
        back = page_url(Pause, "changelist")
        return self.page(request, "pause_form", {"form": form, "back": back, "may_change": False, **context})


def _locked(request: HttpRequest, entry: LogEntry) -> HttpResponse:
    audit.finish(entry, 0)
    messages.error(
        request, gettext("A consumer is using this pause, for example to try a message. Try again in a moment.")
    )
    return HttpResponseRedirect(page_url(Pause, "changelist"))


def may_pause(request: HttpRequest) -> bool:
    """True if the user may pause and resume."""
    return request.user.has_perm("django_outbox.change_pause")


def resume_url(pause_id: int) -> str:
    """The page that asks whether to end a pause."""
    return f"{page_url(Pause, 'resume')}?id={pause_id}"
