"""Pausing and resuming in the admin: with a permission, a reason and an entry in the audit log."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client

from django_outbox.admin import pauses as admin
from django_outbox.exceptions import PauseLocked
from django_outbox.handlers.registry import registry
from django_outbox.models import OutboxMessage, Pause
from django_outbox.state import pauses as state
from tests.support.outbox import make_message
from tests.support.pages import content, page_of, told, url

pytestmark = pytest.mark.django_db

PAUSE, RESUME = "pause", "resume"


@pytest.fixture
def enter(client: Client, django_user_model: Any) -> Any:
    """Log in as staff with these permissions."""

    def enter(*permissions: str) -> Client:
        user = django_user_model.objects.create_user("ada", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
        return client

    return enter


@pytest.fixture
def operator(enter: Any) -> Client:
    client: Client = enter("view_pause", "change_pause", "view_outboxmessage")
    return client


@pytest.fixture
def names() -> tuple[str, str]:
    """The type and the name of a handler of the main group."""
    registry.load()
    handler = registry.for_group("tests")[0]
    return handler.event_type, handler.name


def make_pause(**subject: str) -> Pause:
    subject = subject or {"event_type": "order.*"}
    return state.pause("tests", **subject, reason="no <mail>", by="grace", using="default")


def said() -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(LogEntry.objects.get().change_message)[0]["outbox"]
    return entry


def submit(client: Client, **data: str) -> Any:
    values = {"group": "tests", "event_type": "", "handler": "", "reason": "no mail", **data}
    return client.post(url("pause", PAUSE), values)


def test_event_type_is_paused(operator: Client, names: tuple[str, str]) -> None:
    response = submit(operator, event_type=names[0])
    assert told(response) == [f"{names[0]} is paused. Consumers obey within five seconds."]
    assert response.url == url("pause")
    pause = Pause.objects.get()
    assert (pause.group, pause.event_type, pause.created_by, pause.reason) == ("tests", names[0], "ada", "no mail")
    assert {**said(), "details": {}} == {
        "action": "pause",
        "subject": f"{names[0]} (tests)",
        "count": 1,
        "reason": "no mail",
        "details": {},
    }
    assert "ada paused" in content(operator, url("overview"))


def test_handler_is_paused(operator: Client, names: tuple[str, str]) -> None:
    assert names[1] in content(operator, url("pause", PAUSE))
    submit(operator, handler=names[1])
    assert Pause.objects.get().handler == names[1]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({}, "Name either an event type or a handler."),
        ({"event_type": "no.such.type"}, "handles no event type"),
        ({"event_type": "*", "reason": " "}, "This field is required."),
        ({"event_type": "*", "group": "unknown"}, "Select a valid choice"),
        ({"handler": "unknown"}, "Select a valid choice"),
    ],
)
def test_what_would_pause_nothing_is_refused(operator: Client, data: dict[str, str], error: str) -> None:
    assert error in submit(operator, **data).content.decode()
    assert not Pause.objects.exists()
    assert not LogEntry.objects.exists()


def test_type_and_handler_are_refused(operator: Client, names: tuple[str, str]) -> None:
    shown = submit(operator, event_type=names[0], handler=names[1]).content.decode()
    assert "Name either an event type or a handler." in shown


def test_page_lists_pauses_with_their_messages(operator: Client) -> None:
    pause = make_pause()
    (active,) = state.active(Pause.objects.using("default"))
    make_message(next_retry_at=active.due_at(active.now))
    shown = content(operator, url("pause"))
    assert "order.*" in shown
    assert "no &lt;mail&gt;" in shown
    assert f"{url('pause', RESUME)}?id={pause.id}" in shown
    assert operator.get(url("pause")).context["pauses"][0].messages == 1


def test_page_says_when_the_circuit_breaker_tries_a_message(operator: Client) -> None:
    state.trip("tests", "shop.ship", timedelta(minutes=10), "failed", using="default")
    assert "next try in 9\xa0minutes" in content(operator, url("pause"))


def test_resuming_makes_the_messages_due(operator: Client) -> None:
    pause = make_pause()
    (active,) = state.active(Pause.objects.using("default"))
    message = make_message(next_retry_at=active.due_at(active.now))
    page = f"{url('pause', RESUME)}?id={pause.id}"
    assert "Resume order.*?" in content(operator, page)
    assert Pause.objects.exists()
    response = operator.post(page, {"reason": "mail is back"})
    assert told(response) == ["order.* is resumed. 1 message is due now."]
    assert not Pause.objects.exists()
    assert [each.id for each in OutboxMessage.objects.due()] == [message.id]
    assert (said()["action"], said()["count"], said()["reason"]) == ("resume", 1, "mail is back")
    assert operator.get(page).status_code == 404


@pytest.mark.parametrize("action", [PAUSE, RESUME])
def test_pause_that_a_consumer_uses_stays(
    operator: Client, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    def locked(*arguments: Any, **options: Any) -> None:
        raise PauseLocked("in use")

    pause = make_pause(event_type=names[0])
    monkeypatch.setattr(admin, action, locked)
    data = {"group": "tests", "event_type": names[0], "reason": "mail is back"}
    response = operator.post(f"{url('pause', action)}?id={pause.id}", data)
    assert told(response) == ["A consumer is using this pause, for example to try a message. Try again in a moment."]
    assert said()["count"] == 0
    assert Pause.objects.exists()


def test_resuming_needs_a_reason(operator: Client) -> None:
    pause = make_pause()
    operator.post(f"{url('pause', RESUME)}?id={pause.id}", {"reason": ""})
    assert Pause.objects.exists()


@pytest.mark.parametrize("id", ["", "x", "0", "9" * 30])
def test_no_other_pause_is_resumed(operator: Client, id: str) -> None:
    make_pause()
    assert operator.post(f"{url('pause', RESUME)}?id={id}", {"reason": "x"}).status_code == 404


def test_viewers_see_pauses_and_change_nothing(enter: Any, names: tuple[str, str]) -> None:
    client = enter("view_pause", "view_outboxmessage")
    pause = make_pause()
    page = f"{url('pause', RESUME)}?id={pause.id}"
    for shown in (content(client, url("pause")), content(client, url("overview"))):
        assert "order.*" in shown
        assert page not in shown
    for each in (page, url("pause", PAUSE)):
        assert client.get(each).status_code == 403
        assert client.post(each, {"reason": "x", "group": "tests", "event_type": names[0]}).status_code == 403
    assert [str(each) for each in Pause.objects.all()] == ["order.*"]


def test_others_see_no_pauses(enter: Any) -> None:
    client = enter("change_pause")
    pause = make_pause()
    for page in (url("pause"), url("pause", PAUSE), f"{url('pause', RESUME)}?id={pause.id}"):
        assert client.get(page).status_code == 403


def test_overview_says_what_is_paused(operator: Client) -> None:
    pause = make_pause()
    shown = content(operator, url("overview"))
    assert "order.* is paused" in shown
    assert "by grace in the group tests: no &lt;mail&gt;" in shown
    assert f"{url('pause', RESUME)}?id={pause.id}" in shown


def test_page_of_a_message_says_that_it_waits_for_a_pause(operator: Client) -> None:
    make_pause()
    (active,) = state.active(Pause.objects.using("default"))
    paused, other = make_message(next_retry_at=active.due_at(active.now)), make_message()
    assert "It waits for the end of a pause: order.*" in content(operator, page_of(paused))
    assert "It waits for the end of a pause" not in content(operator, page_of(other))
