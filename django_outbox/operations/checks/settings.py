"""System checks: each fault in the settings with an id and a hint."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper

from django_outbox.brokers.base import get_broker
from django_outbox.conf import OutboxSettings, settings
from django_outbox.models import OutboxMessage
from django_outbox.models.lengths import TOPIC_LENGTH
from django_outbox.operations.documentation import documentation
from django_outbox.publishing import is_topic

_SOURCE_HINT = 'Name this service, as in OUTBOX = {"SOURCE": "shop"}.'
_IMMEDIATE_HINT = (
    'Add "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20} to this database. Without it '
    "SQLite lets two relays read the same rows."
)


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check all of ``OUTBOX``."""
    try:
        raw = settings.raw
    except ImproperlyConfigured as error:
        return [_wrong_value(str(error))]
    return [
        *_unknown_keys(raw, settings.KEYS, "OUTBOX"),
        *_broker_keys(raw.get("BROKER")),
        *_values(raw),
        *_broker(),
    ]


def check_databases(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the databases that hold an outbox."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        if not router.allow_migrate_model(alias, OutboxMessage):
            continue
        connection = connections[alias]
        if connection.vendor == "sqlite":
            options = connection.settings_dict.get("OPTIONS", {})
            if str(options.get("transaction_mode", "")).upper() not in ("IMMEDIATE", "EXCLUSIVE"):
                found.append(
                    Warning(
                        f"The SQLite database {alias!r} does not lock rows for the outbox.",
                        hint=_IMMEDIATE_HINT,
                        id="django_outbox.W001",
                    )
                )
        elif not connection.features.has_select_for_update_skip_locked:
            found.append(
                Error(
                    f"The database {alias!r} has no SELECT ... FOR UPDATE SKIP LOCKED.",
                    hint="Use PostgreSQL, MySQL from 8.0 or MariaDB from 10.6 for the outbox.",
                    id="django_outbox.E006",
                )
            )
        found += _notify(connection)
    if not django_settings.USE_TZ:
        found.append(
            Warning(
                "USE_TZ is False, so the times of messages are those of the database's clock and zone.",
                hint="Set USE_TZ = True, or expect ce_time and the admin's times to be off by the zone.",
                id="django_outbox.W003",
            )
        )
    return found


def _notify(connection: BaseDatabaseWrapper) -> list[CheckMessage]:
    try:
        wanted = settings.notify
    except ImproperlyConfigured:
        return []  # told already, as a wrong value
    if not wanted or connection.vendor == "postgresql":
        return []
    return [
        Warning(
            f'OUTBOX["NOTIFY"] has no effect on the database {connection.alias!r}, which is no PostgreSQL.',
            hint="The relay polls it. Set POLL_INTERVAL for a shorter latency.",
            id="django_outbox.W002",
        )
    ]


def _unknown_keys(given: Any, known: Sequence[str], place: str) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for key in given:
        if key in known:
            continue
        alike = get_close_matches(str(key).upper(), known, n=1)
        hint = f"Did you mean {alike[0]!r}?" if alike else f"Known are {', '.join(known)}."
        found.append(Error(f"{place} has an unknown key {key!r}.", hint=hint, id="django_outbox.E001"))
    return found


def _broker_keys(broker: Any) -> list[CheckMessage]:
    if not isinstance(broker, dict):
        return []
    return _unknown_keys(broker, OutboxSettings.BROKER_KEYS, 'OUTBOX["BROKER"]')


def _values(raw: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if not raw.get("SOURCE"):
        found.append(Error('OUTBOX["SOURCE"] is missing.', hint=_SOURCE_HINT, id="django_outbox.E003"))
    for key in settings.KEYS:
        if key in raw and (key != "SOURCE" or raw[key]):
            try:
                getattr(settings, key.lower())
            except ImproperlyConfigured as error:
                found.append(_wrong_value(str(error)))
    found += [_wrong_value(text) for text in _wrong_topics()]
    return found


def _wrong_topics() -> list[str]:
    try:
        places = {'OUTBOX["TOPIC"]': settings.topic}
        places |= {f'OUTBOX["ROUTES"][{pattern!r}]': topic for pattern, topic in settings.routes.items()}
        places |= {f'OUTBOX["INBOX"][{topic!r}]': topic for topic in settings.inbox}
        if settings.dead_letter_topic:
            places['OUTBOX["DEAD_LETTER_TOPIC"]'] = settings.dead_letter_topic
    except ImproperlyConfigured:
        return []  # told already
    return [
        f"{place} is no Kafka topic: {topic!r}. Those are of letters, digits, '.', '_' and '-', {TOPIC_LENGTH} at most."
        for place, topic in places.items()
        if not is_topic(topic)
    ]


def _wrong_value(text: str) -> CheckMessage:
    return Error(text, hint=f"See {documentation('settings')}.", id="django_outbox.E002")


def _broker() -> list[CheckMessage]:
    try:
        broker = settings.broker
    except ImproperlyConfigured:
        return []  # told already, as a wrong value
    try:
        get_broker(broker)
    except ImproperlyConfigured as error:
        return [
            Error(
                str(error),
                hint=f"See {documentation('brokers')}.",
                id="django_outbox.E004",
            )
        ]
    return []
