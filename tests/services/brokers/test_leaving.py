"""Members that leave at an awkward moment: the group goes on without them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from django_outbox.brokers.base import Subscription
from tests.support.brokers.backends import Backend
from tests.support.brokers.records import join, make_topic, places, reading, wait_for_shares

# Tansu wedges a group whose leader leaves within milliseconds of another member's join; no client can avoid that.
TRIES = 3

# Makes members leave and returns one that stays, and what is still to happen while that one reads.
Scenario = Callable[[Backend, str, str], tuple[Subscription, Callable[[], object]]]


def while_it_joins(backend: Backend, url: str, topic: str) -> tuple[Subscription, Callable[[], object]]:
    """As when SIGTERM comes within a consumer's first seconds."""
    ending = backend.make(url)
    leaving = ending.subscribe([topic], topic)
    ending.interrupted = lambda: True
    leaving.poll(0.1, 1)
    leaving.close()
    return backend.make(url).subscribe([topic], topic), leaving.close


def one_after_the_other(backend: Backend, url: str, topic: str) -> tuple[Subscription, Callable[[], object]]:
    """The last to leave is the first that joined, which leads the group."""
    broker = backend.make(url)
    first = broker.subscribe([topic], topic)
    join(first, places=places(topic, 3))
    second = broker.subscribe([topic], topic)
    join(first, second, places=places(topic, 3))
    second.close()
    first.close()
    return broker.subscribe([topic], topic), first.close


def while_another_joins(backend: Backend, url: str, topic: str) -> tuple[Subscription, Callable[[], object]]:
    broker = backend.make(url)
    leaving = broker.subscribe([topic], topic)
    join(leaving, places=places(topic, 3))
    member = broker.subscribe([topic], topic)
    member.poll(0.5, 1)  # joins; nobody polls for the other member, so the group waits for it
    return member, leaving.close


@pytest.mark.parametrize("scenario", [while_it_joins, one_after_the_other, while_another_joins])
def test_members_that_leave_do_not_keep_others_out(
    backend: Backend, kafka_url: str, topic: str, scenario: Scenario
) -> None:
    for number in range(TRIES):
        group = make_topic(backend.make(kafka_url), f"{topic}-{number}")
        try:
            member, leave = scenario(backend, kafka_url, group)
            with reading(member) as readers:
                leave()  # where it has not happened yet
                wait_for_shares(readers, places(group, 3))
            member.close()
        except AssertionError:
            if number == TRIES - 1:
                raise
        else:
            return
