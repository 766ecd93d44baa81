"""Broker URLs: what they may say, and that a wrong one is refused without showing the password."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from kafka.cluster import collect_hosts

from django_outbox.brokers.url import parse_url

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("scheme", "login", "protocol"),
    [
        ("kafka", "", "PLAINTEXT"),
        ("kafka+ssl", "", "SSL"),
        ("kafka+sasl", "me:pw@", "SASL_PLAINTEXT"),
        ("kafka+sasl+ssl", "me:pw@", "SASL_SSL"),
    ],
)
def test_a_scheme_stands_for_a_protocol(scheme: str, login: str, protocol: str) -> None:
    url = parse_url(f"{scheme}://{login}broker:9093")
    assert url.protocol == protocol
    assert (url.username, url.password) == (("me", "pw") if login else (None, None))
    assert url.location == f"{scheme}://broker:9093"


@pytest.mark.parametrize(
    ("hosts", "read"),
    [
        ("broker", ("broker:9092",)),
        ("broker:19092", ("broker:19092",)),
        ("10.1.2.3", ("10.1.2.3:9092",)),
        ("a,b:1,c.example.com:65535", ("a:9092", "b:1", "c.example.com:65535")),
        ("[::1]", ("[::1]:9092",)),
        ("[2001:db8::1]:9093,[::ffff:10.0.0.1]", ("[2001:db8::1]:9093", "[::ffff:10.0.0.1]:9092")),
        ("broker/", ("broker:9092",)),
    ],
)
def test_hosts_come_with_and_without_port(hosts: str, read: tuple[str, ...]) -> None:
    assert parse_url(f"kafka://{hosts}").hosts == read


def test_hosts_are_what_the_client_understands() -> None:
    hosts = parse_url("kafka://broker,[2001:db8::1]:9093").hosts
    assert {(host, port) for host, port, _ in collect_hosts(list(hosts))} == {("broker", 9092), ("2001:db8::1", 9093)}


@pytest.mark.parametrize(
    ("login", "username", "password"),
    [
        ("user:pass", "user", "pass"),
        ("us%40er:p%40ss", "us@er", "p@ss"),
        ("us%3Aer:pa%3Ass", "us:er", "pa:ss"),
        ("user:p%2Fa%3Fs%23s", "user", "p/a?s#s"),
        ("user:100%25%2520", "user", "100%%20"),
        ("user:a:b", "user", "a:b"),
        ("user:a+b", "user", "a+b"),
        ("%C3%BCser:%E9%8D%B5", "üser", "鍵"),
    ],
)
def test_user_and_password_are_percent_decoded(login: str, username: str, password: str) -> None:
    url = parse_url(f"kafka+sasl+ssl://{login}@broker,other:9093")
    assert (url.username, url.password) == (username, password)
    assert url.location == "kafka+sasl+ssl://broker:9092,other:9093"


def test_the_query_holds_options() -> None:
    url = parse_url("kafka://broker?linger_ms=5&ssl_cafile=/etc/ca%20s.pem&sasl_mechanism=SCRAM-SHA-512&client_id=")
    assert url.options == {
        "linger_ms": "5",
        "ssl_cafile": "/etc/ca s.pem",
        "sasl_mechanism": "SCRAM-SHA-512",
        "client_id": "",
    }
    assert parse_url("kafka://broker").options == parse_url("kafka://broker/?").options == {}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must look like"),
        ("broker:9092", "must look like"),
        ("kafka:/broker", "must look like"),
        ("kafka:broker:9092", "must look like"),
        ("kafka://broker/topic", "must look like"),
        ("kafka://broker#fragment", "must look like"),
        ("kafka://broker:9092\n", "host 1 is not"),
        ("kafak://broker", "the scheme 'kafak' is not one of kafka://, kafka+ssl://, kafka+sasl://, kafka+sasl+ssl://"),
        ("KAFKA://broker", "the scheme 'KAFKA' is not one of"),
        ("://broker", "the scheme '' is not one of"),
        ("http://broker", "the scheme 'http' is not one of"),
        ("kafka://", "host 1 is not"),
        ("kafka://:9092", "host 1 is not"),
        ("kafka://broker:", "host 1 is not"),
        ("kafka://broker:0", "its port is not a number from 1 to 65535"),
        ("kafka://broker:99999", "its port is not a number from 1 to 65535"),
        ("kafka://broker:abc", "its port is not a number from 1 to 65535"),
        ("kafka://broker:-1", "host 1 is not"),
        ("kafka://broker:9092:9093", "host 1 is not"),
        ("kafka://a,,b", "host 2 is not"),
        ("kafka://a,b,", "host 3 is not"),
        ("kafka://a, b", "host 2 is not"),
        ("kafka://2001:db8::1", "host 1 is not"),
        ("kafka://[::1", "host 1 is not"),
        ("kafka://[broker]", "host 1 is not"),
        (f"kafka://me:{SECRET}@broker", "a user and a password need kafka+sasl://"),
        (f"kafka+ssl://me:{SECRET}@broker", "a user and a password need kafka+sasl://"),
        ("kafka://@broker", "a user and a password need kafka+sasl://"),
        ("kafka+sasl://broker", "needs a user and a password before the host"),
        ("kafka+sasl+ssl://broker", "needs a user and a password before the host"),
        ("kafka+sasl://me@broker", "needs a user and a password before the host"),
        ("kafka+sasl://me:@broker", "needs a user and a password before the host"),
        (f"kafka+sasl://:{SECRET}@broker", "needs a user and a password before the host"),
        (f"kafka+sasl://me:{SECRET}", "needs a user and a password before the host"),
        (f"kafka://me:{SECRET}", "host 1 is not"),
        (f"kafka+sasl://me:{SECRET}@", "host 1 is not"),
        (f"kafka+sasl://me:{SECRET}@broker@other", "percent-encoded"),
        (f"kafka+sasl://me:p@{SECRET}@broker", "percent-encoded"),
        (f"kafka+sasl://me:p/{SECRET}@broker", "percent-encoded"),
        (f"kafka+sasl://me:p?{SECRET}@broker", "needs a user and a password before the host"),
        (f"kafka+sasl://me:p#{SECRET}@broker", "percent-encoded"),
        (f"kafka+sasl://me:%ff{SECRET}@broker", "must be percent-encoded UTF-8"),
        (f"kafka+sasl://me:{SECRET}@broker:99999", "its port is not a number from 1 to 65535"),
        (f"kafak+sasl://me:{SECRET}@broker", "the scheme 'kafak+sasl' is not one of"),
        ("kafka://broker?broken", "its options must look like ?name=value&other=value"),
        ("kafka://broker?a=1&&b=2", "its options must look like ?name=value&other=value"),
        (f"kafka+sasl://me:{SECRET}@broker?broken", "its options must look like"),
        (f"kafka://broker?ssl_password={SECRET}&broken", "its options must look like"),
    ],
)
def test_a_wrong_url_is_refused_with_its_reason_and_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        parse_url(url)
    text = str(raised.value)
    assert text.startswith('OUTBOX["BROKER"]["URL"] is not a broker URL: ')
    assert reason in text
    assert SECRET not in text
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_password_is_not_shown() -> None:
    url = parse_url(f"kafka+sasl://me:{SECRET}@broker?ssl_password={SECRET}&ssl_keyfile={SECRET}")
    assert url.password == SECRET
    assert SECRET not in repr(url) + str(url) + f"{url}" + url.location
    assert "me" not in url.location
