"""Redaction: secret values are hidden wherever they show, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from django_outbox.conf import settings
from django_outbox.models import OutboxMessage
from django_outbox.models.lengths import ERROR_LENGTH
from django_outbox.observability.masking import MASK, Redaction
from django_outbox.state import outbox as state
from django_outbox.state.transitions import mark_dead
from tests.support.outbox import Status, make_message
from tests.support.overrides import outbox_settings
from tests.support.pages import DEAD_LETTERS, Login, action_url, content, make_dead, make_failure, page_of, url

SECRET = "hunter2-hunter2"


def redaction(*names: str) -> Redaction:
    return Redaction(names or settings.redact)


@pytest.mark.parametrize(
    "name",
    ["password", "PASSWORD", "user_password", "X-Api-Key", "apiKey", "accessToken", "cardNumber", "Authorization"],
)
def test_usual_names_are_secret_however_they_are_written(name: str) -> None:
    assert redaction().mask({name: SECRET}) == {name: MASK}


def test_secret_values_are_hidden_however_deep() -> None:
    value = {"a": [{"password": SECRET, "n": 1}], "card": {"number": 4, "name": "Ada"}, "token": None}
    assert redaction().mask(value) == {"a": [{"password": MASK, "n": 1}], "card": MASK, "token": MASK}


@pytest.mark.parametrize("value", [None, 1, "password", [], ["password"], {"order": 1}])
def test_what_has_no_secret_name_is_shown(value: Any) -> None:
    assert redaction().mask(value) == value


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        (SECRET, f"ValueError: wrong password {SECRET}!"),
        (4111111111111111, "ValueError: no such card: 4111111111111111"),
        (123, "the code 123 is wrong"),
        ("a'b\"c\n", repr({"password": "a'b\"c\n"})),
        ("a'b\"c\n", json.dumps({"password": "a'b\"c\n"})),
        ("Grüße an", json.dumps({"password": "Grüße an"})),
        ("Bearer abcdefgh", "the token abcdefgh has expired"),
        (["first-secret", {"x": "other-secret"}], "first-secret or other-secret"),
    ],
)
def test_secret_values_are_hidden_in_errors(secret: Any, text: str) -> None:
    masked = redaction().in_texts({"list": [{"password": secret}]})(text)
    assert MASK in masked
    forms = [str(secret), "hunter2", "4111", "abcdefgh", "first-secret", "other-secret", "Gr\\u00fc"]
    assert not [form for form in forms if form in masked]


def test_a_short_secret_leaves_longer_numbers_alone() -> None:
    assert redaction().in_texts({"cvc": "123"})("order 41234, code 123") == f"order 41234, code {MASK}"


def test_a_secret_that_was_cut_at_the_end_of_an_error_is_hidden() -> None:
    text = ("x" * ERROR_LENGTH)[: ERROR_LENGTH - 7] + SECRET[:7]
    assert redaction().in_texts({"password": SECRET})(text).endswith(f"x{MASK}")


@pytest.mark.parametrize("value", ["", True, False, None, {}])
def test_what_is_no_secret_value_does_not_shred_errors(value: Any) -> None:
    text = "True, False, None and nothing"
    assert redaction().in_texts({"password": value})(text) == text


def test_setting_names_what_is_secret() -> None:
    with outbox_settings(REDACT=["birth_date"]):
        assert redaction().mask({"birthDate": 1, "password": 2}) == {"birthDate": MASK, "password": 2}


@pytest.fixture
def message() -> Any:
    message = make_dead(
        payload={"customer": {"password": SECRET}, "item": "piano"},
        headers={"Authorization": f"Bearer {SECRET}", "tenant": "north"},
        last_error=f"ValueError: {SECRET} is wrong",
    )
    make_failure(message, error=f"ValueError: {SECRET} is wrong")
    return message


PAGES = [
    lambda message: page_of(message),
    lambda message: url(DEAD_LETTERS),
    lambda message: url(DEAD_LETTERS) + "?failures=0",
    lambda message: url("overview"),
    lambda message: action_url("retry", ids=str(message.id)),
    lambda message: action_url("delete", ids=str(message.id)),
]


@pytest.mark.django_db
@pytest.mark.parametrize("page", PAGES)
def test_no_page_shows_a_secret_to_who_may_not_see_it(login: Login, message: Any, page: Any) -> None:
    client = login("retry", "delete", "edit")
    shown = content(client, page(message))
    assert SECRET not in shown
    assert MASK in shown


@pytest.mark.django_db
def test_a_copy_of_a_dead_letter_shows_no_secret_in_the_error_among_its_headers(login: Login) -> None:
    with outbox_settings(DEAD_LETTER_TOPIC="outbox.dead"):
        message = make_message(Status.PUBLISHED, payload={"password": SECRET})
        mark_dead(state.in_delivery(message.id, 1, using="default"), ValueError(f"{SECRET} is wrong"))
    copy = OutboxMessage.objects.get(topic="outbox.dead")
    shown = content(login(), page_of(copy))
    assert SECRET not in shown
    assert f"{MASK} is wrong" in shown


@pytest.mark.django_db
def test_page_shows_the_rest(login: Login, message: Any) -> None:
    shown = content(login(), page_of(message))
    assert "piano" in shown
    assert "north" in shown


@pytest.mark.django_db
def test_pages_show_secrets_to_who_may_see_them(login: Login, message: Any) -> None:
    shown = content(login("see_payload"), page_of(message))
    assert shown.count(SECRET) >= 4
    assert MASK not in shown


@pytest.mark.django_db
def test_who_may_edit_but_not_see_does_not_edit(login: Login, message: Any) -> None:
    client = login("edit")
    assert client.get(action_url("edit", ids=str(message.id))).status_code == 403
    assert action_url("edit") not in content(client, page_of(message))
