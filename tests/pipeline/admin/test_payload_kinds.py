"""Bytes and tombstones on the pages: shown as what they are, hidden from those who may not see secrets, never edited."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from django_outbox import TOMBSTONE, RawBytes, publish
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import json_value
from django_outbox.observability.masking import MASK
from tests.support.inbox import make_received
from tests.support.outbox import Status, make_message, row
from tests.support.overrides import outbox_settings
from tests.support.pages import Login, act, action_url, content, make_failure, page_of, textareas, url

pytestmark = pytest.mark.django_db

BYTES: dict[str, Any] = {"payload": json_value(None), "raw_value": b"hunter2\0\xff", "content_type": "image/png"}
TOMB: dict[str, Any] = {"payload": json_value(None), "content_type": ""}
RAW_JSON: dict[str, Any] = {**BYTES, "content_type": "application/json"}


def dead(inbox: bool, **fields: Any) -> OutboxMessage | InboxMessage:
    make: Any = make_received if inbox else make_message
    message: OutboxMessage | InboxMessage = make(Status.DEAD, **fields)
    return message


def table(message: OutboxMessage | InboxMessage) -> str:
    return str(message._meta.model_name)


def test_a_published_tombstone_and_published_bytes_are_shown_as_what_they_are(admin_client: Client) -> None:
    page = content(admin_client, page_of(publish("order.deleted", TOMBSTONE, key=7)))
    assert "a tombstone. Its record has no value" in page
    assert textareas(page) == ["{}"]
    page = content(admin_client, page_of(publish("image.made", RawBytes(b"\x89PNG\0", content_type="image/png"))))
    assert "Payload: 5 bytes of image/png" in page
    assert "89 50 4e 47 00" in page
    assert "null" not in textareas(page)
    page = content(admin_client, page_of(publish("order.created", None)))
    assert "null" in textareas(page)
    assert "tombstone" not in page


@pytest.mark.parametrize("inbox", [False, True])
def test_only_the_beginning_of_many_bytes_is_shown(admin_client: Client, inbox: bool) -> None:
    page = content(admin_client, page_of(dead(inbox, **{**BYTES, "raw_value": b"x" * 100_000})))
    assert "Payload: 100000 bytes of image/png" in page
    assert "… 100000 bytes in total" in page
    assert len(page) < 50_000


@pytest.mark.parametrize("inbox", [False, True])
@pytest.mark.parametrize("kind", [BYTES, TOMB, RAW_JSON])
def test_they_are_not_edited_and_can_be_retried(admin_client: Client, inbox: bool, kind: dict[str, Any]) -> None:
    message = dead(inbox, **kind)
    page = content(admin_client, page_of(message))
    edit = action_url("edit", table(message), ids=str(message.id))
    assert edit not in page
    assert admin_client.get(edit).status_code == 404
    assert admin_client.post(edit, {"payload": "{}", "reason": "r"}).status_code == 404
    act(admin_client, "retry", message, table=table(message))
    message.refresh_from_db()
    assert message.status == "pending"
    assert (message.payload, message.content_type) == (None, kind["content_type"])
    assert message.raw_value is None or bytes(message.raw_value) == kind["raw_value"]


@pytest.mark.parametrize("inbox", [False, True])
@pytest.mark.parametrize("kind", [BYTES, RAW_JSON])
def test_bytes_and_errors_about_them_are_hidden_from_those_who_may_not_see_secrets(
    login: Login, inbox: bool, kind: dict[str, Any]
) -> None:
    error = "ValueError: not an image: hunter2"
    # As in the copy for DEAD_LETTER_TOPIC, which may be read by this project, too.
    headers = {f"kafka_dlt-exception-{name}": error for name in ("message", "stacktrace")}
    message = dead(inbox, **kind, last_error=error, headers=headers)
    make_failure(message, error=error, final=True)
    name = table(message)
    model = "inboxdeadletter" if inbox else "deadletter"
    pages = [page_of(message), url(model), action_url("retry", name, ids=str(message.id))]
    client = login("retry", table=name, dead=model)
    shown = [content(client, page) for page in pages]
    assert not any("hunter2" in page or b"hunter2".hex(" ") in page for page in shown)
    assert MASK in shown[0]
    assert "You need a permission" in shown[0]
    with outbox_settings(REDACT=[]):
        assert all("hunter2" in content(client, page) for page in pages)


def test_an_operator_who_may_see_payloads_sees_bytes(login: Login) -> None:
    message = make_message(Status.DEAD, **BYTES, last_error="ValueError: hunter2")
    page = content(login("see_payload"), page_of(message))
    assert page.count("hunter2") >= 2
    assert b"hunter2".hex(" ") in page
    assert row(message).status == "dead"
