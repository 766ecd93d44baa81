"""Whatever happens to relays, consumers, broker and messages: nothing lost, nothing twice, in order, and all of it ends."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.state import controls, pauses
from django_outbox.state.retry import retry
from tests.pipeline.model.broker import GROUP
from tests.pipeline.model.machine import Checked, Drawn
from tests.pipeline.model.world import WRITES, Kill, forged
from tests.support.properties import examples

KEYS = st.sampled_from(["", "a", "a", "b"])
PLANS = st.lists(st.sampled_from([None, None, None, "fail", "fail", "retry", "reject", "die"]), max_size=3)
MESSAGES = st.tuples(KEYS, PLANS)
KILLS = st.none() | st.tuples(st.sampled_from(sorted(WRITES)), st.integers(0, 2))
ANSWERS = st.none() | st.sampled_from(["failed", "failed", "killed", "unacknowledged", "cut", "refused"])
FORGERIES: list[dict[str, Any]] = [
    {"publish_count": 0},
    {"publish_count": 7},
    {"id": 10**9},
    {"payload_json": '{"n": 0}'},
]
SECONDS = st.sampled_from([0.1, 1.0, 3.0, 10.0, 40.0, 70.0])
TABLES = st.sampled_from([OutboxMessage, InboxMessage])
NUMBERS = st.integers(0, 1)
WHICH = st.integers(0, 50)


class Pipeline(Checked):
    """What happens, in any order."""

    @initialize(
        on_dead=st.sampled_from(["continue", "continue", "hold"]),
        lanes=st.sampled_from([1, 3]),
        own=st.lists(MESSAGES, min_size=3, max_size=8),
        foreign=st.lists(MESSAGES, max_size=3),
    )
    def start(self, on_dead: str, lanes: int, own: list[Drawn], foreign: list[Drawn]) -> None:
        self.begin(on_dead, lanes)
        self.publish(own)
        for key, plan in foreign:
            self.receive(key, plan)

    # The application and other services

    @rule(
        drawn=st.lists(MESSAGES, min_size=1, max_size=4),
        delay=st.sampled_from([0.0, 0.0, 5.0]),
        commit=st.sampled_from([True, True, True, False]),
    )
    def application_publishes(self, drawn: list[Drawn], delay: float, commit: bool) -> None:
        self.publish(drawn, delay, commit=commit)

    @precondition(lambda self: connection.vendor != "sqlite")  # which has one writer at a time
    @rule(publisher=NUMBERS, drawn=MESSAGES)
    def publish_in_a_long_transaction(self, publisher: int, drawn: Drawn) -> None:
        if publisher not in self.open:
            self.world.begin(publisher)
            self.open[publisher] = []
        key, plan = drawn
        message = self.model.add(key, is_own=True, plan=plan)
        message.event_id = self.world.publish_in(publisher, message.n, key)
        self.open[publisher].append(message)

    @precondition(lambda self: self.open)
    @rule(which=WHICH, commit=st.booleans())
    def end_a_long_transaction(self, which: int, commit: bool) -> None:
        publisher = sorted(self.open)[which % len(self.open)]
        self.world.end(publisher, commit=commit)
        self.end_of(self.open.pop(publisher), commit)

    @rule(drawn=MESSAGES, again=st.none() | WHICH)
    def other_service_sends(self, drawn: Drawn, again: int | None) -> None:
        foreign = [each for each in self.model.messages.values() if not each.is_own]
        if again is None or not foreign:
            self.receive(*drawn)
        else:
            self.send_foreign(foreign[again % len(foreign)])

    # Workers

    @rule(number=NUMBERS, answer=ANSWERS, kill=KILLS)
    def relay_works(self, number: int, answer: str | None, kill: Kill | None) -> None:
        self.world.broker.answer = answer
        self.world.relay(number, kill)
        self.world.broker.answer = None

    @rule(number=NUMBERS, kill=KILLS, kills_commit=st.sampled_from([False, False, True]))
    def consumer_works(self, number: int, kill: Kill | None, kills_commit: bool) -> None:
        """It is killed at a write, between the commit of a transaction and that of the offsets, or not at all."""
        self.world.broker.kills_commit = kills_commit
        self.world.consume(number, kill)
        self.world.broker.kills_commit = False

    @rule(numbers=st.permutations([0, 1]), seconds=SECONDS, answer=ANSWERS, kill=KILLS)
    def all_work(self, numbers: list[int], seconds: float, answer: str | None, kill: Kill | None) -> None:
        self.world.pass_time(seconds)
        for number in numbers:
            self.relay_works(number, answer, None)
            self.consumer_works(number, kill, False)

    @rule(number=NUMBERS, kill=st.booleans())
    def consumer_leaves(self, number: int, kill: bool) -> None:
        """The other one gets its partitions."""
        (self.world.kill if kill else self.world.stop)(number)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    # The broker

    @rule(is_away=st.booleans())
    def broker_goes_or_comes(self, is_away: bool) -> None:
        self.world.broker.is_away = is_away

    @rule(which=WHICH, is_lost=st.booleans())
    def record_is_lost_or_duplicated(self, which: int, is_lost: bool) -> None:
        """It may be that of the last publication or a stale one."""
        if found := self.some_record(which, is_unread=is_lost):
            place, offset = found
            if is_lost:
                self.lost.add((place.partition, offset))
                self.world.broker.lose(place, offset)
            else:
                self.world.broker.append(self.world.broker.cluster.logs[place][offset])

    @rule(which=WHICH, changes=st.sampled_from(FORGERIES))
    def record_is_forged(self, which: int, changes: dict[str, Any]) -> None:
        if row := self.some_row(OutboxMessage, which):
            self.world.broker.append(forged(row, **changes))

    @rule(really=st.sampled_from([False, False, False, True]))
    def topic_is_recreated(self, really: bool) -> None:
        if really:
            self.is_recreated = True
            self.world.broker.recreate()

    # The operator

    @rule(which=WHICH, table=TABLES, status=st.sampled_from(["dead", "consumed"]))
    def operator_retries(self, which: int, table: Any, status: str) -> None:
        table = OutboxMessage if status == "consumed" else table
        row = self.some_row(table, which, status=status)
        if row is not None and retry(table.objects.filter(id=row.id), using="default", status=status):
            self.known(row).revive()
            self.known(row).reprocessed += status == "consumed"

    @rule(which=WHICH, table=TABLES, cancels=st.booleans())
    def operator_cancels_or_sends_now(self, which: int, table: Any, cancels: bool) -> None:
        if row := self.some_row(table, which, status="pending"):
            rows = table.objects.filter(id=row.id)
            self.known(row).may_die |= cancels
            list(
                controls.cancel(rows, "cancelled", using="default")
                if cancels
                else controls.make_due(rows, using="default")
            )

    @rule(ends=st.booleans())
    def operator_pauses_or_resumes(self, ends: bool) -> None:
        if ends:
            pauses.resume(Pause.objects.all(), using="default")
        else:
            pauses.pause(GROUP, event_type="order.*", reason="a test", by="a test", using="default")


@pytest.mark.django_db(transaction=True)
def test_nothing_is_lost_or_handled_twice_or_out_of_order(settings: Any) -> None:
    Pipeline.outbox = {**settings.OUTBOX, "MAX_RETRY": 3, "MAX_DELIVERIES": 1000}
    run_state_machine_as_test(Pipeline, settings=of_hypothesis(examples(50), stateful_step_count=30))
