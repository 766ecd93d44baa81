"""Redaction: what is named as secret is never shown, the rest is, and nothing takes long."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from django_outbox.brokers import secrets
from django_outbox.models.lengths import ERROR_LENGTH
from django_outbox.observability.masking import MASK, Redaction
from tests.support.properties import any_text, examples, json_values, text

SECRET = "s3cret-and-no-word"
HIDES = Redaction(["password", "api_key"])
names = (
    st.sampled_from(["password", "Password", "api-key", "apiKey", "X-Api-Key", "old_password_2", "name", "id"]) | text
)


def secrets_of(value: Any, hidden: bool = False) -> set[str]:
    """The texts that stand below a secret name."""
    if isinstance(value, dict):
        return {text for name, item in value.items() for text in secrets_of(item, hidden or HIDES.is_secret(name))}
    if isinstance(value, list):
        return {text for item in value for text in secrets_of(item, hidden)}
    return {value} if hidden and isinstance(value, str) and value else set()


payloads = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@examples(150)
@given(payload=payloads)
def test_a_masked_payload_is_the_same_but_for_its_secrets(payload: Any) -> None:
    masked = HIDES.mask(payload)
    assert not secrets_of(masked) - {MASK}
    assert HIDES.mask(masked) == masked
    if not secrets_of(payload):
        assert Redaction([]).mask(payload) == payload


@examples(150)
@given(payload=payloads, before=any_text, after=any_text, form=st.sampled_from([str, repr, json.dumps]))
def test_an_error_does_not_repeat_a_secret(payload: Any, before: str, after: str, form: Any) -> None:
    for secret in secrets_of(payload):
        assume(len(secret) >= 4 and secret.strip())
        assume(secret not in before + after + MASK)
        shown = HIDES.in_texts(payload)(f"{before} {form(secret)} {after}")
        assert secret not in shown


@examples(100)
@given(error=any_text, names=st.lists(any_text, max_size=4), sources=st.lists(json_values, max_size=3))
def test_any_error_is_shown_whatever_is_secret(error: str, names: list[str], sources: list[Any]) -> None:
    redaction = Redaction(names)
    assert isinstance(redaction.in_texts(*sources)(error), str)
    redaction.mask(sources)


def test_a_secret_as_large_as_a_payload_may_be_takes_no_time() -> None:
    """Anybody who may write to a topic may write a large value of a secret name; the page must come all the same."""
    words = " ".join(f"word{number:08}" for number in range(100_000))

    def mask_all() -> None:
        for payload in ({"password": words}, {"password": "x" * 1_000_000}):
            assert MASK in HIDES.in_texts(payload)(f"{'a' * (ERROR_LENGTH - 15)} {next(iter(payload.values()))[:14]}")

    assert cpu_seconds_of(mask_all) < 10


def test_a_large_secret_takes_no_time_however_often_its_message_has_failed() -> None:
    words = [f"word{number:08}" for number in range(100_000)]
    payload = {"password": " ".join(words)}
    texts = [f"{'a' * 1900} {word}!" for word in words[:50]]
    one = cpu_seconds_of(lambda: HIDES.in_texts(payload)(texts[0]))

    def mask_all() -> None:
        hidden = HIDES.in_texts(payload)
        assert all(hidden(text).endswith(f" {MASK}!") for text in texts)

    assert cpu_seconds_of(mask_all) < 10 * one


def cpu_seconds_of(work: Callable[[], object]) -> float:
    """Processor time of this thread, whatever else the machine does."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


@examples(100)
@given(before=text, secret=text, after=text)
def test_what_a_library_says_is_shown_without_logins(before: str, secret: str, after: str) -> None:
    kept = set(secrets._secrets)
    try:
        secrets.keep(secret + SECRET, secret, None, "")
        assert SECRET not in secrets.masked(f"{before}{secret}{SECRET}{after}")
        if secret.strip() and secret.isalnum() and secret not in "***":
            assert secret not in secrets.masked(f"user {secret} refused").removeprefix("user ").removesuffix(" refused")
    finally:
        secrets._secrets.clear()
        secrets._secrets.update(kept)
