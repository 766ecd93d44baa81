"""The state machine's base: a world, the model beside it, what must be true after each step, and how it ends."""

from __future__ import annotations

import sys
from typing import Any

from django.db import connection, transaction
from django.test import override_settings
from hypothesis.stateful import RuleBasedStateMachine, invariant

from django_outbox.brokers.base import Record, TopicPartition
from django_outbox.models import InboxMessage, MessageFailure, OutboxMessage, Pause
from django_outbox.state import pauses
from django_outbox.state.retry import retry
from tests.pipeline.model.broker import FOREIGN, OWN, event_id_of
from tests.pipeline.model.reference import FINISHED, Message, Model, Row
from tests.pipeline.model.world import World, send_own
from tests.support.app.models import Effect
from tests.support.inbox import received

Drawn = tuple[str, list[str | None]]
"""Key and plan of a message."""
MOST_TURNS = 60
"""For all that is left at the end, 35 s apart."""


class Checked(RuleBasedStateMachine):
    """Nothing lost, nothing twice, in order, and all of it ends."""

    outbox: dict[str, Any]
    """The setting ``OUTBOX``."""
    world: World | None = None

    def begin(self, on_dead: str, lanes: int) -> None:
        self.settings = override_settings(OUTBOX={**self.outbox, "ON_DEAD": on_dead})
        self.settings.enable()
        self.holds = on_dead == "hold"
        self.model = Model(holds_behind_dead=self.holds)
        self.world = World(1 if connection.vendor == "sqlite" else lanes, self.model.planned)
        self.world.broker.on_answer = self.answered
        self.open: dict[int, list[Message]] = {}
        self.lost: set[tuple[int, int]] = set()
        self.is_recreated = False

    def answered(self, record: Record, answer: str) -> None:
        """The broker failed or refused a record."""
        message = self.model.by_event(event_id_of(record))
        if answer == "refused":
            message.may_die = True
        else:
            message.failures.add(("sent", len(message.failures)))

    def publish(self, drawn: list[Drawn], delay: float = 0.0, *, commit: bool = True) -> None:
        messages = [self.model.add(key, is_own=True, plan=plan) for key, plan in drawn]
        with transaction.atomic():
            for message in messages:
                message.event_id = send_own(message.n, message.key, delay)
            transaction.set_rollback(not commit)
        self.end_of(messages, commit)

    def end_of(self, messages: list[Message], commit: bool) -> None:
        if commit:
            self.model.commit(messages)
        else:
            self.model.roll_back(messages)

    def receive(self, key: str, plan: list[str | None]) -> None:
        """Another service sends an event."""
        message = self.model.add(key, is_own=False, plan=plan)
        message.event_id = f"foreign-{message.n}"
        self.send_foreign(message)
        self.model.commit([message])

    def send_foreign(self, message: Message) -> None:
        self.world.broker.append(
            received({"n": message.n}, key=message.key or None, id=message.event_id, topic=FOREIGN)
        )

    def turn(self) -> None:
        for number in range(2):
            self.world.relay(number)
            self.world.consume(number)

    def some_record(self, which: int, *, is_unread: bool) -> tuple[TopicPartition, int] | None:
        """One of the outbox; with ``is_unread``, whose offset the group has not committed yet."""
        committed = self.world.broker.group.committed
        found = [
            (place, offset)
            for place, log in sorted(self.world.broker.cluster.logs.items())
            if place.topic == OWN
            for offset in range(committed.get(place, 0) if is_unread else 0, len(log))
        ]
        return found[which % len(found)] if found else None

    def some_row(self, model: Any, which: int, **filters: Any) -> Any:
        rows = model.objects.filter(**filters).order_by("id")
        number = rows.count()
        return rows[which % number] if number else None

    def known(self, row: Any) -> Message:
        return self.model.by_event(str(row.event_id))

    # What must be true

    @invariant()
    def holds_what_the_model_says(self) -> None:
        if self.world is not None:
            self.check()

    def check(self) -> dict[int, Row]:
        world = self.world
        assert world is not None
        rows = self.rows()
        effects = [
            (int(name), event_id) for name, event_id in Effect.objects.order_by("id").values_list("name", "event_id")
        ]
        runs, world.runs = world.runs, []
        self.model.check(rows, effects, runs, arrived=self.passed(), sent=world.broker.sent)
        return rows

    def rows(self) -> dict[int, Row]:
        columns = ("status", "next_retry_at", "consumed_at", "retry_count", "max_retry")
        rows = [
            *[(payload["n"], *row) for payload, *row in OutboxMessage.objects.values_list("payload", *columns)],
            *[
                (int(name.removeprefix("foreign-")), *row)
                for name, *row in InboxMessage.objects.values_list("event_id", *columns)
            ],
        ]
        return {
            n: Row(n, status, due is not None, consumed is not None, *counts)
            for n, status, due, consumed, *counts in rows
        }

    def passed(self) -> set[int]:
        """Messages of other services whose records the group has read. Asserts that of the outbox none is skipped."""
        committed = self.world.broker.group.committed
        if not self.is_recreated:
            published = OutboxMessage.objects.filter(status="published").values_list("partition", "offset")
            for place in set(published) - self.lost:
                assert place[1] >= committed.get(TopicPartition(OWN, place[0]), 0), f"the record {place} was skipped"
        return {
            self.model.by_event(event_id_of(record)).n
            for place, log in self.world.broker.cluster.logs.items()
            if place.topic == FOREIGN
            for record in log[: committed.get(place, 0)]
        }

    # The end

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            for publisher in list(self.open):
                self.world.end(publisher, commit=True)
                self.end_of(self.open.pop(publisher), commit=True)
            if sys.exc_info()[0] is None:
                self.drain()
        finally:
            self.world.close()
            self.settings.disable()
            for model in (OutboxMessage, InboxMessage, MessageFailure, Effect, Pause):
                model.objects.all().delete()

    def drain(self) -> None:
        """Whatever happened before, all messages end once the faults do."""
        self.world.broker.is_away = False
        pauses.resume(Pause.objects.all(), using="default")
        for _ in range(MOST_TURNS):
            self.turn()
            rows = self.check()
            left = self.model.committed - {n for n, row in rows.items() if row.status in FINISHED}
            if not left:
                return
            if self.holds:
                self.retry_all_dead()
            self.world.pass_time(35.0)
        raise AssertionError(f"still not finished after {MOST_TURNS} turns: {[rows.get(n, n) for n in sorted(left)]}")

    def retry_all_dead(self) -> None:
        for model in (OutboxMessage, InboxMessage):
            for row in model.objects.filter(status="dead"):
                self.known(row).revive()
                self.known(row).plan.clear()
            retry(model.objects.all(), using="default")
