"""Heartbeats: operators see who runs and what is in the way, and no worker ever stops for it."""

from __future__ import annotations

import signal
from collections.abc import Callable

from django_outbox.models import Worker
from tests.support.outbox import make_message
from tests.support.processes import Command, wait_until

Start = Callable[..., Command]


# Real commands


def kinds() -> list[str]:
    return sorted(Worker.objects.filter(state="working").values_list("kind", flat=True))


def test_relay_and_consumer_are_seen_while_they_run(manage: Start, topic: str) -> None:
    relay, consumer = manage("outbox_relay", "--create-topics"), manage("outbox_consume")
    wait_until(lambda: kinds() == ["consumer", "relay"])
    assert set(Worker.objects.values_list("pid", flat=True)) == {relay.process.pid, consumer.process.pid}
    assert list(Worker.objects.filter(kind="consumer").values_list("group", "topics")) == [(topic, topic)]
    relay.kill()
    assert consumer.stop() == 0
    assert kinds() == ["relay"]  # until it is seen that it is lost


def test_who_is_in_trouble_says_so(manage: Start) -> None:
    relay = manage("outbox_relay", env={"KAFKA_URL": "kafka://127.0.0.1:1"})
    found = wait_until(lambda: Worker.objects.filter(state="trouble").first())
    assert found.trouble.startswith("The broker: ")
    relay.send_signal(signal.SIGTERM)
    assert relay.wait() == 0
    assert not Worker.objects.exists()


def test_topics_that_are_missing_are_trouble(manage: Start, topic: str) -> None:
    make_message(topic=topic)
    manage("outbox_relay")
    manage("outbox_consume")
    wait_until(lambda: Worker.objects.filter(state="trouble", trouble__contains=topic).count() == 2)
