"""Relay and consumer, as real commands, with a broker that demands TLS, logins and permissions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from django_outbox.brokers.kafka import KafkaBroker
from django_outbox.conf import BrokerSettings
from django_outbox.models import OutboxMessage, Worker
from tests.support.brokers.records import allow, make_topic
from tests.support.processes import Command, wait_until
from tests.support.servers.certificates import KEY_PASSWORD
from tests.support.servers.secured_kafka import PLAIN, SCRAM, SECRETS, Login, SecuredKafka

pytestmark = pytest.mark.brokers("apache")

Start = Callable[..., Command]
BACKENDS = {
    "kafka": "django_outbox.brokers.kafka.KafkaBroker",
    "confluent": "django_outbox.brokers.confluent.ConfluentBroker",
}
WRONG = Login(PLAIN.user, "wr0ng:p@ss/word")
SHOWN_TO_NOBODY = [*SECRETS, WRONG.password, WRONG.userinfo.rstrip("@"), KEY_PASSWORD]
ADMIN = ("django_outbox_overview_changelist", "django_outbox_outboxmessage_changelist")


@pytest.fixture
def kafka_url(secured_kafka: SecuredKafka) -> str:
    return secured_kafka.url


@pytest.fixture(params=BACKENDS)
def start(request: pytest.FixtureRequest, manage: Start) -> Start:
    """Start a command that uses one of the client libraries and a URL."""

    def start(name: str, *arguments: object, url: str) -> Command:
        return manage(name, *arguments, env={"OUTBOX_BACKEND": BACKENDS[request.param], "KAFKA_URL": url})

    return start


@pytest.fixture
def operator(secured_kafka: SecuredKafka, topic: str) -> KafkaBroker:
    """Who may do all; the topic exists."""
    broker = KafkaBroker(BrokerSettings(url=secured_kafka.url))
    make_topic(broker, topic, partitions=1)
    return broker


def test_a_message_goes_from_its_transaction_to_its_handler_by_every_scheme(
    send: Any, start: Start, effects: Any, secured_kafka: SecuredKafka, operator: KafkaBroker, topic: str
) -> None:
    certificates = secured_kafka.certificates
    mine = certificates.client
    key = f"ssl_certfile={mine.certificate}&ssl_keyfile={mine.locked_key}&ssl_password={KEY_PASSWORD}"
    urls = {
        "kafka": f"kafka://{secured_kafka.address('PLAINTEXT')}",
        "kafka+ssl": f"kafka+ssl://{secured_kafka.address('MUTUAL')}?ssl_cafile={mine.authority}&{key}",
        "kafka+sasl": f"kafka+sasl://{PLAIN.userinfo}{secured_kafka.address('LOGIN')}",
        "kafka+sasl+ssl": (
            f"kafka+sasl+ssl://{SCRAM.userinfo}{secured_kafka.address('SECURE')}"
            f"?ssl_cafile={mine.authority}&sasl_mechanism=SCRAM-SHA-512"
        ),
    }
    for name in (PLAIN.user, SCRAM.user, certificates.CLIENT):
        allow(operator, f"User:{name}", {topic: ["READ", "WRITE"]}, groups=[topic])

    for scheme, url in urls.items():
        send("test.effect", scheme)
        relay, consumer = start("outbox_relay", "--drain", url=url), start("outbox_consume", url=url)
        assert relay.wait() == 0
        wait_until(lambda scheme=scheme: f"test.effect {scheme}" in effects(), what=scheme)
        assert consumer.stop() == 0
        assert not any(secret in relay.output + consumer.output for secret in SHOWN_TO_NOBODY)
    assert effects() == [f"test.effect {scheme}" for scheme in urls]


def test_who_is_turned_away_says_so_once_counts_nothing_and_shows_no_secret(
    send: Any,
    start: Start,
    manage: Start,
    admin_client: Client,
    secured_kafka: SecuredKafka,
    operator: KafkaBroker,
    settings: Any,
) -> None:
    url = (
        f"kafka+sasl+ssl://{WRONG.userinfo}{secured_kafka.address('SECURE')}"
        f"?ssl_cafile={secured_kafka.certificates.server.authority}&ssl_password={KEY_PASSWORD}"
    )
    send("test.effect", 0)
    commands = [start("outbox_relay", "-v", 3, url=url), start("outbox_consume", "-v", 3, url=url)]
    for command in commands:
        # Or a reminder, if the first try came to nothing else than a time that was over.
        why = ".* refuses this client: .* Correct user and password in "
        command.wait_for_line(
            rf"The broker: {why}.* Trying again|The broker is still unavailable after \d+ s: {why}", timeout=90
        )
    workers = wait_until(lambda: len(Worker.objects.exclude(trouble="")) == 2 and list(Worker.objects.all()))
    status = manage("outbox_status", "--json", env={"KAFKA_URL": url})
    assert status.wait() == 0
    settings.OUTBOX = {**settings.OUTBOX, "BROKER": {"BACKEND": BACKENDS["kafka"], "URL": url}}
    pages = [admin_client.get(reverse(f"admin:{name}")) for name in ADMIN]

    message = OutboxMessage.objects.get()
    assert (message.status, message.publish_count, message.retry_count) == ("pending", 0, 0)
    assert json.loads(status.output)["outbox"]["pending"] == 1
    assert all("Correct user and password" in worker.trouble for worker in workers)
    for command in commands:
        assert command.stop() == 0
    shown = [command.output for command in (*commands, status)] + [page.content.decode() for page in pages]
    shown += [worker.trouble for worker in workers]
    for text in shown:
        assert not any(secret in text for secret in SHOWN_TO_NOBODY)


def test_missing_permissions_are_told_and_harm_nothing_and_once_given_all_goes_on(
    send: Any,
    start: Start,
    consumed: Any,
    secured_kafka: SecuredKafka,
    operator: KafkaBroker,
    topic: str,
) -> None:
    url = f"kafka+sasl://{SCRAM.userinfo}{secured_kafka.address('LOGIN')}?sasl_mechanism=SCRAM-SHA-512"
    me = f"User:{SCRAM.user}"
    send("test.effect", 0)
    relay = start("outbox_relay", url=url)
    relay.wait_for_line(rf"Topic {topic}: .* Let this client write to it, by an ACL for the operation Write")
    allow(operator, me, {topic: ["WRITE"]})
    wait_until(lambda: OutboxMessage.objects.get().status == "published")
    assert OutboxMessage.objects.get().retry_count == 0

    consumer = start("outbox_consume", url=url)
    consumer.wait_for_line(rf"Topic {topic}: .* Let this client read it, by an ACL for the operation Read")
    allow(operator, me, {topic: ["READ"]})
    consumer.wait_for_line(
        "The broker[:,].* refuses this client: .* by an ACL for the operation Read on the group", timeout=90
    )
    message = OutboxMessage.objects.get()
    assert (message.status, message.retry_count) == ("published", 0)
    allow(operator, me, {}, groups=[topic])

    consumed(1)
    assert OutboxMessage.objects.get().retry_count == 0
    for command in (relay, consumer):
        assert not any(secret in command.output for secret in SHOWN_TO_NOBODY)
