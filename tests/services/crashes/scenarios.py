"""The scenarios in which processes are killed: what there is to do, who does it, and how it must end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.services.crashes import preparing
from tests.services.crashes.chain import CONSUMER, HOUR, RELAY, Chain

DRAIN = "--drain"

HANDLERS = "tests.support.watched.handlers"
EFFECT, MANY, FAILS, REJECTS = "watched.effect", "watched.many", "watched.fails", "watched.rejects"
UNSENDABLE, REFUSED = "watched.unsendable", "watched.refused"
SERIALIZERS = {
    UNSENDABLE: {"CLASS": "tests.support.watched.serializers.Unsendable"},
    REFUSED: {"CLASS": "tests.support.watched.serializers.Refused"},
}
TRIPS = "watched.trips"
OUT_OF_TIME = {"django_outbox.consumer.engine:TIME_BUDGET_SECONDS": 0.0}
"""Only the first handler of a transaction runs."""
UNGUARDED = {"django_outbox.consumer.guard:PoisonGuard.begin": preparing.unguarded}

HELD_ELSEWHERE = "consumer: held by one that is elsewhere"
CONSUMED, DEAD, PENDING = "consumed", "dead", "pending"


@dataclass(frozen=True)
class Scenario:
    """
    Attributes:
        victim: the command that is recorded and killed, with its arguments.
        prepare: a function of ``preparing`` and its arguments.
        outbox: settings of ``OUTBOX``; a value that is a function gets the chain's name.
        constants: values of constants of the package, in all processes.
        victim_constants: the same in the victim only.
        beside: whether a relay works beside the victim, which is then a consumer.
        meanwhile: called again and again while processes run.
        messages: by name, how each message of the outbox must end. A copy of a dead message is named "copy of" it.
        inbox: how many messages of the inbox must end in each status.
        effects: names of events that must have had their effect; None for all consumed messages.
        topics: what new consumers read; empty for the topics of the settings.
        until: when to stop the victim; None for when everything is as it must end, or never if it drains.
    """

    victim: tuple[Any, ...]
    prepare: tuple[Callable[..., None], ...] | tuple[Any, ...]
    outbox: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    victim_constants: Mapping[str, Any] = field(default_factory=dict)
    beside: bool = False
    meanwhile: Callable[[Chain], None] = lambda chain: None
    messages: Mapping[str, str] = field(default_factory=dict)
    inbox: Mapping[str, int] = field(default_factory=dict)
    effects: tuple[str, ...] | None = None
    topics: tuple[str, ...] = ()
    until: Callable[[Chain], bool] | None = None

    @property
    def drains(self) -> bool:
        return DRAIN in self.victim


def _dead_letters(chain: str) -> str:
    return f"{chain}-dead"


def _all(status: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, status)


def _mappers(chain: str) -> dict[str, str]:
    return {chain: "tests.support.watched.serializers.to_event"}


SCENARIOS = {
    # Relay
    "relay: published": Scenario(
        (*RELAY, DRAIN),
        (preparing.send, ("a1", EFFECT), ("a2", EFFECT), ("b1", EFFECT)),
        messages=_all(CONSUMED, "a1", "a2", "b1"),
    ),
    "relay: full batches": Scenario(
        (*RELAY, DRAIN, "--batch-size", 2),
        (preparing.send, *((f"a{number}", EFFECT) for number in range(1, 8))),
        messages=_all(CONSUMED, *(f"a{number}" for number in range(1, 8))),
    ),
    "relay: postponed": Scenario(
        (*RELAY, DRAIN),
        (preparing.delayed, ("a1", EFFECT), ("a2", EFFECT), ("b1", EFFECT)),
        messages=_all(CONSUMED, "a1", "a2", "b1"),
    ),
    "relay: failed": Scenario(
        (*RELAY, DRAIN),
        (preparing.send, ("a1", UNSENDABLE), ("a2", EFFECT), ("b1", EFFECT)),
        outbox={"SERIALIZERS": SERIALIZERS},
        messages=_all(CONSUMED, "a1", "a2", "b1"),
    ),
    "relay: dead": Scenario(
        (*RELAY, DRAIN),
        (preparing.send, ("a1", REFUSED), ("a2", EFFECT)),
        outbox={"SERIALIZERS": SERIALIZERS, "DEAD_LETTER_TOPIC": _dead_letters},
        messages={"a1": DEAD, "a2": CONSUMED, "copy of a1": "published"},
    ),
    "relay: held behind a dead message": Scenario(
        (*RELAY, DRAIN),
        (preparing.behind_dead, ("a1", REFUSED), ("a2", EFFECT), ("b1", EFFECT)),
        outbox={"SERIALIZERS": SERIALIZERS, "ON_DEAD": "hold"},
        messages={"a1": DEAD, "a2": PENDING, "b1": CONSUMED},
    ),
    "relay: another topic": Scenario(
        (*RELAY, DRAIN),
        (preparing.to_topic, "{chain}-other", ("a1", EFFECT), ("a2", EFFECT)),
        messages=_all(CONSUMED, "a1", "a2"),
        topics=("{chain}", "{chain}-other"),
    ),
    "relay: heartbeat and purge": Scenario(
        RELAY,
        (preparing.expired, ("a1", EFFECT), ("a2", EFFECT)),
        outbox={"NOTIFY": True},
        constants={"django_outbox.relay.background_purge:LEADER_CHECK_SECONDS": 0.0},
        messages=_all(CONSUMED, "a1", "a2"),
        until=lambda chain: chain.statuses() == _all("published", "a1", "a2"),
    ),
    # Consumer
    "consumer: consumed": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", EFFECT), ("a2", EFFECT), ("b1", EFFECT)),
        messages=_all(CONSUMED, "a1", "a2", "b1"),
    ),
    "consumer: consumed without the guard": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", EFFECT), ("a2", EFFECT), ("b1", EFFECT)),
        constants=UNGUARDED,
        messages=_all(CONSUMED, "a1", "a2", "b1"),
    ),
    "consumer: commits that wait": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", EFFECT), ("a2", EFFECT), ("b1", EFFECT)),
        victim_constants={"django_outbox.brokers.subscription:GroupMember.commit_soon": preparing.unanswered},
        messages=_all(CONSUMED, "a1", "a2", "b1"),
        until=Chain.is_settled,  # a drain would wait for the answer
    ),
    "consumer: out of time": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.half_open, f"{HANDLERS}.trips", ("a1", EFFECT), ("a2", TRIPS)),
        outbox={"CIRCUIT_BREAKER": {"FAILURES": 1, "PAUSE": 1}},
        constants={**UNGUARDED, **OUT_OF_TIME},
        messages=_all(CONSUMED, "a1", "a2"),
    ),
    "consumer: publishes": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", "watched.publishes")),
        outbox={"NOTIFY": True},
        beside=True,
        messages=_all(CONSUMED, "a1", "ba1"),
    ),
    "consumer: retried": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", FAILS), ("b1", EFFECT)),
        constants=UNGUARDED,
        messages=_all(CONSUMED, "a1", "b1"),
    ),
    "consumer: one of several fails": Scenario(  # after two that share a call, so that all fit into one transaction
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", MANY), ("a2", MANY), ("a3", FAILS), ("a4", EFFECT)),
        constants=UNGUARDED,
        beside=True,
        messages=_all(CONSUMED, "a1", "a2", "a3", "a4"),
    ),
    "consumer: held": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", FAILS), ("a2", EFFECT), ("a3", EFFECT)),
        beside=True,
        messages=_all(CONSUMED, "a1", "a2", "a3"),
    ),
    HELD_ELSEWHERE: Scenario(
        CONSUMER,
        (preparing.elsewhere, ("a1", EFFECT), ("a2", EFFECT)),
        beside=True,
        meanwhile=Chain.send_what_is_elsewhere,
        messages=_all(CONSUMED, "a1", "a2"),
    ),
    "consumer: sent again": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", FAILS), ("a2", EFFECT)),
        constants={"django_outbox.consumer.in_hand:MOST_WAITS": 0},
        messages=_all(CONSUMED, "a1", "a2"),
    ),
    "consumer: requeued after conflicts": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", "watched.conflicts"), ("b1", EFFECT)),
        messages=_all(CONSUMED, "a1", "b1"),
    ),
    "consumer: dead": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.sent, ("a1", REJECTS), ("a2", EFFECT), ("c1", "watched.nobody")),
        outbox={"DEAD_LETTER_TOPIC": _dead_letters, "UNKNOWN_EVENT": "dead"},
        messages={
            **_all(DEAD, "a1", "c1"),
            "a2": CONSUMED,
            **_all("published", "copy of a1", "copy of c1"),
        },
    ),
    "consumer: poison guard": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.delivered, {"a1": 5, "b1": 1}, ("a1", EFFECT), ("b1", EFFECT), ("c1", EFFECT)),
        messages={"a1": DEAD, **_all(CONSUMED, "b1", "c1")},
    ),
    "consumer: reconciled": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.lost, ("a1", EFFECT), ("b1", EFFECT), ("c1", EFFECT)),
        constants={"django_outbox.consumer.reconciler:INTERVAL_SECONDS": 0.0},
        messages=_all(CONSUMED, "a1", "b1", "c1"),
    ),
    "consumer: paused and resumed": Scenario(
        CONSUMER,
        (preparing.paused, EFFECT, ("a1", EFFECT), ("a2", EFFECT)),
        constants={
            "django_outbox.consumer.pauses:REFRESH_SECONDS": 0.2,
            "django_outbox.state.pauses:AHEAD": timedelta(minutes=10),
        },
        beside=True,
        meanwhile=Chain.resume,
        messages=_all(CONSUMED, "a1", "a2"),
    ),
    "consumer: circuit breaker": Scenario(
        CONSUMER,
        (preparing.sent, ("a1", TRIPS), ("b1", TRIPS)),
        outbox={"CIRCUIT_BREAKER": {"FAILURES": 1, "PAUSE": HOUR}},
        constants={"django_outbox.consumer.pauses:REFRESH_SECONDS": 0.2},
        beside=True,
        meanwhile=Chain.pass_time,
        messages=_all(CONSUMED, "a1", "b1"),
        until=lambda chain: chain.is_settled() and not chain.pauses(),
    ),
    "consumer: lanes": Scenario(
        (*CONSUMER, DRAIN, "--concurrency", 3),
        (preparing.sent, ("a1", EFFECT), ("a2", EFFECT), ("b1", EFFECT), ("c1", EFFECT)),
        messages=_all(CONSUMED, "a1", "a2", "b1", "c1"),
    ),
    # Inbox
    "inbox: consumed": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.foreign, ("a1", EFFECT), ("a2", EFFECT), ("a1", EFFECT)),
        inbox={CONSUMED: 2},
        effects=("a1", "a2"),
    ),
    "inbox: consumed without the guard": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.foreign, ("a1", EFFECT), ("a2", EFFECT), ("a1", EFFECT)),
        constants=UNGUARDED,
        inbox={CONSUMED: 2},
        effects=("a1", "a2"),
    ),
    "inbox: out of time": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.foreign, ("a1", EFFECT), ("a2", EFFECT)),
        constants={**UNGUARDED, **OUT_OF_TIME},
        inbox={CONSUMED: 2},
        effects=("a1", "a2"),
    ),
    "inbox: stored in order": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.stored, ("a1", EFFECT), ("a2", EFFECT), ("b1", EFFECT)),
        inbox={CONSUMED: 3},
        effects=("a1", "a2", "b1"),
    ),
    "inbox: stored and paused": Scenario(
        CONSUMER,
        (preparing.stored_paused, EFFECT, ("a1", EFFECT), ("a2", EFFECT)),
        constants={"django_outbox.consumer.pauses:REFRESH_SECONDS": 0.2},
        meanwhile=Chain.resume,
        inbox={CONSUMED: 2},
        effects=("a1", "a2"),
    ),
    "inbox: retried": Scenario(
        CONSUMER,
        (preparing.foreign, ("a1", FAILS), ("a2", EFFECT)),
        constants=UNGUARDED,
        inbox={CONSUMED: 2},
        effects=("a1", "a2"),
    ),
    "inbox: requeued after conflicts": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.foreign, ("a1", "watched.conflicts"), ("b1", EFFECT)),
        constants=UNGUARDED,
        inbox={CONSUMED: 2},
        effects=("a1", "b1"),
    ),
    "inbox: dead": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.foreign_and_unreadable, ("a1", REJECTS), ("a2", EFFECT)),
        outbox={"DEAD_LETTER_TOPIC": _dead_letters},
        constants=UNGUARDED,
        inbox={DEAD: 2, CONSUMED: 1},
        messages=_all("published", "copy of a1", "copy of unreadable"),
        effects=("a2",),
    ),
    "inbox: mapper": Scenario(
        (*CONSUMER, DRAIN),
        (preparing.plain, "a1", "nothing", "a2"),
        outbox={"INBOX": _mappers},
        inbox={CONSUMED: 2},
        effects=("a1", "a2"),
    ),
    "inbox: paused": Scenario(
        CONSUMER,
        (preparing.foreign_paused, EFFECT, ("a1", EFFECT), ("a2", EFFECT)),
        constants={"django_outbox.consumer.pauses:REFRESH_SECONDS": 0.2, **UNGUARDED},
        meanwhile=Chain.resume,
        inbox={CONSUMED: 2},
        effects=("a1", "a2"),
    ),
}
