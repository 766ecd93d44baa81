"""The broker: whether it answers, has the topics, has partitions for all consumers, and keeps records for long enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from django_outbox.brokers.base import TopicForbidden
from django_outbox.brokers.topics import NOT_EVEN_SEEN
from django_outbox.brokers.url import DEFAULT_PORT
from django_outbox.conf import settings
from django_outbox.models import Worker
from django_outbox.operations.doctor.finding import Finding, fault, note, warning
from django_outbox.operations.doctor.subject import Subject
from django_outbox.operations.stats import counted, workers
from django_outbox.state.unhandled import longest_awaited

NEARLY = 0.5  # of the retention, at which records that nobody read become urgent


_LOGIN = (
    'Compare user, password, mechanism and certificates in OUTBOX["BROKER"]["URL"] with what the broker knows, and its ACLs: '
    "the relay needs Describe and Write on its topics, the consumer Describe and Read, and Read on its group. "
)
_REACH = (
    f'Start it, or mend OUTBOX["BROKER"]["URL"] (default port: {DEFAULT_PORT}). The broker also has to advertise an address '
    "that can be reached from here (advertised.listeners). For development: manage.py outbox_devbroker"
)


class NotAnswered(Exception):
    """The broker was asked already and did not answer."""


def reachable(subject: Subject) -> Iterator[Finding]:
    """The broker does not answer, or refuses this client."""
    trouble = subject.broker.trouble
    if not trouble:
        return
    refused = "refuses" in trouble or "authoriz" in trouble.lower()
    # What the client hears of a wrong password may be no more than that the connection is closed.
    may_be_login = refused or "password" in trouble
    remedy = (_LOGIN if may_be_login else "") + ("" if refused else _REACH)
    yield fault(trouble, "Nothing is sent and nothing is read. Messages wait in the outbox, and none is lost.", remedy)


def topics(subject: Subject) -> Iterator[Finding]:
    """Topics that do not exist, are forbidden or lack a leader."""
    _require_answer(subject)
    for topic, trouble in subject.broker.unreadable.items():
        if not isinstance(trouble, TopicForbidden):
            yield fault(
                f"The topic {topic!r} is in trouble: {trouble.reason}.",
                "What is in these partitions, or is to be, waits, and none is lost; other topics go on.",
                "See to the brokers that keep them: kafka-topics.sh --describe --unavailable-partitions",
            )
        elif rights := _rights_wanted(topic, trouble, subject):
            yield fault(
                f"The topic {topic!r}: {trouble.reason}.",
                "Its messages wait, and none is lost; other topics go on.",
                f"kafka-acls.sh --bootstrap-server HOST:{DEFAULT_PORT} --add --allow-principal User:NAME --topic {topic} {rights}",
            )
    for topic in subject.broker.missing:
        if topic in settings.written_topics or topic in subject.stored_topics:
            yield fault(
                f"The topic {topic!r} does not exist.",
                "Its messages wait in the outbox; those of other topics go out.",
                f"manage.py outbox_relay --create-topics --partitions N --replication N, or: {_create(topic)}",
            )
        else:
            yield warning(
                f"The topic {topic!r}, which handlers here want to read, does not exist.",
                "It is read as soon as it does.",
                f'See whether it is written correctly in handlers.py or OUTBOX["INBOX"]. Or: {_create(topic)}',
            )


def _rights_wanted(topic: str, trouble: TopicForbidden, subject: Subject) -> str:
    """The options that give what is missing; empty if nobody here needs it."""
    is_read = topic in frozenset[str]().union(*subject.topics.values())
    # Who may write to it may also see it.
    is_written = topic in settings.written_topics | subject.stored_topics and trouble.reason == NOT_EVEN_SEEN
    return " ".join(["--producer"] * is_written + ["--consumer --group GROUP"] * is_read)


def _create(topic: str) -> str:
    return f"kafka-topics.sh --bootstrap-server HOST:{DEFAULT_PORT} --create --topic {topic} --partitions N"


def partitions(subject: Subject) -> Iterator[Finding]:
    """More consumers than there are partitions: some have nothing to do."""
    _require_answer(subject)
    counts = subject.broker.partitions
    consumers = Counter(
        each.group for each in workers(subject.using) if each.kind == Worker.Kind.CONSUMER and not each.is_lost
    )
    for group, topics in sorted(subject.topics.items()):
        places = sum(counts.get(topic, 0) for topic in topics)
        if consumers[group] > places > 0:
            yield warning(
                f"{counted(consumers[group], 'consumer')} of the group {group!r} for {counted(places, 'partition')}.",
                "A partition is read by one consumer of a group; the others wait for one to end.",
                f"Stop {consumers[group] - places} of them, or add partitions: kafka-topics.sh --alter --topic TOPIC "
                "--partitions N (keys then move to other partitions: let consumers finish what is there first).",
            )


def retention(subject: Subject) -> Iterator[Finding]:
    """Records that go before they are read, stay longer than the inbox remembers them, or are replaced by later ones."""
    _require_answer(subject)
    topics = settings.topics.union(*subject.topics.values())
    known = {topic: each for topic, each in subject.broker.settings.items() if topic in topics}
    untold = sorted(topics & subject.broker.partitions.keys() - known.keys())
    if untold:
        yield note(
            f"The broker does not tell how long it keeps the records of {', '.join(untold)}.",
            "Not every broker does, and some only to those with the permission DescribeConfigs.",
            "See for yourself that they are kept for longer than any consumer may be away.",
        )
    for topic, each in sorted(known.items()):
        if each.compacted:
            yield warning(
                f"The topic {topic!r} is compacted.",
                "Of each key only the last record stays: events that are not read in time are gone. Those of this outbox "
                "are sent again, late; those of others are not.",
                _configure(topic, "cleanup.policy=delete"),
            )
    yield from _awaited(subject, {topic: each.retention for topic, each in known.items() if topic in settings.topics})
    yield from _inbox({topic: each.retention for topic, each in known.items() if topic in subject.inbox_topics})


def _awaited(subject: Subject, kept: dict[str, timedelta | None]) -> Iterator[Finding]:
    shortest = min(((age, topic) for topic, age in kept.items() if age is not None), default=None)
    awaited = longest_awaited(subject.using)
    if shortest is None or awaited is None or awaited < NEARLY * shortest[0].total_seconds():
        return
    age, topic = shortest
    yield warning(
        f"A message has waited for its handler for {timedelta(seconds=int(awaited))}, and {topic!r} keeps records for {age}.",
        "A record that goes before it is read is found missing, and its message is sent again: late, and behind others.",
        f"Start consumers: manage.py outbox_consume{subject.database_option}. Or {_configure(topic, 'retention.ms=...')}",
    )


def _inbox(kept: dict[str, timedelta | None]) -> Iterator[Finding]:
    remembered = settings.retention["inbox"]
    for topic, age in sorted(kept.items()):
        if age is not None and (remembered is None or age < remembered):
            shown = "for ever" if remembered is None else f"for {remembered}"
            yield warning(
                f"The topic {topic!r} keeps records for {age}, and the inbox remembers events {shown}.",
                "Events of others that no consumer reads in time are lost, as there is no row to send them again from; and "
                "what the inbox remembers for longer than the topic is of no use.",
                f"{_configure(topic, 'retention.ms=...')}; or a shorter "
                f'OUTBOX["RETENTION"]["inbox"], such as timedelta(seconds={int(age.total_seconds())})',
            )
        elif remembered is not None and (age is None or age > remembered):
            shown = "for ever" if age is None else f"for {age}"
            yield note(
                f"The topic {topic!r} keeps records {shown}, and the inbox remembers events for {remembered}.",
                "Should offsets be set back, or be lost, events that the inbox has forgotten are handled a second time.",
                'OUTBOX["RETENTION"]["inbox"] = '
                + ("None" if age is None else f"timedelta(seconds={int(age.total_seconds())})"),
            )


def _configure(topic: str, setting: str) -> str:
    return (
        f"kafka-configs.sh --bootstrap-server HOST:{DEFAULT_PORT} --alter --entity-type topics --entity-name {topic} "
        f"--add-config {setting}"
    )


def _require_answer(subject: Subject) -> None:
    if subject.broker.trouble:
        raise NotAnswered("the broker does not answer")
