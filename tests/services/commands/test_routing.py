"""Without --database, commands use the database that the project's router writes the outbox to."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

from django_outbox.models.fields import DatabaseNow
from tests.support.outbox import Status, make_message, row
from tests.support.processes import Command

ROUTED = {"DJANGO_SETTINGS_MODULE": "tests.support.routed.settings"}

Manage = Callable[..., Command]


def run(manage: Manage, name: str, *arguments: object) -> Command:
    command = manage(name, *arguments, env=ROUTED)
    assert command.wait() == 0, command.output
    return command


def test_a_message_is_carried_to_its_handler(manage: Manage, topic: str) -> None:
    message = make_message(event_type="test.effect", payload="done", topic=topic)
    run(manage, "outbox_relay", "--drain", "--create-topics")
    assert row(message).status == Status.PUBLISHED
    run(manage, "outbox_consume", "--drain")
    assert row(message).status == Status.CONSUMED


def test_operators_see_and_change_that_database(manage: Manage) -> None:
    dead = make_message(Status.DEAD)
    old = make_message(Status.CONSUMED, updated_at=DatabaseNow() - timedelta(days=30))
    status = json.loads(run(manage, "outbox_status", "--json", "--no-broker").output)
    assert (status["outbox"]["dead"], status["outbox"]["consumed"]) == (1, 1)
    run(manage, "outbox_retry", "--id", dead.id)
    assert row(dead).status == Status.PENDING
    run(manage, "outbox_purge")
    assert not type(old).objects.filter(id=old.id).exists()


def test_the_doctor_examines_that_database_and_names_it_in_no_remedy(manage: Manage) -> None:
    doctor = run(manage, "outbox_doctor", "--only", "routing", "migrations", "relays", "--fail-on", "fault")
    assert "The outbox is in the database of the project's models." in doctor.output
    assert "manage.py outbox_relay, under systemd" in doctor.output


def test_a_missing_migration_names_the_database_for_migrate(manage: Manage, tmp_path: object) -> None:
    command = manage("outbox_relay", "--drain", env={**ROUTED, "DATABASE_URL": f"sqlite:///{tmp_path}/empty.sqlite3"})
    assert command.wait() == 1
    assert command.output.endswith("Run: manage.py migrate django_outbox --database events")
