"""System checks of the settings and of the databases that they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper

from django_outbox.brokers.loading import get_broker
from django_outbox.conf import OutboxSettings, settings
from django_outbox.events.arguments import is_topic
from django_outbox.models import OutboxMessage, outbox_database
from django_outbox.models.lengths import TOPIC_LENGTH
from django_outbox.operations.documentation import documentation
from django_outbox.serializers.configured import Serializers

_SOURCE_HINT = 'Name this service, for example OUTBOX = {"SOURCE": "shop"}.'
_IMMEDIATE_HINT = (
    'Add "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20} to this database. Without it, two relays on SQLite '
    "may read the same rows."
)


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check all of ``OUTBOX``."""
    try:
        raw = settings.raw
    except ImproperlyConfigured as error:
        return [_invalid_value(str(error))]
    found = [*_unknown_keys(raw, settings.KEYS, "OUTBOX")]
    if isinstance(broker := raw.get("BROKER"), dict):
        found += _unknown_keys(broker, OutboxSettings.BROKER_KEYS, 'OUTBOX["BROKER"]')
    return [*found, *_values(raw), *_broker(), *_serializers(), *_publisher()]


def check_databases(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the databases with an outbox."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        if router.allow_migrate_model(alias, OutboxMessage):
            found += [*_locking(connections[alias]), *_notify(connections[alias])]
    if not django_settings.USE_TZ:
        found.append(
            Warning(
                "USE_TZ is False: the times of messages are in the database's time zone.",
                hint="Set USE_TZ = True, or expect ce_time and the times in the admin to be off by the zone.",
                id="django_outbox.W003",
            )
        )
    return found


def _locking(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    if connection.vendor == "sqlite":
        options = connection.settings_dict.get("OPTIONS", {})
        if str(options.get("transaction_mode", "")).upper() not in ("IMMEDIATE", "EXCLUSIVE"):
            yield Warning(
                f"The SQLite database {connection.alias!r} does not lock rows for the outbox.",
                hint=_IMMEDIATE_HINT,
                id="django_outbox.W001",
            )
    elif not connection.features.has_select_for_update_skip_locked:
        yield Error(
            f"The database {connection.alias!r} does not support SELECT ... FOR UPDATE SKIP LOCKED.",
            hint="Use PostgreSQL, MySQL 8.0 or later, or MariaDB 10.6 or later for the outbox.",
            id="django_outbox.E006",
        )


def _notify(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    try:
        wanted = settings.notify
    except ImproperlyConfigured:
        return  # reported as an invalid value
    if wanted and connection.vendor != "postgresql":
        yield Warning(
            f'OUTBOX["NOTIFY"] has no effect on the database {connection.alias!r}, which is not PostgreSQL.',
            hint="The relay polls this database. Lower POLL_INTERVAL for a shorter latency.",
            id="django_outbox.W002",
        )


def _unknown_keys(given: Any, known: Sequence[str], name: str) -> Iterator[CheckMessage]:
    for key in given:
        if key in known:
            continue
        similar = get_close_matches(str(key).upper(), known, n=1)
        hint = f"Did you mean {similar[0]!r}?" if similar else f"Valid keys: {', '.join(known)}."
        yield Error(f"{name} has an unknown key {key!r}.", hint=hint, id="django_outbox.E001")


def _values(raw: Any) -> Iterator[CheckMessage]:
    by_source = ("SOURCE", "DEBEZIUM")
    if not raw.get("SOURCE"):
        yield Error('OUTBOX["SOURCE"] is missing.', hint=_SOURCE_HINT, id="django_outbox.E003")
    reported: set[str] = set()
    for key in settings.KEYS:
        if key in raw and (key not in by_source or raw.get("SOURCE")):
            try:
                getattr(settings, key.lower())
            except ImproperlyConfigured as error:
                if str(error) not in reported:
                    reported.add(str(error))
                    yield _invalid_value(str(error))
    try:
        topics = {'OUTBOX["TOPIC"]': settings.topic}
        topics |= {f'OUTBOX["ROUTES"][{pattern!r}]': topic for pattern, topic in settings.routes.items()}
        topics |= {f'OUTBOX["TASK_TOPICS"][{queue!r}]': topic for queue, topic in settings.task_topics.items()}
        topics |= {f'OUTBOX["INBOX"][{topic!r}]': topic for topic in settings.inbox}
        if settings.dead_letter_topic:
            topics['OUTBOX["DEAD_LETTER_TOPIC"]'] = settings.dead_letter_topic
    except ImproperlyConfigured:
        return  # reported as an invalid value
    for setting, topic in topics.items():
        if not is_topic(topic):
            yield _invalid_value(
                f"{setting}: {topic!r} is not a valid Kafka topic name; use letters, digits, '.', '_' and '-', at most "
                f"{TOPIC_LENGTH} characters."
            )


def _invalid_value(text: str) -> CheckMessage:
    return Error(text, hint=f"See {documentation('settings')}.", id="django_outbox.E002")


def _serializers() -> Iterator[CheckMessage]:
    try:
        given, dead_letter_topic = settings.serializers, settings.dead_letter_topic
    except ImproperlyConfigured:
        return  # reported as an invalid value
    try:
        for pattern, serializer in Serializers(given, dead_letter_topic).all().items():
            try:
                serializer.check()
            except ImproperlyConfigured as error:
                raise ImproperlyConfigured(f'OUTBOX["SERIALIZERS"]["{pattern}"]: {error}') from None
    except ImproperlyConfigured as error:
        yield Error(str(error), hint=f"See {documentation('schemas')}.", id="django_outbox.E010")


def _publisher() -> Iterator[CheckMessage]:
    """What Debezium needs. The rest is checked by ``outbox_doctor``."""
    try:
        publisher, wire_format = settings.publisher, settings.wire_format
    except ImproperlyConfigured:
        return  # reported as an invalid value
    if publisher != "debezium":
        return
    alias = outbox_database()
    if alias in connections and connections[alias].vendor != "postgresql":
        yield Error(
            f'OUTBOX["PUBLISHER"] is "debezium", but the outbox is in the database {alias!r}, which is not PostgreSQL.',
            hint='Use PostgreSQL for the outbox, or set OUTBOX["PUBLISHER"] to "relay".',
            id="django_outbox.E013",
        )
    if wire_format != "cloudevents":
        yield Error(
            f'OUTBOX["PUBLISHER"] is "debezium", which cannot write the wire format {wire_format!r}.',
            hint='Set OUTBOX["WIRE_FORMAT"] to "cloudevents", or OUTBOX["PUBLISHER"] to "relay".',
            id="django_outbox.E013",
        )


def _broker() -> Iterator[CheckMessage]:
    try:
        broker = settings.broker
    except ImproperlyConfigured:
        return  # reported as an invalid value
    try:
        get_broker(broker)
    except ImproperlyConfigured as error:
        yield Error(str(error), hint=f"See {documentation('brokers')}.", id="django_outbox.E004")
