"""Members that leave at an awkward moment: the group goes on without them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tests.brokers.backends import Backend
from tests.brokers.records import join, make_topic, places, reading, wait_for_shares

TRIES = 3


def tried_again(test: Callable[..., None]) -> Callable[..., None]:
    """Let a test fail only if it fails each time, with another group.

    Tansu wedges a group whose leader leaves within the milliseconds in which another member joins; no client can avoid that.
    """

    @functools.wraps(test)
    def run(*arguments: Any, topic: str, **options: Any) -> None:
        for number in range(TRIES):
            try:
                return test(*arguments, topic=f"{topic}-{number}", **options)
            except AssertionError:
                if number == TRIES - 1:
                    raise
        return None

    return run


@tried_again
def test_a_member_that_leaves_while_it_joins_does_not_keep_others_out(
    backend: Backend, kafka_url: str, topic: str
) -> None:
    """As when SIGTERM comes within a consumer's first seconds."""
    broker = backend.make(kafka_url)
    make_topic(broker, topic)
    ending = backend.make(kafka_url)
    leaving = ending.subscribe([topic], topic)
    ending.interrupted = lambda: True
    leaving.poll(0.1, 1)
    leaving.close()

    member = broker.subscribe([topic], topic)
    join(member, places=places(topic, 3))
    member.close()


@tried_again
def test_members_that_leave_one_after_the_other_do_not_keep_others_out(
    backend: Backend, kafka_url: str, topic: str
) -> None:
    """Also where the last to leave is the first that joined, which leads the group."""
    broker = backend.make(kafka_url)
    make_topic(broker, topic)
    first = broker.subscribe([topic], topic)
    join(first, places=places(topic, 3))
    second = broker.subscribe([topic], topic)
    join(first, second, places=places(topic, 3))
    second.close()
    first.close()

    member = broker.subscribe([topic], topic)
    join(member, places=places(topic, 3))
    member.close()


@tried_again
def test_a_member_that_leaves_while_another_joins_does_not_keep_it_out(
    backend: Backend, kafka_url: str, topic: str
) -> None:
    broker = backend.make(kafka_url)
    make_topic(broker, topic)
    leaving = broker.subscribe([topic], topic)
    join(leaving, places=places(topic, 3))
    member = broker.subscribe([topic], topic)
    member.poll(0.5, 1)  # joins; nobody polls for the other member, so the group waits for it
    with reading(member) as readers:
        leaving.close()
        wait_for_shares(readers, places(topic, 3))
    member.close()
