"""The broker: whether it answers, has the topics and enough partitions, and keeps records long enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from django_outbox.brokers.base import TopicForbidden
from django_outbox.brokers.errors import NOT_EVEN_SEEN
from django_outbox.brokers.url import DEFAULT_PORT
from django_outbox.conf import settings
from django_outbox.models import Worker
from django_outbox.operations.counts import counted
from django_outbox.operations.doctor.base import Finding, Installation, fault, note, warning
from django_outbox.operations.workers import known_workers
from django_outbox.state.unhandled import longest_unhandled

URGENT = 0.5  # share of a topic's retention after which unread records are reported

_LOGIN = (
    'Check user, password, mechanism and certificates in OUTBOX["BROKER"]["URL"], and the ACLs of the broker: the relay '
    "needs Describe and Write on its topics; the consumer needs Describe and Read on its topics, and Read on its group. "
)
_REACH = (
    f'Start the broker, or correct OUTBOX["BROKER"]["URL"] (default port: {DEFAULT_PORT}). The broker must advertise an '
    "address that can be reached from here (advertised.listeners). For development: manage.py outbox_devbroker"
)


def reachable(installation: Installation) -> Iterator[Finding]:
    """The broker does not answer, or refuses this client."""
    trouble = installation.broker.trouble
    if not trouble:
        return
    is_refused = "refuses" in trouble or "authoriz" in trouble.lower()
    # With a wrong password, some brokers only close the connection.
    may_be_login = is_refused or "password" in trouble
    remedy = (_LOGIN if may_be_login else "") + ("" if is_refused else _REACH)
    yield fault(trouble, "No message is sent or read. Messages wait in the outbox; none is lost.", remedy)


def topics(installation: Installation) -> Iterator[Finding]:
    """Topics that do not exist, are forbidden or have no leader."""
    for topic, trouble in installation.broker.unreadable.items():
        if not isinstance(trouble, TopicForbidden):
            yield fault(
                f"The topic {topic!r} is in trouble: {trouble.reason}.",
                "Messages of these partitions wait; none is lost. Other topics are not affected.",
                "Check the brokers that host them: kafka-topics.sh --describe --unavailable-partitions",
            )
        elif rights := _missing_rights(topic, trouble, installation):
            yield fault(
                f"The topic {topic!r}: {trouble.reason}.",
                "Its messages wait; none is lost. Other topics are not affected.",
                f"kafka-acls.sh --bootstrap-server HOST:{DEFAULT_PORT} --add --allow-principal User:NAME --topic {topic} "
                f"{rights}",
            )
    for topic in installation.broker.missing:
        if topic in settings.written_topics or topic in installation.stored_topics:
            yield fault(
                f"The topic {topic!r} does not exist.",
                "Its messages wait in the outbox. Other topics are not affected.",
                f"manage.py outbox_relay --create-topics --partitions N --replication N, or: {_create(topic)}",
            )
        else:
            yield warning(
                f"The topic {topic!r}, which handlers here want to read, does not exist.",
                "Consumers read it as soon as it exists.",
                f'Check its name in handlers.py and OUTBOX["INBOX"], or create it: {_create(topic)}',
            )


def _missing_rights(topic: str, trouble: TopicForbidden, installation: Installation) -> str:
    """Options of kafka-acls.sh; empty if nothing here needs the topic."""
    is_read = topic in frozenset[str]().union(*installation.topics.values())
    # The right to write includes the right to see the topic.
    is_written = topic in settings.written_topics | installation.stored_topics and trouble.reason == NOT_EVEN_SEEN
    return " ".join(["--producer"] * is_written + ["--consumer --group GROUP"] * is_read)


def _create(topic: str) -> str:
    return f"kafka-topics.sh --bootstrap-server HOST:{DEFAULT_PORT} --create --topic {topic} --partitions N"


def partitions(installation: Installation) -> Iterator[Finding]:
    """A group has more consumers than partitions."""
    counts = installation.broker.partitions
    consumers = Counter(
        each.group
        for each in known_workers(installation.using)
        if each.kind == Worker.Kind.CONSUMER and not each.is_lost
    )
    for group, topics in sorted(installation.topics.items()):
        available = sum(counts.get(topic, 0) for topic in topics)
        if consumers[group] > available > 0:
            yield warning(
                f"{counted(consumers[group], 'consumer')} of the group {group!r} for {counted(available, 'partition')}.",
                "Each partition is read by one consumer of a group; the other consumers are idle.",
                f"Stop {consumers[group] - available} of them, or add partitions: kafka-topics.sh --alter --topic TOPIC "
                "--partitions N (this moves keys to other partitions: let consumers catch up first).",
            )


def retention(installation: Installation) -> Iterator[Finding]:
    """Topics that drop records before they are read, keep them longer than the inbox does, or are compacted."""
    topics = settings.topics.union(*installation.topics.values())
    known = {topic: each for topic, each in installation.broker.settings.items() if topic in topics}
    unknown = sorted(topics & installation.broker.partitions.keys() - known.keys())
    if unknown:
        yield note(
            f"The broker does not report the retention of {', '.join(unknown)}.",
            "Some brokers never do; others require the permission DescribeConfigs.",
            "Make sure that records are kept longer than any consumer may be down.",
        )
    for topic, each in sorted(known.items()):
        if each.compacted:
            yield warning(
                f"The topic {topic!r} is compacted.",
                "Kafka keeps only the last record of each key. Unread events of this outbox are sent again, late; those "
                "of other services are lost.",
                _configure(topic, "cleanup.policy=delete"),
            )
    own = {topic: each.retention for topic, each in known.items() if topic in settings.topics}
    yield from _unread_records(installation, own)
    # The inbox has the records of other services, and all that other groups than the main one read.
    main, *others = installation.topics.values()
    inbox = (main - settings.topics).union(*others)
    yield from _inbox({topic: each.retention for topic, each in known.items() if topic in inbox})


def _unread_records(installation: Installation, kept: dict[str, timedelta | None]) -> Iterator[Finding]:
    shortest = min(((age, topic) for topic, age in kept.items() if age is not None), default=None)
    awaited = longest_unhandled(installation.using)
    if shortest is None or awaited is None or awaited < URGENT * shortest[0].total_seconds():
        return
    age, topic = shortest
    yield warning(
        f"A message has waited for its handler for {timedelta(seconds=int(awaited))}, and {topic!r} keeps records for "
        f"{age}.",
        "If Kafka deletes a record before it is read, its message is sent again: late, and after later ones of its key.",
        f"Start consumers: manage.py outbox_consume{installation.database_option}. "
        f"Or {_configure(topic, 'retention.ms=...')}",
    )


def _inbox(kept: dict[str, timedelta | None]) -> Iterator[Finding]:
    remembered = settings.retention["inbox"]
    for topic, age in sorted(kept.items()):
        if age is not None and (remembered is None or age < remembered):
            yield warning(
                f"The topic {topic!r} keeps records for {age}, and the inbox remembers events {_for(remembered)}.",
                "Events of other services that are not read in time are lost: there is no row to send them again from. "
                "The inbox need not remember events longer than the topic keeps them.",
                f"{_configure(topic, 'retention.ms=...')}; or a shorter "
                f'OUTBOX["RETENTION"]["inbox"], such as timedelta(seconds={int(age.total_seconds())})',
            )
        elif remembered is not None and (age is None or age > remembered):
            yield note(
                f"The topic {topic!r} keeps records {_for(age)}, and the inbox remembers events for {remembered}.",
                "If offsets are reset or lost, events that the inbox no longer remembers are handled twice.",
                'OUTBOX["RETENTION"]["inbox"] = '
                + ("None" if age is None else f"timedelta(seconds={int(age.total_seconds())})"),
            )


def _for(age: timedelta | None) -> str:
    return "forever" if age is None else f"for {age}"


def _configure(topic: str, setting: str) -> str:
    return (
        f"kafka-configs.sh --bootstrap-server HOST:{DEFAULT_PORT} --alter --entity-type topics --entity-name {topic} "
        f"--add-config {setting}"
    )
