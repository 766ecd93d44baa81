"""What operators start beside real relays and consumers, on a real broker."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from django_outbox.conf import settings
from django_outbox.models import Worker
from tests.support.processes import Command, wait_until

Start = Callable[..., Command]

pytestmark = pytest.mark.django_db(transaction=True)


def examinations(command: Command) -> dict[str, Any]:
    """What each examination of a doctor's report found."""
    document = json.loads(command.output)
    return {each["name"]: each["findings"] for each in document["examinations"]}


def test_the_doctor_finds_nothing_while_all_runs_and_who_is_missing_when_it_ends(
    send: Any, relay: Start, consumer: Start, consumed: Any, manage: Start, pytestconfig: pytest.Config
) -> None:
    running = relay()
    consumer()
    consumer("--group", "reports")  # which handlers of the tests name
    send("test.effect", 1)
    consumed(1)
    working = {(group, "working") for group in ("", "reports", settings.consumer_group)}
    wait_until(lambda: set(Worker.objects.values_list("group", "state")) == working)

    doctor = manage("outbox_doctor", "--json")
    assert doctor.wait() == 0, doctor.output
    found = examinations(doctor)
    # Of the many handlers of these tests only one has had an event; and Tansu does not tell how long it keeps records.
    assert {finding["level"] for finding in found.pop("unused-handlers")} <= {"note", "warning"}
    untold = found.pop("retention")
    assert [finding["level"] for finding in untold] == (["note"] if pytestconfig.option.kafka == "tansu" else [])
    assert not any(found.values())

    running.stop()
    doctor = manage("outbox_doctor", "--json", "--no-broker")
    assert doctor.wait() == 1
    assert [finding["summary"] for finding in examinations(doctor)["relays"]] == ["No relay is running."]


def test_the_status_is_watched_until_ctrl_c(send: Any, relay: Start, consumer: Start, manage: Start) -> None:
    send("test.effect", 1)
    watching = manage("outbox_status", "--watch", "0.2")
    watching.wait_for_line(r"^pending +1 ")
    relay()
    consumer()
    watching.wait_for_line(r"^consumed +1$")
    watching.wait_for_line(r"^consumer .* working")
    watching.wait_for_line(r"has read \d+ partitions? to the end|records? behind")
    assert watching.stop(signal.SIGINT, timeout=10) == 0
    assert "Traceback" not in watching.output
