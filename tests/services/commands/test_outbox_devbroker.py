"""outbox_devbroker: a broker that Kafka's clients can use, and clear words where there can be none."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tests.support.processes import Command, wait_until
from tests.support.servers.kafka_protocol import broker_answers
from tests.support.servers.process import free_port

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
    broker.wait_for_line(rf"^Broker at kafka://127\.0\.0\.1:{port}, in memory\. Stop it with Ctrl-C\.$")
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
        f"CommandError: Cannot listen on 127.0.0.1:{taken_port} (Address already in use). If a broker is already running "
        "there, choose another port with --port."
    )
