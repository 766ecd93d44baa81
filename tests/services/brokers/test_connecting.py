"""Connecting, and failing to: nothing here needs a broker."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_outbox.brokers import diagnosis
from django_outbox.brokers.base import Broker
from django_outbox.brokers.calls import CONNECT_SECONDS
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.backends import CONNECTING, Backend, confluent_broker, connecting, kafka_broker
from tests.support.brokers.leaks import count_sockets, python_sockets, wait_until_closed
from tests.support.brokers.records import SECONDS, SLACK_SECONDS, seconds_until
from tests.support.brokers.scripted import ScriptedBroker
from tests.support.brokers.servers import PASSWORD, USER
from tests.support.processes import ROOT, stopwatch, wait_until
from tests.support.servers.process import free_port


def test_a_question_that_meets_the_one_broker_that_is_away_is_asked_again(backend: Backend) -> None:
    with ScriptedBroker() as cluster:
        cluster.away = [free_port(), free_port()]
        hosts = ",".join(f"127.0.0.1:{port}" for port in [*cluster.away, cluster.port])
        for _ in range(5):  # by chance the first may be the one that answers
            assert backend.make(f"kafka://{hosts}").missing_topics(["topic"]) == {"topic"}


def test_an_error_names_the_broker_that_is_away_and_not_those_that_answer(backend: Backend) -> None:
    with ScriptedBroker() as cluster:
        cluster.knows_topics = False
        cluster.away = [free_port()]
        hosts = [f"127.0.0.1:{port}" for port in [*cluster.away, cluster.port]]
        broker = backend.make(f"kafka://{','.join(hosts)}")
        with pytest.raises(BrokerUnavailable) as raised:
            broker.missing_topics(["topic"])
    assert f"{hosts[0]} cannot be reached (" in str(raised.value)
    assert str(raised.value).endswith(f"of {broker.location}, {hosts[1]} can.")


def test_a_broker_that_cannot_be_reached_is_reported_within_seconds(backend: Backend) -> None:
    def try_it(broker: Broker, connect: Callable[[Broker], object]) -> None:
        seconds, text = seconds_until(BrokerUnavailable, lambda: connect(broker))
        assert seconds < CONNECT_SECONDS + diagnosis.SECONDS + SLACK_SECONDS
        assert text.startswith(f"{broker.location} cannot be reached (")
        assert text.endswith('): is it running, and is OUTBOX["BROKER"]["URL"] right?')
        assert "\n" not in text

    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(4 * len(CONNECTING)) as pool:
        port = silent.getsockname()[1]
        urls = [
            f"kafka://127.0.0.1:{free_port()}",  # nothing listens
            f"kafka://127.0.0.1:{port}",  # nothing answers
            f"kafka+ssl://127.0.0.1:{port}",
            "kafka://no-such-host.invalid",
        ]
        brokers = [backend.make(url) for url in urls]
        for done in [pool.submit(try_it, *pair) for pair in itertools.product(brokers, CONNECTING.values())]:
            done.result()


# kafka-python


def test_the_reason_of_a_failed_connection_is_told() -> None:
    broker = kafka_broker(f"kafka://127.0.0.1:{free_port()}", options={"bootstrap_timeout_ms": 300})
    with pytest.raises(BrokerUnavailable, match="REFUSED"):
        broker.producer(SECONDS)


@connecting
def test_a_server_that_hangs_in_the_tls_handshake_is_reported(connect: Callable[[Broker], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"kafka+ssl://127.0.0.1:{listener.getsockname()[1]}"
        broker = kafka_broker(url, options={"bootstrap_timeout_ms": 200})
        with stopwatch() as seconds:
            _, text = seconds_until(BrokerUnavailable, lambda: connect(broker))
            assert seconds() < CONNECT_SECONDS
    assert "no answer" in text


@connecting
def test_failed_connects_leave_neither_threads_nor_sockets_behind(connect: Callable[[Broker], object]) -> None:
    broker = kafka_broker(f"kafka://127.0.0.1:{free_port()}", options={"bootstrap_timeout_ms": 20})
    threads, sockets = set(threading.enumerate()), python_sockets()
    for _ in range(10):
        with pytest.raises(BrokerUnavailable):
            connect(broker)
    wait_until_closed(threads, sockets)


def test_a_failed_connect_touches_no_sockets_of_others() -> None:
    def fail(ours: socket.socket) -> None:
        raise OSError

    broker = kafka_broker(f"kafka://127.0.0.1:{free_port()}", options={"bootstrap_timeout_ms": 20})
    with socket.socket() as ours:
        try:
            fail(ours)
        except OSError:
            with pytest.raises(BrokerUnavailable):
                broker.producer(SECONDS)
        assert ours.fileno() != -1


# confluent-kafka


def test_a_refused_connection_is_told_before_a_user_loses_patience() -> None:
    broker = confluent_broker(f"kafka://127.0.0.1:{free_port()}")
    with stopwatch() as seconds:
        _, text = seconds_until(BrokerUnavailable, lambda: broker.producer(SECONDS))
        assert seconds() < CONNECT_SECONDS
    assert "Connection refused" in text
    assert "after" not in text  # a text with a time in it is another one each time


@connecting
def test_failed_connects_leave_no_sockets_behind(connect: Callable[[Broker], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"kafka+sasl://{USER}:{PASSWORD}@127.0.0.1:{listener.getsockname()[1]}"
        broker = confluent_broker(f"{url}?sasl_mechanism=PLAIN")
        before = count_sockets()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(seconds_until, BrokerUnavailable, lambda: connect(broker))
            client, _ = listener.accept()
            with client:
                done.result()
        # A client that takes long to close is not waited for.
        wait_until(lambda: count_sockets() <= before, what="all sockets are closed")


@pytest.mark.parametrize("way", CONNECTING)
def test_a_broker_that_is_about_to_stop_ends_no_process(way: str) -> None:
    code = (
        "import contextlib, sys; from django_outbox.exceptions import BrokerError\n"
        "from tests.support.brokers.backends import CONNECTING, confluent_broker\n"
        "with contextlib.suppress(BrokerError): CONNECTING[sys.argv[1]](confluent_broker(sys.argv[2]))\n"
        "print('goes on')"
    )
    with ScriptedBroker() as broker:
        broker.is_complete_for = 1
        child = subprocess.run(
            [sys.executable, "-c", code, way, broker.url], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert broker.asked.total() > 1
    assert child.stdout == "goes on\n", child.stderr
