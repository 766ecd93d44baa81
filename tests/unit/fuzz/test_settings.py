"""Settings: whatever a project writes is taken, or refused by a sentence that names the setting."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import example, given
from hypothesis import strategies as st

from django_outbox.brokers.loading import get_broker
from django_outbox.conf import BrokerSettings, OutboxSettings, settings
from django_outbox.operations.checks.settings import check_settings
from tests.support.brokers.backends import BACKENDS, Backend
from tests.support.overrides import outbox_settings
from tests.support.properties import any_text, any_values, examples

SECRET = "s3cret-and-no-word"
PROPERTIES = [key.lower() for key in OutboxSettings.KEYS]
OPTION_NAMES = [
    "linger_ms",
    "linger.ms",
    "ssl_cafile",
    "ssl.ca.location",
    "sasl_plain_password",
    "sasl.password",
    "acks",
]


@pytest.mark.parametrize("key", OutboxSettings.KEYS)
@examples(25)
@given(value=any_values)
def test_any_value_of_a_setting_is_taken_or_refused_by_name(key: str, value: Any) -> None:
    with outbox_settings(**{key: value}):
        try:
            getattr(settings, key.lower())
        except ImproperlyConfigured as error:
            assert f'OUTBOX["{key}' in str(error)


@pytest.mark.parametrize("key", OutboxSettings.KEYS)
def test_a_number_of_more_digits_than_python_writes_is_refused_by_name(key: str) -> None:
    with (
        outbox_settings(**{key: 10**5000}),
        pytest.raises(ImproperlyConfigured, match=rf'^OUTBOX\["{key}"\] must be .*'),
    ):
        getattr(settings, key.lower())


@examples(60)
@given(outbox=any_values | st.dictionaries(st.sampled_from(OutboxSettings.KEYS) | any_text, any_values, max_size=6))
def test_the_system_check_survives_any_settings(outbox: Any) -> None:
    with outbox_settings():
        from django.conf import settings as django_settings

        django_settings.OUTBOX = outbox
        for found in check_settings():
            assert found.id is not None
            assert found.hint


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@examples(40)
@given(options=st.dictionaries(st.sampled_from(OPTION_NAMES) | any_text, any_values | st.just(SECRET), max_size=3))
def test_any_option_of_a_client_is_taken_or_refused_without_its_value(
    backend: Backend, options: dict[str, Any]
) -> None:
    for key in ("options", "producer_options", "consumer_options"):
        try:
            broker = backend.make("kafka://localhost", **{key: options})
        except ImproperlyConfigured as error:
            assert f'OUTBOX["BROKER"]["{key.upper()}"]' in str(error)
            assert SECRET not in str(error)
        else:
            assert SECRET not in repr(broker.settings)


@examples(60)
@given(backend=any_text, url=any_text)
@example(backend=".", url="")
@example(backend="..x", url="")
def test_any_backend_and_url_make_a_broker_or_a_wrong_setting(backend: str, url: str) -> None:
    try:
        get_broker(BrokerSettings(backend=backend, url=url))
    except ImproperlyConfigured as error:
        assert 'OUTBOX["BROKER"]' in str(error)
