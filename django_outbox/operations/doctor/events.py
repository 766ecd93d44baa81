"""Events and handlers: whether each has the other, and whether consumers read their topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches

from django_outbox.conf import TASK_PREFIX, settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import registry
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.operations.doctor.base import Finding, Installation, fault, note, warning
from django_outbox.operations.documentation import documentation
from django_outbox.operations.topics import UnreadTopic, awaited, default_topics, read_topics
from django_outbox.operations.workers import known_workers
from django_outbox.state.dead_letters import unread_topic
from django_outbox.state.unhandled import HandledEvents

RECENT = 5000
SHOWN = 5
SIMILAR = 0.85  # ratio at which one of two names is probably a typo


def handlers(installation: Installation) -> Iterator[Finding]:
    """Handlers that cannot be imported."""
    try:
        _ = installation.handlers
    except HandlersNotImportable as error:
        yield fault(
            str(error),
            "No consumer can start.",
            "Fix the import. manage.py outbox_consume --list shows whether it works.",
        )


def without_handler(installation: Installation) -> Iterator[Finding]:
    """Recently published events that no handler here handles."""
    wanted = {(handler.event_type, handler.topic) for handler in installation.handlers}
    types = {event_type for event_type, _ in wanted}
    copies = unread_topic([topic for _, topic in wanted])
    unhandled: Counter[tuple[str, str]] = Counter()
    for (event_type, topic), count in _published(installation).items():
        if not (wanted or event_type.startswith(TASK_PREFIX)):
            continue  # all events are for other services
        if topic != copies and (event_type, None) not in wanted and (event_type, topic) not in wanted:
            unhandled[event_type, topic if event_type in types else ""] += count
    for_others = []
    for (event_type, topic), count in sorted(unhandled.items()):
        elsewhere = f" in the topic {topic!r}, only in others" if topic else ""
        similar = "" if elsewhere else _similar(event_type, types)
        if event_type.startswith(TASK_PREFIX):
            path = event_type.removeprefix(TASK_PREFIX)
            yield fault(
                f"There is no task {path} here.",
                f"{count} of the last {RECENT:,} messages are for it. They wait until there is one, and are never deleted.",
                f"Define it in a module that consumers import ({documentation('tasks')}). If it was renamed, keep the old name "
                "until none is left; if it is not needed any more, let it do nothing.",
            )
        elif settings.unknown_event == "dead":
            yield fault(
                f"{event_type!r} has no handler here{elsewhere}.",
                f'UNKNOWN_EVENT is "dead": its messages become dead letters ({count} of the last {RECENT:,}).',
                f'Write a handler: @handler("{event_type}"). If other services handle it, set UNKNOWN_EVENT to '
                f'"ignore".{similar}',
            )
        elif elsewhere or similar:
            yield warning(
                f"{event_type!r} has no handler here{elsewhere}.",
                f"{count} of the last {RECENT:,} messages have this type. They stay published until RETENTION removes "
                "them.",
                f"Compare the type that is published with the type that is handled.{similar}",
            )
        else:
            for_others.append(event_type)
    if for_others:
        yield note(
            f"No handler here is for {_listed(for_others)}.",
            "These messages stay published until RETENTION removes them, which is right if they are for other services.",
            f'Otherwise write handlers: @handler("{for_others[0]}")',
        )


def unread_topics(installation: Installation) -> Iterator[Finding]:
    """Topics with unfinished messages that no consumer of the main group reads."""
    if not installation.handlers:
        return  # all events are for other services
    workers = known_workers(installation.using)
    _, found = awaited(installation.using, workers)
    unread = {each.topic: each for each in found}
    for each in unread.values():
        yield _unread(each)
    read = read_topics(workers) | default_topics()
    wanted = HandledEvents.by(registry.for_group(settings.consumer_group))
    for_others = []
    for topic in sorted(installation.stored_topics - unread.keys() - read - {wanted.unread}):
        pending = OutboxMessage.objects.using(installation.using).own().pending().filter(topic=topic)
        types = set(pending.values_list("event_type", flat=True)[:RECENT])
        if any(wanted.includes(event_type, topic) for event_type in types):
            yield _unread(UnreadTopic(topic, None, is_default=False))
        else:
            for_others.append(topic)
    if for_others:
        yield note(
            f"No consumer here reads {_listed(for_others)}.",
            "No handler here waits for the messages in these topics. They stay published until RETENTION removes them, "
            "which is right if other services read them.",
            'Otherwise add the topics to OUTBOX["ROUTES"] and write handlers.',
        )


def _unread(topic: UnreadTopic) -> Finding:
    return fault(f"{topic.title}.", topic.cause.why, topic.cause.remedy)


def without_events(installation: Installation) -> Iterator[Finding]:
    """Handlers without recent events."""
    seen = {event_type for event_type, _ in _published(installation)} | _received(installation)
    if not seen:
        return  # nothing has been published yet
    types = {handler.event_type for handler in installation.handlers}
    rare = []
    for event_type in sorted(types - seen):
        if similar := _similar(event_type, seen - types):
            names = ", ".join(sorted(each.name for each in installation.handlers if each.event_type == event_type))
            yield warning(
                f"No event {event_type!r}, for which {names} waits, is among the last {RECENT:,}.",
                "A handler with a misspelled type is never called.",
                f"Compare the type that is handled with the type that is published.{similar}",
            )
        else:
            rare.append(event_type)
    if rare:
        yield note(
            f"None of the last {RECENT:,} events is for the handlers of {_listed(rare)}.",
            "The events may be rare, or no longer published.",
            "manage.py outbox_consume --list shows these handlers.",
        )


def _similar(event_type: str, others: Collection[str]) -> str:
    """A question, if there is a type with a similar name."""
    similar = get_close_matches(event_type, others, n=1, cutoff=SIMILAR)
    return f" Did you mean {similar[0]!r}?" if similar else ""


def _listed(types: Sequence[str]) -> str:
    more = len(types) - SHOWN
    return ", ".join(map(repr, types[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def _published(installation: Installation) -> Counter[tuple[str, str]]:
    """How many recent messages have each type and topic."""
    messages = OutboxMessage.objects.using(installation.using).order_by("-id")
    newest = messages.values_list("event_type", "topic", "source")[:RECENT]
    return Counter((event_type, topic) for event_type, topic, source in newest if source == settings.source)


def _received(installation: Installation) -> set[str]:
    messages = InboxMessage.objects.using(installation.using).order_by("-id")
    return set(messages.values_list("event_type", flat=True)[:RECENT])
