"""Why a message is not finished at the end of a drain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

from django_outbox.conf import settings
from django_outbox.exceptions import in_one_line
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.state import pauses
from django_outbox.state.ordering import holds_behind_dead
from django_outbox.testing.moving_time import Row
from django_outbox.testing.results import DrainResult, Waiting

__unittest = True  # unittest shows no lines of this module in a failure


def require_finished(result: DrainResult) -> None:
    """
    Raises:
        AssertionError: a message is not finished, and not held either.
    """
    __tracebackhide__ = True
    if left := [each for each in result.waiting if not each.is_held]:
        lines = [
            f"  {type(each.message).__name__} {each.message.id} ({each.message.event_type}): {each.reason}"
            for each in left
        ]
        raise AssertionError("\n".join(["Messages are not finished:", *lines]))


def unfinished(
    due_in: Mapping[Row, float], handlers: Registry, *, errors: Mapping[str, Exception], using: str
) -> Iterator[Waiting]:
    """Yield what is pending, and what was published and not handled.

    Args:
        due_in: in how many seconds each pending message is due.
        errors: the last error of its handlers, by event id.
    """
    groups = {group: GroupHandlers(handlers, group) for group in handlers.groups}
    for model in (OutboxMessage, InboxMessage):
        ids = [id for of, id in due_in if of is model]
        for message in model._default_manager.using(using).filter(id__in=ids).order_by("id"):
            if reason := _hold(message, groups, using):
                yield Waiting(message, reason, is_held=True)
            else:
                yield Waiting(message, _reason(message, due_in[model, message.id], errors))
    main = groups[settings.consumer_group]
    left = OutboxMessage.objects.using(using).own().published().filter(event_type__in=main.types).order_by("id")
    for message in left:
        if main.find(message.event_type, message.topic):
            yield Waiting(message, _reason_of_published(message, main))


def _hold(message: OutboxMessage | InboxMessage, groups: Mapping[str, GroupHandlers], using: str) -> str:
    """Why a pending message is held; empty if it is not."""
    group = message.group if isinstance(message, InboxMessage) else settings.consumer_group
    if group not in groups:
        return f"the consumer group {group!r} has no handlers"
    handlers = groups[group]
    names = [handler.name for handler in handlers.find(message.event_type, message.topic)]
    for pause in pauses.active(Pause.objects.using(using).filter(group=group)):
        if pause.covers(message.event_type, names):
            return f"{pause.handler or pause.event_type} is paused"
    if (earlier := _earlier(message, using)) is not None:
        return f"waits for message {earlier.id} of its key, which is {earlier.status}"
    return ""


def _reason(message: OutboxMessage | InboxMessage, due_in: float, errors: Mapping[str, Exception]) -> str:
    """Why a pending message that is not held is not finished."""
    error = message.last_error.splitlines()[0] if message.last_error else ""
    if not error and (latest := errors.get(str(message.event_id))):  # an error of the database, which is not counted
        error = f"{type(latest).__name__}: {in_one_line(latest)}"
    failed = f", after {error}" if error else ""
    if due_in > 0:
        return f"due in {timedelta(seconds=round(due_in))}{failed}"
    return f"due, and neither sent nor handled{failed}" if failed else "due, and neither sent nor handled; see the log"


def _earlier(message: OutboxMessage | InboxMessage, using: str) -> OutboxMessage | InboxMessage | None:
    """The first message of its key that holds this one."""
    if not message.message_key or settings.ordering != "key":
        return None
    subject = {"topic": message.topic, "message_key": message.message_key, "source": message.source}
    if isinstance(message, InboxMessage):
        subject = {"topic": message.topic, "message_key": message.message_key, "group": message.group}
    statuses = ["pending", "dead"] if holds_behind_dead() else ["pending"]
    rows = type(message)._default_manager.using(using).filter(**subject, status__in=statuses, id__lt=message.id)
    return rows.order_by("id").first()


def _reason_of_published(message: OutboxMessage, main: GroupHandlers) -> str:
    if message.topic not in main.default_topics:
        return f"no consumer reads the topic {message.topic}: add it to ROUTES, or name it in a handler"
    return "sent, and not handled; see the log"
