"""An edited payload must fit the schema that it is sent with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.support.inbox import make_received
from tests.support.outbox import row
from tests.support.overrides import outbox_settings
from tests.support.pages import act, make_dead
from tests.support.registry import stub_registry
from tests.support.serializing import ORDER, avro_settings

pytestmark = pytest.mark.django_db

Login = Callable[..., Client]


@pytest.fixture
def path(tmp_path: Path) -> Any:
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER))
    with stub_registry() as registry, outbox_settings(SERIALIZERS=avro_settings(registry.url, schema=path)):
        yield path


def test_a_payload_that_does_not_fit_is_refused(login: Login, path: Path) -> None:
    message = make_dead()
    client = login("edit", "see_payload")

    errors = act(client, "edit", message, payload='{"order_id": "7"}').context["form"].errors

    assert errors["payload"] == ["Not a valid payload: payload.order_id: expected long, got text"]
    act(client, "edit", message, payload='{"order_id": 7}')
    assert (row(message).status, row(message).payload) == ("pending", {"order_id": 7})


def test_a_schema_that_cannot_be_used_is_reported(login: Login, path: Path) -> None:
    path.unlink()

    errors = act(login("edit", "see_payload"), "edit", make_dead(), payload="{}").context["form"].errors

    assert "cannot be read" in errors["payload"][0]


def test_a_message_of_another_service_is_not_sent_again(login: Login, path: Path) -> None:
    message = make_received("dead")
    client = login("edit", "see_payload", table="inboxmessage", dead="inboxdeadletter")

    act(client, "edit", message, table="inboxmessage", payload='{"order_id": "7"}')

    message.refresh_from_db()
    assert message.status == "pending"
