"""The page of a message: what it holds, what happened to it, and what it waits for."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from django_outbox import publish
from django_outbox.models import OutboxMessage, TaskRun
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import outbox as state
from django_outbox.state.transitions import mark_failed
from tests.support.inbox import make_received
from tests.support.outbox import Pipeline, Status, make_due, make_message, row
from tests.support.overrides import outbox_settings
from tests.support.pages import (
    DEAD_LETTERS,
    LISTS,
    MESSAGES,
    Login,
    act,
    content,
    make_dead,
    make_failure,
    page_of,
    textareas,
    told,
    url,
)

pytestmark = pytest.mark.django_db


def timeline(client: Client, message: OutboxMessage) -> list[tuple[str, str]]:
    response = client.get(page_of(row(message)))
    return [(moment.kind, moment.text) for moment in response.context["timeline"]]


@pytest.mark.parametrize("model", LISTS)
def test_page_shows_payload_headers_and_error_as_they_are(admin_client: Client, model: str) -> None:
    payload = {"items": ["Grüße", {"n": None}], "order": 1}
    message = make_dead(payload=payload, headers={"trace": "t"}, last_error="Boom: <x>\n  line 2")
    shown = html.unescape(content(admin_client, url(model, "change", message.id)))
    assert textareas(shown) == [json.dumps(payload, indent=2, ensure_ascii=False), json.dumps({"trace": "t"}, indent=2)]
    assert "Boom: <x>\n  line 2</pre>" in shown


@pytest.mark.parametrize("payload", [None, 0, "", [], "text", "\n\nfirst lines are empty"])
def test_page_shows_any_payload(admin_client: Client, payload: Any) -> None:
    message = publish("order.created", payload)
    shown = content(admin_client, page_of(message))
    assert html.escape(json.dumps(payload)) in textareas(shown)


def test_page_of_a_task_shows_what_it_returned(login: Login) -> None:
    message = make_message("consumed", event_type="task:shop.tasks.total", payload={"args": [], "kwargs": {}})
    client = login()
    assert "Returned by the task" not in content(client, page_of(message))
    run = TaskRun.objects.create(message=message, worker="host:1", started_at=DatabaseNow(), return_value={"total": 42})
    assert json.dumps({"total": 42}, indent=2) in textareas(html.unescape(content(client, page_of(message))))
    run.return_value = {"token": "s3cret"}
    run.save()
    assert "s3cret" not in content(client, page_of(message))


def test_page_has_nothing_to_write_into(admin_client: Client) -> None:
    shown = content(admin_client, page_of(make_dead()))
    assert "<textarea" in shown
    assert shown.count("<textarea") == shown.count(" readonly ")
    assert 'name="_save"' not in shown


@pytest.mark.parametrize("status", Status.values)
def test_page_of_every_state_says_where_it_stands(admin_client: Client, status: str) -> None:
    fields = {"published_at": DatabaseNow()} if status in ("published", "consumed") else {}
    response = admin_client.get(page_of(make_message(status, **fields)))
    assert response.status_code == 200
    assert response.context["headline"]


def test_page_does_not_claim_that_a_message_of_debezium_is_in_kafka(admin_client: Client) -> None:
    fields = {"published_at": DatabaseNow() - timedelta(minutes=5)}
    for place, headline in (
        ({}, r"Left to Debezium \d+\sminutes ago, not yet handled\."),
        ({"partition": 0, "offset": 1}, r"In Kafka for \d+\sminutes, not yet handled\."),
    ):
        response = admin_client.get(page_of(make_message("published", **fields, **place)))
        assert re.fullmatch(headline, response.context["headline"])


def test_page_says_since_when_a_message_waits_and_when_it_is_due(admin_client: Client) -> None:
    message = make_message(next_retry_at=datetime(2030, 6, 1, 15, tzinfo=UTC))
    shown = html.unescape(content(admin_client, page_of(message)))
    assert re.search(r"Will be sent in [^<]*\w\.</p>", shown.replace("\xa0", " "))
    assert re.search(r"<p>Due: [^<]*\d [ap]\.m\.</p>", shown), "and no second full stop"


def test_a_wait_counts_from_when_the_message_became_due(admin_client: Client) -> None:
    """Not from its writing: it may have been published with a delay, or retried a moment ago."""
    hours_ago = DatabaseNow() - timedelta(hours=3)
    message = make_message(created_at=hours_ago, next_retry_at=DatabaseNow() - timedelta(minutes=5))
    received = make_received(created_at=hours_ago, next_retry_at=DatabaseNow() - timedelta(minutes=5))
    dead = make_dead(created_at=hours_ago)
    act(admin_client, "retry", dead)
    for each, headline in (
        (message, r"Has waited to be sent for \d+\sminutes\."),
        (received, r"Has waited for its handler for \d+\sminutes\."),
        (dead, r"Has waited to be sent for \d+\s(second|minute)s?\."),
    ):
        each.refresh_from_db()
        assert re.fullmatch(headline, admin_client.get(page_of(each)).context["headline"])
    delayed = make_received(created_at=hours_ago, next_retry_at=DatabaseNow() + timedelta(minutes=90))
    headline = admin_client.get(page_of(delayed)).context["headline"]
    assert re.fullmatch(r"Will be handled in 1\xa0hour, \d+\xa0minutes?\.", headline)


def test_message_that_is_not_dead_is_no_dead_letter(admin_client: Client) -> None:
    message = make_message()
    response = admin_client.get(url(DEAD_LETTERS, "change", message.id))
    assert response.status_code == 302
    assert f"“{message.id}”" in told(response)[0]


@pytest.mark.parametrize("message_id", ["999999", "x", "9" * 30])
def test_page_of_no_message_leads_away(admin_client: Client, message_id: str) -> None:
    assert admin_client.get(url(MESSAGES, "change", message_id)).status_code == 302


# What happened


def test_timeline_tells_the_whole_life(login: Login) -> None:
    pipeline = Pipeline()
    broken = True

    def handle(event: Any) -> None:
        if broken:
            raise ValueError("boom")

    pipeline.on("order.created", handle)
    message = make_message(max_retry=2)
    for _ in range(2):
        pipeline.turn()
        make_due(message)
    client = login("retry")
    act(client, "retry", message)
    broken = False
    pipeline.turn()
    told = timeline(client, message)
    worker = row(message).failures.first().worker
    assert told == [
        ("written", "Written to the outbox"),
        ("published", "Publication 1 to outbox, partition 0, offset 0"),
        ("failed", f"Its handler failed, publication 1, worker {worker}"),
        ("published", "Publication 2 to outbox, partition 0, offset 1"),
        ("failed", f"Its handler failed, publication 2, worker {worker}, now dead"),
        ("operator", "staff retried 1 dead letter"),
        ("published", "Publication 3 to outbox, partition 0, offset 2"),
        ("consumed", "Handled"),
    ]


def test_timeline_tells_of_failures_to_send(admin_client: Client) -> None:
    message = make_message()
    mark_failed(state.to_send(message.id, 1, using="default"), "too busy")
    assert timeline(admin_client, message)[1][1].startswith("Could not be sent, publication 1, worker ")


def test_timeline_tells_where_a_publication_went_only_as_far_as_is_known(admin_client: Client) -> None:
    message = make_message(Status.PUBLISHED, published_at=DatabaseNow())
    assert timeline(admin_client, message)[1] == ("published", "Publication 1 to outbox")
    message = make_message(Status.PUBLISHED, published_at=DatabaseNow(), partition=1)
    assert timeline(admin_client, message)[1] == ("published", "Publication 1 to outbox, partition 1, offset ?")


def test_errors_of_failures_are_shown_with_their_failure(admin_client: Client) -> None:
    message = make_dead()
    make_failure(message, error="first <try>\n\n  and where")
    shown = content(admin_client, page_of(message))
    assert "<summary>first &lt;try&gt;</summary>" in shown
    assert "  and where</pre>" in shown


def test_only_the_last_failures_are_shown(admin_client: Client) -> None:
    message = make_dead()
    for n in range(60):
        make_failure(message, error=f"error {n}.")
    shown = content(admin_client, page_of(message))
    assert "error 59." in shown
    assert "error 9." not in shown
    assert "Older failures are not shown." in shown


def test_page_costs_few_queries_however_much_happened(admin_client: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            content(admin_client, page_of(message))
        return len(captured)

    message = make_dead(message_key="k")
    few = queries()
    for _ in range(30):
        make_failure(message)
        make_dead(message_key="k")
    assert queries() == few <= 12


# What it waits for


def neighbours(client: Client, message: OutboxMessage) -> tuple[Any, Any, Any]:
    context = client.get(page_of(message)).context
    return context["blocker"], context["blocked"], context["dead_of_key"]


def test_page_names_the_message_that_comes_first_and_how_many_wait(admin_client: Client) -> None:
    first, second, third = (make_message(message_key="k") for _ in range(3))
    make_message(message_key="other")
    make_message(message_key="k", topic="other")
    assert neighbours(admin_client, first) == (None, 2, None)
    assert neighbours(admin_client, second) == (first, 1, None)
    assert neighbours(admin_client, third) == (first, 0, None)


def test_how_many_wait_is_counted_up_to_a_bound(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_outbox.admin.message_page.BLOCKED", 3)
    first = make_message(message_key="k")
    for _ in range(5):
        make_message(message_key="k")
    assert neighbours(admin_client, first)[1] == "3+"


def test_page_links_to_the_dead_of_its_key(admin_client: Client) -> None:
    dead = make_dead(message_key="k")
    message = make_message(message_key="k")
    assert neighbours(admin_client, message) == (None, 0, dead)
    assert page_of(dead) in content(admin_client, page_of(message))
    assert neighbours(admin_client, dead) == (None, 0, None)


def test_a_dead_message_that_holds_its_key_blocks(admin_client: Client) -> None:
    dead = make_dead(message_key="k")
    message = make_message(message_key="k")
    with outbox_settings(ON_DEAD="hold"):
        assert neighbours(admin_client, message)[0] == dead
        assert neighbours(admin_client, dead)[1] == 1


@pytest.mark.parametrize("settings", [{"ORDERING": "none"}, {}])
def test_without_order_nothing_blocks(admin_client: Client, settings: dict[str, str]) -> None:
    key = "k" if settings else ""
    make_message(message_key=key, created_at=DatabaseNow() - timedelta(hours=1))
    message = make_message(message_key=key)
    with outbox_settings(**settings):
        assert neighbours(admin_client, message) == (None, 0, None)
