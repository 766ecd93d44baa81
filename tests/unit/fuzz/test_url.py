"""Broker URLs: each is taken apart into what it was made of, or refused without a word of its login."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from django.core.exceptions import ImproperlyConfigured
from hypothesis import example, given
from hypothesis import strategies as st

from django_outbox.brokers.url import PROTOCOLS, BrokerURL, parse_url
from tests.support.properties import any_text, examples

SECRET = "s3cret-and-no-word"
PIECES = ["kafka", "+sasl", "+ssl", "://", ":", "@", "/", "?", "#", "%", "&", "=", ",", "[", "]", "::1", "9092", "host"]

storable = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
names = st.from_regex(r"[a-z0-9.-]{1,12}", fullmatch=True) | st.sampled_from(["[::1]", "[2001:db8::5]"])
hosts = st.lists(st.tuples(names, st.integers(1, 65535)), min_size=1, max_size=4)
options = st.dictionaries(storable, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=4)


def parsed(url: str) -> BrokerURL | None:
    """What a URL is read as; None if it is refused, which must say nothing of a login."""
    try:
        found = parse_url(url)
    except ImproperlyConfigured as error:
        assert str(error).startswith('OUTBOX["BROKER"]["URL"] is not a broker URL: ')
        assert SECRET not in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
        return None
    assert SECRET not in repr(found) or any(SECRET in host for host in found.hosts)
    return found


@examples(150)
@given(url=any_text | st.lists(st.sampled_from(PIECES) | any_text, max_size=12).map("".join))
def test_any_text_is_a_broker_url_or_refused(url: str) -> None:
    found = parsed(url)
    assert found is None or (found.hosts and found.protocol in PROTOCOLS.values())


@examples(150)
@given(scheme=st.sampled_from(list(PROTOCOLS)), hosts=hosts, user=storable, password=storable, options=options)
def test_a_url_is_read_as_what_it_was_made_of(
    scheme: str, hosts: list[tuple[str, int]], user: str, password: str, options: dict[str, str]
) -> None:
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if "sasl" in scheme else ""
    addresses = [f"{host}:{port}" for host, port in hosts]
    url = parse_url(f"{scheme}://{login}{','.join(addresses)}" + (f"?{urlencode(options)}" if options else ""))
    assert url.hosts == tuple(addresses)
    assert url.protocol == PROTOCOLS[scheme]
    assert (url.username, url.password) == ((user, password) if login else (None, None))
    assert url.options == options
    assert url.location == f"{scheme}://{','.join(addresses)}"


@examples(300)
@given(
    before=st.lists(st.sampled_from(PIECES) | any_text, max_size=8), after=st.lists(st.sampled_from(PIECES), max_size=8)
)
@example(before=[], after=["@", "kafka", "://", "host"])
@example(before=["kafka", "+sasl", "://", "me", ":"], after=["@", "host", ":", "99999"])
def test_wherever_a_password_ends_up_in_a_url_it_is_not_shown(before: list[str], after: list[str]) -> None:
    parsed("".join([*before, SECRET, *after]))


@examples(60)
@given(url=st.lists(st.sampled_from(PIECES) | any_text, max_size=12).map("".join), rest=st.data())
def test_no_more_than_a_url_decides_over_a_broker(url: str, rest: Any) -> None:
    from tests.support.brokers.backends import confluent_broker, kafka_broker

    if parsed(url) is None:
        return
    for make in (kafka_broker, confluent_broker):
        try:
            broker = make(url)
        except ImproperlyConfigured as error:
            assert SECRET not in str(error)
        else:
            assert broker.location.startswith("kafka")
