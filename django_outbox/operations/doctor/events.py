"""Events and handlers: whether they have heard of each other, and whether consumers read the topics of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches

from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import registry
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.operations.doctor import waiting
from django_outbox.operations.doctor.finding import Finding, fault, note, warning
from django_outbox.operations.doctor.subject import Subject
from django_outbox.operations.stats import workers
from django_outbox.operations.unread_topics import Reach, UnreadTopic, waits
from django_outbox.state.dead_letters import unread_topic
from django_outbox.state.unhandled import Awaited

LOOKED_AT = 5000
SHOWN = 5
ALIKE = 0.85  # so near are two names of which one may be a slip of the pen


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
    copies = unread_topic([topic for _, topic in wanted])
    unhandled: Counter[tuple[str, str]] = Counter()
    for (event_type, topic), count in _published(subject).items():
        if topic != copies and (event_type, None) not in wanted and (event_type, topic) not in wanted:
            unhandled[event_type, topic if event_type in types else ""] += count
    strangers = []
    for (event_type, topic), count in sorted(unhandled.items()):
        elsewhere = f" in the topic {topic!r}, only in others" if topic else ""
        meant = "" if elsewhere else _meant(event_type, types)
        if settings.unknown_event == "dead":
            yield fault(
                f"{event_type!r} has no handler here{elsewhere}.",
                f'UNKNOWN_EVENT is "dead": all of its messages die ({count} of the last {LOOKED_AT:,}).',
                f'Write one: @handler("{event_type}"), or set UNKNOWN_EVENT to "ignore" if it is for others.{meant}',
            )
        elif elsewhere or meant:
            yield warning(
                f"{event_type!r} has no handler here{elsewhere}.",
                f"{count} of the last {LOOKED_AT:,} messages are of this type. They stay published until RETENTION removes them.",
                f"Compare how it is published with how it is handled.{meant}",
            )
        else:
            strangers.append(event_type)
    if strangers:
        yield note(
            f"No handler here is for {_listed(strangers)}.",
            "They stay published until RETENTION removes them, which is right if they are for other services.",
            f'If not, write handlers: @handler("{strangers[0]}")',
        )


def unread_topics(subject: Subject) -> Iterator[Finding]:
    """Topics with unfinished messages that no consumer of the main group reads."""
    if not subject.handlers:
        return  # all of its events are for others
    seen = workers(subject.using)
    unread = {each.topic: each for each in waits(subject.using, seen).unread}
    for each in unread.values():
        title, why, remedy = waiting.unread(each)
        yield fault(f"{title}.", why, remedy)
    reach, awaited = Reach.of(seen), Awaited.by(registry.for_group(settings.consumer_group))
    strangers = []
    for topic in sorted(subject.stored_topics - unread.keys() - {awaited.unread}):
        if reach.includes(topic) or topic in reach.known:
            continue
        pending = OutboxMessage.objects.using(subject.using).own().pending().filter(topic=topic)
        types = set(pending.values_list("event_type", flat=True)[:LOOKED_AT])
        if any(awaited.includes(event_type, topic) for event_type in types):
            title, why, remedy = waiting.unread(UnreadTopic(topic, None, is_known=False))
            yield fault(f"{title}.", why, remedy)
        else:
            strangers.append(topic)
    if strangers:
        yield note(
            f"No consumer here reads {_listed(strangers)}.",
            "No handler here waits for the messages in these topics. They stay published until RETENTION removes them, "
            "which is right if other services read them.",
            'If not, add the topics to OUTBOX["ROUTES"] and write handlers.',
        )


def without_events(subject: Subject) -> Iterator[Finding]:
    """Handlers of events that nobody has published lately."""
    seen = {event_type for event_type, _ in _published(subject)} | _received(subject)
    if not seen:
        return  # nothing has been published yet
    types = {handler.event_type for handler in subject.handlers}
    rare = []
    for event_type in sorted(types - seen):
        if meant := _meant(event_type, seen - types):
            names = ", ".join(sorted(each.name for each in subject.handlers if each.event_type == event_type))
            yield warning(
                f"No event {event_type!r}, for which {names} waits, is among the last {LOOKED_AT:,}.",
                "A handler whose type is written otherwise than where it is published is never called.",
                f"Compare how it is handled with how it is published.{meant}",
            )
        else:
            rare.append(event_type)
    if rare:
        yield note(
            f"Among the last {LOOKED_AT:,} events is none for the handlers of {_listed(rare)}.",
            "They may be rare, or not be published any more.",
            "manage.py outbox_consume --list shows where these handlers are.",
        )


def _meant(event_type: str, others: Collection[str]) -> str:
    """A question after a type of nearly the same name."""
    alike = get_close_matches(event_type, others, n=1, cutoff=ALIKE)
    return f" Is {alike[0]!r} meant?" if alike else ""


def _listed(types: Sequence[str]) -> str:
    more = len(types) - SHOWN
    return ", ".join(map(repr, types[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def _published(subject: Subject) -> Counter[tuple[str, str]]:
    """How many of the last messages are of each type and topic."""
    messages = OutboxMessage.objects.using(subject.using).order_by("-id")
    newest = messages.values_list("event_type", "topic", "source")[:LOOKED_AT]
    return Counter((event_type, topic) for event_type, topic, source in newest if source == settings.source)


def _received(subject: Subject) -> set[str]:
    messages = InboxMessage.objects.using(subject.using).order_by("-id")
    return set(messages.values_list("event_type", flat=True)[:LOOKED_AT])
