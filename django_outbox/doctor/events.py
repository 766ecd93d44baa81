"""Events and handlers: whether they have heard of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches

from django_outbox.conf import settings
from django_outbox.doctor.finding import Finding, fault, note, warning
from django_outbox.doctor.subject import Subject
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.models import InboxMessage, OutboxMessage

LOOKED_AT = 5000


def handlers(subject: Subject) -> Iterator[Finding]:
    """Handlers that cannot be imported."""
    try:
        _ = subject.handlers
    except HandlersNotImportable as error:
        yield fault(
            str(error), "No consumer starts until then.", "manage.py outbox_consume --list shows when it is mended."
        )


def without_handler(subject: Subject) -> Iterator[Finding]:
    """Events that were published lately and that nobody here handles."""
    wanted = {(handler.event_type, handler.topic) for handler in subject.handlers}
    if not wanted:
        return  # all of its events are for others
    types = {event_type for event_type, _ in wanted}
    for (event_type, topic), count in sorted(_published(subject).items()):
        if (event_type, None) in wanted or (event_type, topic) in wanted:
            continue
        alike = get_close_matches(event_type, types, n=1)
        meant = f" Is {alike[0]!r} meant, which has one?" if alike else ""
        other_topic = f" in the topic {topic!r}, only in others" if event_type in types else ""
        if settings.unknown_event == "dead":
            yield fault(
                f"{event_type!r} has no handler here{other_topic}.{meant}",
                f'UNKNOWN_EVENT is "dead": all of its messages die ({count} of the last {LOOKED_AT:,}).',
                f'Write one: @handler("{event_type}"), or set UNKNOWN_EVENT to "ignore" if it is for others.',
            )
        else:
            yield note(
                f"{event_type!r} has no handler here{other_topic}.{meant}",
                f"{count} of the last {LOOKED_AT:,} messages are of this type. They stay published until RETENTION removes "
                "them, which is right if they are for other services.",
                f'If not, write one: @handler("{event_type}")',
            )


def without_events(subject: Subject) -> Iterator[Finding]:
    """Handlers of events that nobody has published lately."""
    seen = {event_type for event_type, _ in _published(subject)} | _received(subject)
    if not seen:
        return  # nothing has been published yet
    for event_type in sorted({handler.event_type for handler in subject.handlers} - seen):
        names = ", ".join(sorted(each.name for each in subject.handlers if each.event_type == event_type))
        alike = get_close_matches(event_type, seen, n=1)
        find = warning if alike and alike[0].lower().replace("_", ".") == event_type.lower().replace("_", ".") else note
        yield find(
            f"No event {event_type!r} is among the last {LOOKED_AT:,}; {names} waits for it.",
            f"Is {alike[0]!r} meant, which is?" if alike else "It may be rare, or not be published any more.",
            f"See how the type is written where it is published, or remove the handler: @handler({event_type!r})",
        )


def _published(subject: Subject) -> Counter[tuple[str, str]]:
    """How many of the last messages are of each type and topic."""
    messages = OutboxMessage.objects.using(subject.using).order_by("-id")
    return Counter(messages.values_list("event_type", "topic")[:LOOKED_AT])


def _received(subject: Subject) -> set[str]:
    messages = InboxMessage.objects.using(subject.using).order_by("-id")
    return set(messages.values_list("event_type", flat=True)[:LOOKED_AT])
