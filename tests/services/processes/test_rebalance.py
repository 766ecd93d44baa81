"""Members of a group that come and go: partitions move, and nothing is lost, doubled or out of order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_outbox.models import OutboxMessage
from tests.services.processes.test_kills import assert_all_handled_once
from tests.support.processes import Command, wait_until

Start = Callable[..., Command]

BACKENDS = {
    "kafka-python": "django_outbox.brokers.kafka.KafkaBroker",
    "confluent": "django_outbox.brokers.confluent.ConfluentBroker",
}
KEYS = 11


# Not on Tansu, whose groups may stand still for minutes when members come and go this fast.
@pytest.mark.brokers("apache")
@pytest.mark.parametrize("client", list(BACKENDS))
def test_members_that_join_and_leave_every_second_lose_nothing_and_keep_the_order(
    client: str, send: Any, relay: Start, consumer: Start, counts: Any, consumed: Any, effects: Any
) -> None:
    """Under load, and with failures: each fifth message fails at first, and holds its key."""
    env = {"OUTBOX_BACKEND": BACKENDS[client]}
    relay(env=env)
    members = [consumer("--batch-size", 10, env=env)]
    sent = 0

    for turn in range(8):
        for _ in range(60):
            send("test.effect" if sent % 5 else "test.fails_once", sent, key=str(sent % KEYS))
            sent += 1
        done = counts()["consumed"]
        members.append(consumer("--batch-size", 10, env=env))
        wait_until(lambda done=done, sent=sent: counts()["consumed"] > done or counts()["consumed"] == sent, 60)
        if turn % 3 == 2:
            members.pop(0).kill()
        elif turn % 2:
            assert members.pop(0).stop() == 0

    consumed(sent, 120)
    names = [name.split()[1] for name in effects()]
    assert sorted(names, key=int) == [str(n) for n in range(sent)]
    for key in range(KEYS):
        of_key = [int(name) for name in names if int(name) % KEYS == key]
        assert of_key == sorted(of_key)
    failures = OutboxMessage.objects.filter(retry_count__gt=0).values_list("event_type", flat=True)
    assert set(failures) <= {"test.fails_once"}


def test_a_killer_in_the_middle_of_a_batch_is_found_and_its_neighbours_are_handled_once(
    send: Any, relay: Start, consumer: Start, counts: Any, effects: Any
) -> None:
    """At work for a while, a consumer handles many in one transaction, and counts no deliveries."""
    for n in range(120):
        send("test.effect", n, key=str(n))
    send("test.exits", key="killer")
    for n in range(120, 160):
        send("test.effect", n, key=str(n))
    assert relay("--drain").wait() == 0
    env = {"OUTBOX_MAX_DELIVERIES": "2"}

    endings = []
    while counts()["dead"] == 0:
        endings.append(consumer("--batch-size", 20, "--drain", env=env).wait(60))
        assert len(endings) <= 4, counts()
    if endings[-1] != 0:
        assert consumer("--batch-size", 20, "--drain", env=env).wait(60) == 0

    assert set(endings[:-1]) == {7}
    assert counts() == {"dead": 1, "consumed": 160}
    assert_all_handled_once(effects, 160)
