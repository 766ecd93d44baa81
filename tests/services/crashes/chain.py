"""One chain of processes around one kill: prepare, run and kill the victim, start new ones, check what they leave."""

from __future__ import annotations

import signal
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import connection, transaction

from django_outbox.models import InboxMessage, MessageFailure, OutboxMessage, Pause, Worker
from django_outbox.models.fields import DatabaseNow
from tests.services.crashes.preparing import NO_PARTITION, own_period
from tests.services.crashes.table import LOOK
from tests.support.app.models import Effect
from tests.support.watched.processes import SECONDS, Watched, Zygote

if TYPE_CHECKING:
    from tests.services.crashes.scenarios import Scenario

LOOK_SECONDS = 0.2
HOUR = 3600.0
RELAY = ("outbox_relay", "--create-topics", "--partitions", 2)
CONSUMER = ("outbox_consume",)
STARTED = " started."
# Nothing depends on how fast the machine is: what processes do after a while, they do in the scenarios that are about it.
CONSTANTS: dict[str, Any] = {
    "django_outbox.worker.heartbeat:period_of": own_period,
    "django_outbox.worker.heartbeat:JOIN_SECONDS": SECONDS,
    "django_outbox.consumer.engine:TIME_BUDGET_SECONDS": HOUR,
    "django_outbox.consumer.consumer:INBOX_SECONDS": 0.0,
    "django_outbox.consumer.reconciler:INTERVAL_SECONDS": HOUR,
    "django_outbox.relay.growth:LOCK_SECONDS": HOUR,
    "django_outbox.relay.topics:CHECK_SECONDS": HOUR,
}
Kill = tuple[str, str]


class Chain:
    """Source, topic and consumer group of its own, so that chains may run side by side in one database."""

    def __init__(self, scenario: Scenario, zygote: Zygote, kafka_url: str) -> None:
        self.name = f"c{uuid.uuid4().hex[:12]}"
        self._scenario = scenario
        self._zygote = zygote
        self._outbox = {
            "SOURCE": self.name,
            "TOPIC": self.name,
            "CONSUMER_GROUP": self.name,
            "BROKER": {"URL": kafka_url},
            "PUBLISH_TIMEOUT": SECONDS,
            **{key: value(self.name) if callable(value) else value for key, value in scenario.outbox.items()},
        }
        self._processes: list[Watched] = []
        self._beside: list[Watched] = []
        self._victim: Watched | None = None

    # Processes

    def _start(self, *work: Any, kill: Kill | None = None, constants: Mapping[str, Any] | None = None) -> Watched:
        arguments = [each.format(chain=self.name) if isinstance(each, str) else each for each in work]
        process = self._zygote.start(
            *arguments,
            label=f"{self.name}/{len(self._processes)}",
            outbox=self._outbox,
            constants={**CONSTANTS, **self._scenario.constants, **(constants or {})},
            kill=kill,
        )
        self._processes.append(process)
        return process

    def prepare(self) -> None:
        function, *arguments = self._scenario.prepare
        process = self._start(f"{function.__module__}.{function.__name__}", *arguments)
        assert process.wait() == 0, f"preparing failed: {process}"

    def run_victim(self, kill: Kill | None = None) -> Watched:
        """Run the watched process until it ends: by itself or by SIGTERM once all is done, or at the given step."""
        if self._scenario.beside:
            self._beside = [self._start(*RELAY)]
        victim = self._start(*self._scenario.victim, kill=kill, constants=self._scenario.victim_constants)
        self._victim = victim
        until = self._scenario.until or (None if self._scenario.drains else Chain.is_settled)
        stopped = False
        deadline = time.monotonic() + SECONDS
        while not victim.ends_within(LOOK_SECONDS):
            assert time.monotonic() < deadline, f"not within {SECONDS:g} s: the end of {victim}"
            self._scenario.meanwhile(self)
            if not stopped and until is not None and until(self):
                victim.send_signal(signal.SIGTERM)
                stopped = True
        return victim

    def recover(self) -> None:
        """Start new processes until everything is as it must end, and a consumer has read all that was sent."""
        self._let_victim_be_forgotten()
        relay = self._beside or [self._start(*RELAY)]
        topics = ("--topics", *self._scenario.topics) if self._scenario.topics else ()
        consumer = self._start(*CONSUMER, "--drain", *topics)
        deadline = time.monotonic() + SECONDS
        while not (consumer.has_ended and consumer.wait() == 0 and self.is_settled()):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"not within {SECONDS:g} s: {self._scenario.messages}; now {self.statuses()}, inbox "
                    f"{dict(self.inbox())}\n{consumer}\n{relay[0]}"
                )
            self._scenario.meanwhile(self)
            self._pass_time()
            if consumer.ends_within(LOOK_SECONDS) and not (consumer.wait() == 0 and self.is_settled()):
                consumer = self._start(*CONSUMER, "--drain", *topics)
        while STARTED not in relay[0].output:  # before, a signal would end it at once
            assert time.monotonic() < deadline, f"not within {SECONDS:g} s: the start of {relay[0]}"
            time.sleep(LOOK_SECONDS)
        relay[0].send_signal(signal.SIGTERM)
        assert relay[0].wait() == 0, f"the new relay failed: {relay[0]}"

    def close(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            with suppress(AssertionError):
                process.wait()

    # What time brings

    def _pass_time(self) -> None:
        """Make due what waits, and half-open what the circuit breaker has paused."""
        Pause.objects.filter(group=self.name, until__gt=DatabaseNow()).update(until=DatabaseNow())
        for messages in (self._own, self._stored):
            later = messages.filter(status="pending", next_retry_at__gt=DatabaseNow())
            if not later.exists():
                continue
            with transaction.atomic():
                ids = list(later.select_for_update(skip_locked=True).values_list("id", flat=True))
                messages.filter(id__in=ids, status="pending").update(next_retry_at=DatabaseNow())

    def _let_victim_be_forgotten(self) -> None:
        """As if it had been silent for minutes: meanwhile, others leave a part of the work to it."""
        Worker.objects.filter(source=self.name).update(last_seen_at=DatabaseNow() - timedelta(minutes=5))

    def resume(self) -> None:
        """End the pause once messages wait for it."""
        if self._waiting():
            Pause.objects.filter(group=self.name).delete()

    def pass_time(self) -> None:
        """The same for the circuit breaker's, once all messages that are left wait for it."""
        if self._waiting() == self._own.exclude(status="consumed").count():
            self._pass_time()

    def send_what_is_elsewhere(self) -> None:
        """Let the relay send it again, once the victim has looked after what waits for it, or has died."""
        victim = self._victim
        assert victim is not None
        if victim.has_ended or ("after", LOOK) in victim.steps:
            elsewhere = self._own.filter(status="published", partition=NO_PARTITION)
            elsewhere.update(status="pending", next_retry_at=DatabaseNow())

    def _waiting(self) -> int:
        """How many messages wait for more than a retry."""
        later = DatabaseNow() + timedelta(seconds=30)
        return sum(rows.filter(status="pending", next_retry_at__gt=later).count() for rows in (self._own, self._stored))

    # The database

    @property
    def _own(self) -> Any:
        return OutboxMessage.objects.filter(source=self.name)

    @property
    def _stored(self) -> Any:
        return InboxMessage.objects.filter(group=self.name)

    def statuses(self) -> dict[str, str]:
        """The status of each message of the outbox by its name."""
        return {_name(*row): row[-1] for row in self._own.values_list("topic", "payload", "status")}

    def inbox(self) -> Counter[str]:
        return Counter(self._stored.values_list("status", flat=True))

    def pauses(self) -> int:
        return Pause.objects.filter(group=self.name).count()

    def is_settled(self) -> bool:
        """True if each message has ended as it must."""
        return self.statuses() == self._scenario.messages and self.inbox() == self._scenario.inbox

    def check(self) -> None:
        """Check the invariants, once all processes have ended."""
        assert self.is_settled(), (self.statuses(), self.inbox())
        self._check_effects()
        self._check_failures()
        self._check_locks()

    def _check_effects(self) -> None:
        """Each event that was handled has had its effect once, those of a key in their order; no other has had any."""
        ids = [str(id) for id in self._own.values_list("event_id", flat=True)]
        mine = Effect.objects.filter(event_id__in=ids) | Effect.objects.filter(event_id__startswith=f"{self.name}/")
        done = list(mine.order_by("id").values_list("name", flat=True))
        consumed = [name for name, status in self._scenario.messages.items() if status == "consumed"]
        expected = consumed if self._scenario.effects is None else self._scenario.effects
        assert sorted(done) == sorted(expected), f"effects: {done}"
        for key in {name[0] for name in done}:
            of_key = [name for name in done if name[0] == key]
            assert of_key == sorted(of_key), f"order: {done}"

    def _check_failures(self) -> None:
        """Counts and failures were stored together: each failure is counted, and each count has its failure."""
        for messages, name in ((self._own, "message"), (self._stored, "inbox_message")):
            for id, count, status in messages.values_list("id", "retry_count", "status"):
                failures = MessageFailure.objects.filter(**{name: id})
                assert failures.filter(final=False).count() == count, f"failures of {id}"
                assert failures.filter(final=True).count() == (status == "dead"), f"final failures of {id}"

    def _check_locks(self) -> None:
        """No process has left a session behind, and no row is locked."""
        deadline = time.monotonic() + SECONDS
        while sessions := self._sessions():
            assert time.monotonic() < deadline, f"not within {SECONDS:g} s: the end of {sessions}"
            time.sleep(LOOK_SECONDS)
        for messages in (self._own, self._stored):
            with transaction.atomic():
                locked = messages.order_by("id").select_for_update(nowait=True)
                assert len(locked) == messages.count()

    def _sessions(self) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT application_name || ': ' || state || ': ' || left(query, 60) FROM pg_stat_activity "
                "WHERE application_name LIKE %s",
                [f"{self.name}/%"],
            )
            return [text for (text,) in cursor.fetchall()]


def _name(topic: str, payload: Any, status: str) -> str:
    if not topic.endswith("-dead"):
        return str(payload)
    return f"copy of {payload if isinstance(payload, str) else 'unreadable'}"


def run(scenario: Scenario, zygote: Zygote, kafka_url: str, kill: Kill | None = None) -> Watched:
    """Run a chain and check how it ends. Returns the victim."""
    chain = Chain(scenario, zygote, kafka_url)
    try:
        chain.prepare()
        victim = chain.run_victim(kill)
        ending = victim.wait()
        if kill is None:
            assert ending == 0, f"the watched process failed: {victim}"
        else:
            assert ending == -signal.SIGKILL, f"it was not killed: {victim}"
            assert victim.steps[-1] == kill
        chain.recover()
        chain.check()
        return victim
    finally:
        chain.close()
