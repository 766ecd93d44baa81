"""The samples for other languages, as the page prints them, on a real broker."""

from __future__ import annotations

import json
import signal
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from django_outbox import TOMBSTONE, RawBytes
from django_outbox.brokers.base import Record
from django_outbox.brokers.loading import get_broker
from django_outbox.conf import settings as outbox
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.state.transitions import requeue
from tests.services.languages.samples import PAGE, READERS, SENDER, Sample
from tests.support.examples import example_of_page
from tests.support.processes import Command, Program, wait_until

DATABASE = "stock.sqlite3"
SKUS = ("tent", "stove", "rope")
# What a shell would report of Java: 128 and the number of the signal.
ENDINGS = {"Stock.java": 128 + signal.SIGTERM}


@dataclass
class Reader:
    """A sample that reads the test's topic into a database of its own."""

    sample: Sample
    folder: Path
    address: str
    topic: str
    database: sqlite3.Connection
    programs: list[Program] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"{self.topic}-stock"

    def start(self) -> Program:
        program = self.sample.start(self.folder, self.address, self.topic, self.group, DATABASE)
        self.programs.append(program)
        return program

    def movements(self) -> list[tuple[str, int]]:
        """What it has written, in that order."""
        return self.database.execute("SELECT sku, quantity FROM movements ORDER BY number").fetchall()

    def wait_for(self, count: int) -> None:
        """Wait until it has written that many movements."""

        def written() -> bool:
            self.assert_runs()
            return len(self.movements()) >= count

        wait_until(written, what=f"{count} movements")

    def wait_for_offsets(self, count: int) -> None:
        """Wait until its group has committed the offsets of that many records, which is all of them."""
        partitions = [TopicPartition(self.topic, n) for n in range(3)]
        with closing(Consumer({"bootstrap.servers": self.address, "group.id": self.group})) as consumer:

            def committed() -> bool:
                self.assert_runs()
                return sum(max(each.offset, 0) for each in consumer.committed(partitions, timeout=30)) == count

            wait_until(committed, what=f"{count} offsets committed")

    def assert_runs(self) -> None:
        program = self.programs[-1]
        assert program.returncode is None, f"{program.name} ended:\n{program.output}"

    def stop(self) -> None:
        """SIGTERM ends it, in the way that its language has."""
        assert self.programs[-1].stop() == ENDINGS.get(self.sample.file, 0)


@pytest.fixture(params=READERS, ids=lambda sample: sample.file)
def reader(request: Any, kafka_outbox: Mapping[str, Any], topic: str, tmp_path: Path) -> Iterator[Reader]:
    address = kafka_outbox["BROKER"]["URL"].removeprefix("kafka://")
    # Open to the end: a last connection that closes would lock the database for a moment.
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        database.executescript(example_of_page(PAGE, "stock.sql"))
        reader = Reader(request.param, tmp_path, address, topic, database)
        yield reader
        for program in reader.programs:
            program.close()
            print(f"--- {program.name} (exit code {program.returncode})\n{program.output}")


def send_again(ids: list[int]) -> None:
    """Let the relay send these messages once more, as after failures of a handler here."""
    for id in ids:
        assert requeue(OutboxMessage.objects.using("default").filter(id=id, status="published"), timedelta(0))


def test_each_event_takes_effect_once_and_in_order_when_the_reader_is_killed(
    reader: Reader, send: Any, relay: Callable[..., Command], counts: Any
) -> None:
    expected = [(SKUS[n % 3], n) for n in range(30)]
    relay("--batch-size", 3)

    def publish(events: list[tuple[str, int]]) -> list[int]:
        return [send("stock.moved", {"sku": sku, "quantity": n}, key=sku).id for sku, n in events]

    early = publish(expected[:3])
    wait_until(lambda: counts() == {"published": 3})
    killed = reader.start()
    reader.wait_for(1)
    early += publish(expected[3:15])
    reader.wait_for(6)
    killed.kill()
    late = publish(expected[15:])
    wait_until(lambda: counts() == {"published": 30})
    send_again(early[:9] + late[:3])
    reader.start()
    reader.wait_for_offsets(42)
    reader.stop()

    assert sorted(reader.movements()) == sorted(expected)
    for sku in SKUS:
        assert [each for each in reader.movements() if each[0] == sku] == [each for each in expected if each[0] == sku]


def test_other_records_are_skipped_and_the_source_is_part_of_the_identity(
    reader: Reader, send: Any, relay: Callable[..., Command]
) -> None:
    moved = send("stock.moved", {"sku": "tent", "quantity": 1}, key="tent")
    send("stock.counted", {"sku": "tent"}, key="tent")
    send("stock.counted", RawBytes(b"\xff\x00", content_type="image/png"), key="tent")
    send("stock.moved", TOMBSTONE, key="tent")
    assert relay("--drain").wait() == 0
    headers = {"ce_specversion": "1.0", "ce_type": "stock.moved", "ce_source": "elsewhere", "ce_id": moved.event_id}
    value = json.dumps({"sku": "tent", "quantity": 2}).encode()
    producer = get_broker(outbox.broker).producer(30)
    with closing(producer):
        of_another = tuple((name, str(text).encode()) for name, text in headers.items())
        producer.send([Record(reader.topic, b"tent", value, ()), Record(reader.topic, b"tent", value, of_another)], 30)

    reader.start()
    reader.wait_for_offsets(6)
    reader.stop()

    assert reader.movements() == [("tent", 1), ("tent", 2)]


def test_an_error_ends_the_reader_and_the_record_comes_again(
    reader: Reader, send: Any, relay: Callable[..., Command]
) -> None:
    send("stock.moved", {"sku": "tent", "quantity": 1}, key="tent")
    send("stock.moved", RawBytes(b'{"sku": "tent"}', content_type="application/json"), key="tent")
    send("stock.moved", {"sku": "tent", "quantity": 3}, key="tent")
    assert relay("--drain").wait() == 0

    endings = [reader.start().wait() for _ in range(2)]

    assert endings == [1, 1]
    assert reader.movements() == [("tent", 1)]
    assert all("quantity" in program.output for program in reader.programs)


def test_an_event_that_a_sample_sends_twice_is_handled_once(
    kafka_outbox: Mapping[str, Any], relay: Any, consumer: Any, effects: Any, topic: str, tmp_path: Path
) -> None:
    get_broker(outbox.broker).create_topics([topic], partitions=3, replication=1)
    address = kafka_outbox["BROKER"]["URL"].removeprefix("kafka://")
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    for id in (first, first, second):
        program = SENDER.start(tmp_path, address, topic, id)
        assert program.wait() == 0, program.output

    consumer()
    wait_until(lambda: InboxMessage.objects.filter(status="consumed").count() == 2, what="two events consumed")

    assert effects() == ["invoice.paid {'order': 7}"] * 2
    assert set(InboxMessage.objects.values_list("source", "event_id")) == {("billing", first), ("billing", second)}
