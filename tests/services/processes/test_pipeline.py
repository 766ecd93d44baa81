"""The whole way, through real commands, a real database and a real broker."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django_outbox.models import OutboxMessage
from tests.support.app.models import Effect
from tests.support.processes import Command, wait_until

Start = Callable[..., Command]


def test_what_is_published_reaches_its_handler(
    send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any
) -> None:
    relay()
    consumer()
    for number in range(20):
        send("test.effect", number, key=str(number % 3))

    consumed(20)

    assert Counter(effects()) == Counter(f"test.effect {n}" for n in range(20))


def test_a_failure_is_retried_and_keeps_the_order_of_its_key(
    send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any
) -> None:
    relay()
    consumer()
    send("test.fails_once", "first", key="a")
    send("test.effect", "second", key="a")
    send("test.effect", "other", key="b")

    consumed(3)

    assert effects()[-2:] == ["test.fails_once first", "test.effect second"]
    assert list(OutboxMessage.objects.order_by("id").values_list("retry_count", flat=True)) == [1, 0, 0]


def test_dead_letters_have_their_reason_and_can_be_retried(
    send: Any, relay: Start, consumer: Start, counts: Any, manage: Start
) -> None:
    relay()
    consumer()
    send("test.fails", max_retry=1)
    send("test.rejects")
    wait_until(lambda: counts() == {"dead": 2})
    reasons = [m.last_error for m in OutboxMessage.objects.order_by("id")]
    assert reasons[0].startswith("ArithmeticError: this never works\n")
    assert 'handlers.py", line ' in reasons[0]
    assert reasons[1] == "nobody wants it"

    assert manage("outbox_retry", "--all").wait() == 0

    wait_until(lambda: OutboxMessage.objects.filter(publish_count=2).count() == 2)
    wait_until(lambda: counts() == {"dead": 2})


def test_drain_does_all_that_can_be_done_now_and_ends(send: Any, relay: Start, consumer: Start, counts: Any) -> None:
    for number in range(50):
        send("test.effect", number)
    send("test.effect", "later", delay=3600)
    send("test.fails", max_retry=1)

    assert relay("--drain").wait() == 0
    assert counts() == {"published": 51, "pending": 1}
    assert consumer("--drain").wait() == 0

    assert counts() == {"consumed": 50, "pending": 1, "dead": 1}


def test_drain_of_an_empty_outbox_ends_at_once(relay: Start, consumer: Start) -> None:
    assert relay("--drain").wait() == 0
    assert consumer("--drain").wait() == 0


def test_a_consumer_finishes_the_message_in_hand(
    send: Any, relay: Start, consumer: Start, counts: Any, tmp_path: Path
) -> None:
    running = tmp_path / "running"
    relay()
    command = consumer()
    send("test.waits", str(running))
    wait_until(running.exists)

    command.send_signal(signal.SIGTERM)
    command.wait_for_line("SIGTERM received: finishing the work in hand")
    assert counts() == {"published": 1}
    running.unlink()

    assert command.wait() == 0
    assert counts() == {"consumed": 1}


def test_a_second_signal_ends_at_once(send: Any, relay: Start, consumer: Start, effects: Any, tmp_path: Path) -> None:
    running = tmp_path / "running"
    relay()
    command = consumer()
    send("test.waits", str(running))
    wait_until(running.exists)

    command.send_signal(signal.SIGTERM)
    command.wait_for_line("SIGTERM received")
    command.send_signal(signal.SIGTERM)

    assert command.wait() == -signal.SIGTERM
    wait_until(lambda: OutboxMessage.objects.get().status == "published")
    assert effects() == []


def test_a_missing_topic_is_named_with_the_way_out(send: Any, manage: Start, counts: Any) -> None:
    send("test.effect", topic="nowhere")

    command = manage("outbox_relay", "--drain")

    assert command.wait() == 1
    assert "nowhere: it does not exist" in command.output
    assert "--create-topics" in command.output.splitlines()[-1]
    assert "Traceback" not in command.output
    assert counts() == {"pending": 1}
    assert OutboxMessage.objects.get().retry_count == 0


def test_topics_are_created_with_as_many_partitions_as_told(send: Any, manage: Start, kafka_outbox: Any) -> None:
    send("test.effect")

    command = manage("outbox_relay", "--create-topics", "--partitions", 5, "--drain")

    assert command.wait() == 0
    from kafka import KafkaAdminClient

    client = KafkaAdminClient(bootstrap_servers=kafka_outbox["BROKER"]["URL"].removeprefix("kafka://"))
    (described,) = client.describe_topics([kafka_outbox["TOPIC"]])
    client.close()
    assert len(described["partitions"]) == 5


def test_several_relays_and_consumers_share_the_work(
    send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any
) -> None:
    for _ in range(2):
        relay("--batch-size", 5)
        consumer()
    for number in range(100):
        send("test.effect", number, key=str(number % 10))

    consumed(100)

    done = effects()
    assert len(done) == len(set(done)) == 100
    for key in range(10):
        of_key = [name for name in done if int(name.split()[1]) % 10 == key]
        assert of_key == sorted(of_key, key=lambda name: int(name.split()[1]))


def test_an_envelope_goes_the_whole_way(send: Any, relay: Start, consumer: Start, consumed: Any) -> None:
    env = {"OUTBOX_WIRE_FORMAT": "envelope"}
    relay(env=env)
    consumer(env=env)
    send("test.effect", {"a": "Zoë"}, key="k")

    consumed(1)

    assert Effect.objects.get().name == "test.effect {'a': 'Zoë'}"


def test_an_async_handler_gets_its_payload_as_the_type_that_it_names(
    send: Any, relay: Start, consumer: Start, counts: Any, effects: Any
) -> None:
    relay()
    consumer()
    send("test.typed", {"name": "tent", "weights": ["1.5", 2], "added_later": True})
    send("test.typed", {"name": "peg", "weights": [0.5, "s3cr3t"]}, max_retry=1)

    wait_until(lambda: counts() == {"consumed": 1, "dead": 1}, 60)

    assert effects() == ["tent 3.5"]
    assert OutboxMessage.objects.get(status="dead").last_error == (
        "django_outbox.exceptions.PayloadMismatch: The payload is not a valid Parcel: "
        "weights[1]: Input should be a valid decimal, found str\n\n"
        "Handler: tests.support.app.handlers.typed"
    )
