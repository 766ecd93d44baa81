"""TLS, logins and permissions, on an Apache Kafka that demands them: what comes in, and what is said to who may not."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers import diagnosis
from django_outbox.brokers.base import Broker, TopicForbidden
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.backends import CONNECTING, Backend
from tests.support.brokers.records import SECONDS, allow, make_topic, numbered, read, seconds_until, send
from tests.support.processes import wait_until
from tests.support.servers.certificates import KEY_PASSWORD
from tests.support.servers.secured_kafka import PLAIN, SCRAM, SECRETS, Login, SecuredKafka

pytestmark = pytest.mark.brokers("apache")

SCRAM_MECHANISM = "sasl_mechanism=SCRAM-SHA-512"
WRONG = Login(PLAIN.user, "wr0ng:p@ss/word")
SHOWN_TO_NOBODY = [*SECRETS, WRONG.password, WRONG.userinfo.rstrip("@"), KEY_PASSWORD]

# A client of kafka-python tries for five seconds whatever may be a broker that has not quite started.
SOON = {"kafka": {"bootstrap_timeout_ms": 3000}, "confluent": {}}


def options_of(kafka: SecuredKafka, *names: str) -> str:
    """The query that names these files."""
    mine, stranger = kafka.certificates.client, kafka.certificates.stranger
    named = {
        "ca": f"ssl_cafile={mine.authority}",
        "other ca": f"ssl_cafile={stranger.authority}",
        "no ca": "ssl_cafile=/nowhere/ca.pem",
        "key as ca": f"ssl_cafile={mine.key}",
        "mine": f"ssl_certfile={mine.certificate}&ssl_keyfile={mine.key}",
        "mine, locked": f"ssl_certfile={mine.certificate}&ssl_keyfile={mine.locked_key}&ssl_password={KEY_PASSWORD}",
        "mine, no password": f"ssl_certfile={mine.certificate}&ssl_keyfile={mine.locked_key}",
        "mine, wrong password": f"ssl_certfile={mine.certificate}&ssl_keyfile={mine.locked_key}&ssl_password={WRONG.password}",
        "mine, no key": f"ssl_certfile={mine.certificate}",
        "mine, another's key": f"ssl_certfile={mine.certificate}&ssl_keyfile={stranger.key}",
        "stranger's": f"ssl_certfile={stranger.certificate}&ssl_keyfile={stranger.key}",
    }
    return "&".join(named.get(name, name) for name in names)


def url_of(kafka: SecuredKafka, scheme: str, way: str, *names: str, login: Login | None = None) -> str:
    userinfo = login.userinfo if login else ""
    query = options_of(kafka, *names)
    return f"{scheme}://{userinfo}{kafka.address(way)}" + (f"?{query}" if query else "")


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All that is logged, at the lowest level; none of it may show a secret."""
    for name in ("kafka", "confluent_kafka", "django_outbox"):
        caplog.set_level(1, name)
    yield caplog
    for secret in SHOWN_TO_NOBODY:
        assert secret not in caplog.text


# Coming in

WAYS = {
    "kafka": ("PLAINTEXT", (), None),
    "kafka+ssl": ("TLS", ("ca",), None),
    "kafka+ssl, certificate": ("MUTUAL", ("ca", "mine"), None),
    "kafka+ssl, certificate with a password": ("MUTUAL", ("ca", "mine, locked"), None),
    "kafka+sasl, PLAIN": ("LOGIN", (), PLAIN),
    "kafka+sasl, SCRAM": ("LOGIN", (SCRAM_MECHANISM,), SCRAM),
    "kafka+sasl+ssl, PLAIN": ("SECURE", ("ca",), PLAIN),
    "kafka+sasl+ssl, SCRAM": ("SECURE", ("ca", SCRAM_MECHANISM), SCRAM),
}


def principals(kafka: SecuredKafka) -> list[str]:
    return [f"User:{name}" for name in (PLAIN.user, SCRAM.user, kafka.certificates.CLIENT)]


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.usefixtures("everything_logged")
def test_records_are_sent_and_read_by_every_way_in(
    backend: Backend, secured_kafka: SecuredKafka, topic: str, name: str
) -> None:
    admin = backend.make(secured_kafka.url)
    make_topic(admin, topic, partitions=1)
    for principal in principals(secured_kafka):
        allow(admin, principal, {topic: ["READ", "WRITE"]}, groups=[topic])
    way, options, login = WAYS[name]
    url = url_of(secured_kafka, name.partition(",")[0], way, *options, login=login)
    broker = backend.make(url, options={"debug": "all"} if backend.name == "confluent" else {})
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 3))
    producer.close()
    member = broker.subscribe([topic], topic)
    assert [record.value for record in read(member, 3)] == [b"0", b"1", b"2"]
    (progress,) = member.progress().values()
    assert progress.is_at_end
    member.close()
    shown = repr(broker) + repr(vars(broker)) + broker.location + repr(broker.settings)
    assert not any(secret in shown for secret in SHOWN_TO_NOBODY)


# Being turned away

TURNED_AWAY = {
    "authority that the system does not know": (
        ("kafka+ssl", "TLS"),
        None,
        r"is not signed by an authority trusted here: .*\?ssl_cafile=",
    ),
    "authority that is not the broker's": (
        ("kafka+ssl", "TLS", "other ca"),
        None,
        r"is not signed by an authority trusted here: .*\?ssl_cafile=",
    ),
    "name of another host": (("kafka+ssl", "MISNAMED", "ca"), None, "certificate for another host: use the"),
    "expired": (("kafka+ssl", "EXPIRED", "ca"), None, "certificate that is not valid now: renew it"),
    "no certificate of the client": (
        ("kafka+ssl", "MUTUAL", "ca"),
        None,
        r"requires client certificates: .*\?ssl_certfile=.*&ssl_keyfile=",
    ),
    "certificate of a stranger": (
        ("kafka+ssl", "MUTUAL", "ca", "stranger's"),
        None,
        "does not accept this client's certificate: it must not be expired",
    ),
    "wrong password, PLAIN": (("kafka+sasl", "LOGIN"), WRONG, "refuses this client: .* Correct user and password in"),
    "wrong password, SCRAM": (
        ("kafka+sasl", "LOGIN", SCRAM_MECHANISM),
        WRONG,
        "refuses this client: .* Correct user and password in",
    ),
    "wrong password, TLS": (("kafka+sasl+ssl", "SECURE", "ca"), WRONG, "refuses this client: .* Correct user and"),
    "mechanism that the broker does not know": (
        ("kafka+sasl", "LOGIN", "sasl_mechanism=SCRAM-SHA-256"),
        SCRAM,
        r"Name a mechanism .*\?sasl_mechanism=",
    ),
    "login where none is taken": (("kafka+sasl", "PLAINTEXT"), PLAIN, "does not accept logins: use kafka://"),
    "plain text where TLS is spoken": (
        ("kafka", "TLS"),
        None,
        r"uses TLS at this port: use kafka\+ssl:// or kafka\+sasl\+ssl://",
    ),
    "plain login where TLS is spoken": (("kafka+sasl", "SECURE"), PLAIN, r"uses TLS at this port: use"),
    "TLS where plain text is spoken": (
        ("kafka+ssl", "PLAINTEXT", "ca"),
        None,
        "does not use TLS at this port: use kafka://",
    ),
    "no login where one is demanded": (
        ("kafka", "LOGIN"),
        None,
        r"requires a login at this port: use kafka\+sasl://",
    ),
    "no login where one is demanded, TLS": (
        ("kafka+ssl", "SECURE", "ca"),
        None,
        r"requires a login at this port: use .* kafka\+sasl\+ssl://",
    ),
}


@pytest.fixture
def patient_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take its time; how long a question lasts is proven where nobody waits for a server."""
    for name, seconds in {"SECONDS": 60.0, "STEP_SECONDS": 20.0, "ALERT_SECONDS": 2.0}.items():
        monkeypatch.setattr(diagnosis, name, seconds)


@pytest.mark.parametrize("name", TURNED_AWAY)
@pytest.mark.usefixtures("everything_logged", "patient_diagnosis")
def test_who_is_turned_away_is_told_why_and_what_to_do(
    backend: Backend, secured_kafka: SecuredKafka, name: str
) -> None:
    (scheme, way, *options), login, sentence = TURNED_AWAY[name]
    broker = backend.make(url_of(secured_kafka, scheme, way, *options, login=login), options=SOON[backend.name])

    def complaint(connect: Callable[[Broker], object]) -> BrokerUnavailable:
        # On a busy machine the client's few seconds may pass before the server has answered: workers try again.
        deadline = time.monotonic() + 60
        while True:
            with pytest.raises(BrokerUnavailable) as raised:
                connect(broker)
            if re.search(sentence, str(raised.value)) or time.monotonic() > deadline:
                return raised.value

    with ThreadPoolExecutor() as pool:
        complaints = list(pool.map(complaint, CONNECTING.values()))
    for error in complaints:
        text = str(error)
        assert text.startswith(f"{scheme}://{secured_kafka.address(way)} ")
        assert re.search(sentence, text)
        shown = "".join(traceback.format_exception(error))
        assert not any(secret in shown for secret in SHOWN_TO_NOBODY)


FILES = {
    "no such file": (("no ca",), "file that ssl_cafile.* names cannot be read"),
    "no certificate in it": (
        ("key as ca",),
        "file that ssl_cafile.* names does not contain a certificate in PEM format",
    ),
    "encrypted, no password": (
        ("ca", "mine, no password"),
        "key in ssl_keyfile.* is encrypted, .*ssl_password.* missing",
    ),
    "encrypted, wrong password": (("ca", "mine, wrong password"), "key in ssl_keyfile.* is encrypted, .* is wrong"),
    "no key": (("ca", "mine, no key"), "file that ssl_keyfile.* names does not contain a key in PEM format"),
    "key of another": (("ca", "mine, another's key"), "key in ssl_keyfile.* does not belong to the certificate"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("everything_logged")
def test_a_file_that_cannot_be_used_is_a_wrong_setting_and_nobody_is_asked_for_a_password(
    backend: Backend, secured_kafka: SecuredKafka, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    options, sentence = FILES[name]
    broker = backend.make(url_of(secured_kafka, "kafka+ssl", "MUTUAL", *options))
    for connect in CONNECTING.values():
        with pytest.raises(ImproperlyConfigured, match=sentence) as raised:
            connect(broker)
        assert not any(secret in str(raised.value) for secret in SHOWN_TO_NOBODY)
    assert "pass phrase" not in "".join(capfd.readouterr())


# Having no permission


@pytest.fixture
def named(backend: Backend, secured_kafka: SecuredKafka) -> Broker:
    """A way in for who may do nothing yet."""
    login = Login(SCRAM.user, SCRAM.password)
    return backend.make(url_of(secured_kafka, "kafka+sasl", "LOGIN", SCRAM_MECHANISM, login=login))


def complaint_of(named: Broker, topic: str, group: str) -> tuple[float, str]:
    """What a member of a group complains of, and after how many seconds."""

    def use() -> None:
        member = named.subscribe([topic], group)
        try:
            wait_until(lambda: member.poll(0.3, 10) or member.progress() is None, 20, what="a complaint")
        finally:
            member.close()

    return seconds_until(BrokerUnavailable, use)


@pytest.mark.usefixtures("everything_logged")
def test_a_topic_that_may_not_be_written_to_is_named_as_forbidden(
    backend: Backend, secured_kafka: SecuredKafka, named: Broker, topic: str
) -> None:
    make_topic(backend.make(secured_kafka.url), topic, partitions=1)
    producer = named.producer(SECONDS)
    (outcome,) = producer.send(numbered(topic, 1), SECONDS)
    assert isinstance(outcome, TopicForbidden)
    producer.close()


@pytest.mark.usefixtures("everything_logged")
def test_a_topic_that_may_not_be_read_is_told_with_the_permission_that_is_missing(
    backend: Backend, secured_kafka: SecuredKafka, named: Broker, topic: str
) -> None:
    admin = backend.make(secured_kafka.url)
    make_topic(admin, topic, partitions=1)
    allow(admin, f"User:{SCRAM.user}", {topic: ["DESCRIBE"]}, groups=[topic])
    seconds, text = complaint_of(named, topic, topic)
    assert seconds < 20
    assert "refuses this client: " in text
    assert "by an ACL for the operation Read." in text
    assert not any(secret in text for secret in SHOWN_TO_NOBODY)


@pytest.mark.usefixtures("everything_logged")
def test_a_group_that_may_not_be_joined_is_told_with_the_permission_that_is_missing(
    backend: Backend, secured_kafka: SecuredKafka, named: Broker, topic: str
) -> None:
    admin = backend.make(secured_kafka.url)
    make_topic(admin, topic, partitions=1)
    allow(admin, f"User:{SCRAM.user}", {topic: ["READ"]})
    seconds, text = complaint_of(named, topic, f"{topic}-group")
    assert seconds < 20
    assert "refuses this client: " in text
    assert "by an ACL for the operation Read on the group." in text
    assert not any(secret in text for secret in SHOWN_TO_NOBODY)
