"""An outage is logged once, whatever it shows as."""

from __future__ import annotations

import logging

import pytest

from django_outbox.worker.outage_log import JOIN_SECONDS, REMINDER_SECONDS, OutageLog
from tests.support.clock import Clock

QUIET = 5.0


@pytest.fixture
def outages(clock: Clock, caplog: pytest.LogCaptureFixture) -> OutageLog:
    caplog.set_level(logging.INFO)
    return OutageLog(logging.getLogger("django_outbox.test"), clock, quiet_seconds=QUIET)


def test_what_fails_together_is_one_outage_until_all_is_well(
    outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with outages.combined():
        outages.report("Topic bars", "no acknowledgement within 15 s")
        outages.report("Topic foos", "no acknowledgement within 15 s")
    clock.now += 1
    outages.report("The broker", "it does not answer.")
    clock.now += 6
    outages.resolve("The broker")
    outages.resolve("Topic bars")
    clock.now += 5
    outages.resolve("Topic foos")
    clock.now += QUIET
    outages.log_ended()
    outages.log_ended()
    assert caplog.messages == [
        "Topics bars, foos: no acknowledgement within 15 s. Trying again until it works.",
        "Topics bars, foos and the broker are available again after 12 s.",
    ]


def test_an_outage_that_lasts_is_logged_once_a_minute_with_what_is_unavailable_now(
    outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.report("Topic bars", "no leader")
    for _ in range(int(2 * REMINDER_SECONDS)):
        clock.now += 1
        outages.report("The broker", "it does not answer")
        outages.resolve("Topic bars")
    assert caplog.messages == [
        "Topic bars: no leader. Trying again until it works.",
        "The broker is still unavailable after 60 s: it does not answer.",
        "The broker is still unavailable after 120 s: it does not answer.",
    ]


def test_what_comes_back_at_once_was_not_over(
    outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        outages.report("The broker", "it does not answer")
        clock.now += 3
        outages.resolve("The broker")
        clock.now += QUIET - 1
        outages.log_ended()
    assert len(caplog.messages) == 1
    clock.now += 1
    outages.log_ended()
    assert caplog.messages[1:] == ["The broker is available again after 31 s."]
    outages.report("The broker", "it does not answer")
    assert len(caplog.messages) == 3, "this is another one"


def test_an_outage_is_not_part_of_one_that_began_long_before(
    outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.report("Topic bars", "no leader")
    clock.now += JOIN_SECONDS
    outages.report("The broker", "it does not answer")
    clock.now += 7
    outages.resolve("The broker")
    clock.now += QUIET
    outages.log_ended()
    assert caplog.messages[1:] == [
        "The broker: it does not answer. Trying again until it works.",
        "The broker is available again after 7 s.",
    ]


def test_what_is_apart_is_logged_for_itself(outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outages.report("The broker", "it does not answer")
    outages.report("Topic bars", "it does not exist", level=logging.WARNING, separate=True, is_new=True)
    clock.now += 2
    outages.resolve("Topic bars")
    assert outages.is_active
    assert caplog.messages[1:] == [
        "Topic bars: it does not exist. Trying again until it works.",
        "Topic bars is available again after 2 s.",
    ]


@pytest.mark.parametrize("others", [[], ["The broker"]])
def test_what_turns_out_to_be_something_else_is_logged_at_once(
    others: list[str], outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.report("Topic bars", "no acknowledgement")
    for other in others:
        outages.report(other, "it does not answer")
    outages.report("Topic bars", "it does not exist", separate=True)
    assert caplog.messages[1:] == ["Topic bars: it does not exist. Trying again until it works."]
    for subject in ["Topic bars", *others]:
        outages.resolve(subject)
    clock.now += QUIET
    outages.log_ended()
    assert len(caplog.messages) == 3 + len(others)
    assert not outages.is_active


def test_an_outage_that_is_over_is_logged_at_the_end_of_the_process(
    outages: OutageLog, caplog: pytest.LogCaptureFixture
) -> None:
    outages.report("The broker", "it does not answer")
    outages.log_ended(shutdown=True)
    assert len(caplog.messages) == 1, "it lasts"
    outages.resolve("The broker")
    outages.log_ended(shutdown=True)
    assert caplog.messages[1:] == ["The broker is available again after 0 s."]


# Relay and consumer
