"""Acting on dead letters: asked for first, done to what was shown and nothing else, and written down."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from django_outbox.admin import actions, bulk
from django_outbox.models import MessageFailure, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import controls
from django_outbox.state.retry import retry
from tests.support.inbox import make_received
from tests.support.outbox import Status, make_message, row, statuses
from tests.support.overrides import outbox_settings
from tests.support.pages import (
    DEAD_LETTERS,
    Login,
    act,
    action_url,
    content,
    make_dead,
    make_failure,
    page_of,
    told,
    url,
)

pytestmark = pytest.mark.django_db

ACTIONS = ("retry", "delete")
A_DAY = timedelta(days=1)


def said() -> dict[str, Any]:
    """What the only entry of the log says."""
    said: dict[str, Any] = json.loads(LogEntry.objects.get().change_message)[0]["outbox"]
    return said


# Asking


@pytest.mark.parametrize("action", ACTIONS)
def test_page_asks_with_count_and_sample_and_does_nothing(login: Login, action: str) -> None:
    client = login(action)
    messages = [make_dead(last_error=f"boom {n}\nand more") for n in range(12)]
    make_dead(topic="other")
    response = client.get(action_url(action, topic="outbox"))
    shown = response.content.decode()
    assert "12 dead letters" in shown
    assert [message.id for message in response.context["sample"]] == [message.id for message in messages[:1:-1]]
    assert "boom 11" in shown
    assert "and more" not in shown
    assert set(statuses()) == {"dead"}
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("action", ACTIONS)
def test_without_a_filter_the_page_says_that_these_are_all(login: Login, action: str) -> None:
    client = login(action)
    make_dead()
    assert "This includes all dead letters" in content(client, action_url(action))


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("query", [{"tpoic": "x"}, {"topic": "x", "before": "7"}])
def test_unknown_filter_is_refused_as_it_would_select_more(login: Login, action: str, query: dict[str, str]) -> None:
    client = login(action)
    make_dead()
    for response in (client.get(action_url(action, **query)), client.post(action_url(action, **query))):
        assert response.status_code == 400
    assert statuses() == ["dead"]


@pytest.mark.parametrize("action", ACTIONS)
def test_errors_are_not_searched_for_what_their_reader_may_not_see(login: Login, action: str) -> None:
    message = make_dead(last_error="wrong: hunter2", payload={"password": "hunter2"})
    page = action_url(action, text="hunt")
    client = login(action)
    assert client.get(page).status_code == 403
    assert client.post(page, {"reason": "x", "seen": "2100-01-01T00:00Z"}).status_code == 403
    assert row(message).status == "dead"


@pytest.mark.parametrize("action", ACTIONS)
def test_errors_are_searched_by_who_may_see_secrets(login: Login, action: str) -> None:
    make_dead(last_error="wrong: hunter2")
    make_dead()
    assert login(action, "see_payload").get(action_url(action, text="hunt")).context["count"] == 1


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("ids", ["", "x", "1,x", "-1", "9" * 30, "9" * 5000, "\0", "1;2", "\u00b2", "\u0661"])
def test_wrong_ids_select_nothing(login: Login, action: str, ids: str) -> None:
    client = login(action)
    make_dead(id=1)
    act(client, action, query={"ids": ids})
    assert statuses() == ["dead"]


@pytest.mark.parametrize("criterion", ["since", "until"])
@pytest.mark.parametrize("moment", ["999999w", "0001-01-01T00:00+14:00", "9999-12-31T23:59:59-14:00", "yesterday"])
def test_moments_that_no_database_knows_select_nothing(login: Login, criterion: str, moment: str) -> None:
    make_dead()
    assert login("retry").get(action_url("retry", **{criterion: moment})).context["count"] == 0


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_is_done_without_a_reason(login: Login, action: str) -> None:
    client = login(action)
    response = act(client, action, make_dead(), reason=" ")
    assert "reason" in response.context["form"].errors
    assert statuses() == ["dead"]


@pytest.mark.parametrize("action", [*ACTIONS, "edit"])
@pytest.mark.parametrize("seen", ["", "yesterday", "2026-13-01T00:00"])
def test_nothing_is_done_from_a_damaged_page(login: Login, action: str, seen: str) -> None:
    client = login(action, "see_payload")
    response = act(client, action, make_dead(), seen=seen, payload="1")
    assert "seen" in response.context["form"].errors
    assert statuses() == ["dead"]


@pytest.mark.parametrize("action", [*ACTIONS, "edit"])
def test_nothing_is_done_without_the_csrf_token(login: Login, action: str, django_user_model: Any) -> None:
    login(action, "see_payload")
    client = Client(enforce_csrf_checks=True)
    client.force_login(django_user_model.objects.get())
    page = action_url(action, ids=str(make_dead().id))
    response = client.post(page, {"reason": "x", "seen": "2100-01-01T00:00", "payload": "1"})
    assert response.status_code == 403
    assert statuses() == ["dead"]


@pytest.mark.parametrize("action", [*ACTIONS, "edit"])
def test_each_action_takes_its_own_permission(login: Login, action: str) -> None:
    client = login(*({"retry", "delete", "edit", "see_payload"} - {action}))
    message = make_dead()
    page = action_url(action, ids=str(message.id))
    assert client.get(page).status_code == 403
    assert client.post(page, {"reason": "x", "seen": "2100-01-01T00:00", "payload": "1"}).status_code == 403
    assert page not in content(client, page_of(message))
    assert row(message).status == "dead"


@pytest.mark.parametrize("action", ACTIONS)
def test_only_the_dead_are_touched(login: Login, action: str) -> None:
    client = login(action)
    messages = [make_message(status) for status in Status.values]
    act(client, action, *messages)
    assert statuses()[:3] == ["pending", "published", "consumed"]
    assert row(messages[0]).updated_at == messages[0].updated_at


@pytest.mark.parametrize("action", ACTIONS)
def test_what_died_after_the_page_was_shown_is_left_alone(login: Login, action: str) -> None:
    client = login(action)
    page = action_url(action)
    make_dead()
    form = client.get(page).context["form"]
    late = make_dead()
    OutboxMessage.objects.filter(id=late.id).update(updated_at=DatabaseNow() + A_DAY)
    client.post(page, {"reason": "x", "seen": form["seen"].value()})
    assert row(late).status == "dead"
    assert OutboxMessage.objects.filter(status="dead").count() == 1


# Retrying


def test_retry_says_what_was_done_and_goes_back(login: Login) -> None:
    client = login("retry")
    messages = [make_dead(retry_count=20, last_error="boom") for _ in range(3)]
    response = act(client, "retry", *messages[:2], rate="")
    assert told(response) == ["2 dead letters are pending again and due now."]
    assert response.url == url(DEAD_LETTERS)
    assert statuses() == ["pending", "pending", "dead"]
    assert (row(messages[0]).retry_count, row(messages[0]).last_error) == (0, "boom")


def test_retry_of_one_goes_to_its_page(login: Login) -> None:
    message = make_dead()
    response = act(login("retry"), "retry", message)
    assert told(response) == ["1 dead letter is pending again and due now."]
    assert response.url == page_of(row(message))


def test_retry_of_what_another_has_retried_is_a_warning(login: Login) -> None:
    client = login("retry")
    message = make_dead()
    page = action_url("retry", ids=str(message.id))
    seen = client.get(page).context["form"]["seen"].value()
    retry(OutboxMessage.objects.all(), using="default")
    assert told(client.post(page, {"reason": "x", "seen": seen})) == ["0 dead letters are pending again and due now."]


def test_retry_by_filter_reaches_beyond_the_page(login: Login) -> None:
    client = login("retry")
    for _ in range(120):
        make_dead(fingerprint="ValueError in x")
    other = make_dead()
    response = act(client, "retry", query={"error": "ValueError in x"}, rate="50")
    assert told(response) == ["120 dead letters are pending again. The last will be due in 2 seconds."]
    assert OutboxMessage.objects.filter(status="pending").count() == 120
    assert row(other).status == "dead"


def test_retry_spreads_due_times_by_the_rate_in_the_order_of_writing(login: Login) -> None:
    client = login("retry")
    messages = [make_dead(message_key="k") for _ in range(5)]
    act(client, "retry", *messages, rate="2")
    due = [row(message).next_retry_at for message in messages]
    assert due == sorted(due)  # type: ignore[type-var]
    assert 1.9 < (due[4] - due[0]).total_seconds() < 2.1  # type: ignore[operator]


def test_dry_run_tells_what_would_happen_and_does_nothing(login: Login) -> None:
    client = login("retry")
    for n in range(5):
        make_dead(event_type="a.b" if n else "c.d")
    response = act(client, "retry", query={"topic": "outbox"}, rate="1", reason="", dry_run="1")
    shown = " ".join(response.content.decode().split())
    assert "5 messages would be retried. The last of them would be due in 4 seconds." in shown
    assert "Later messages with the same keys, including new ones, would wait for them." in shown
    assert "<li>a.b: 4</li><li>c.d: 1</li>" in shown
    assert set(statuses()) == {"dead"}
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("rate", ["0", "-1", "x", "1e9", "100001"])
def test_wrong_rate_is_refused(login: Login, rate: str) -> None:
    response = act(login("retry"), "retry", make_dead(), rate=rate)
    assert "rate" in response.context["form"].errors
    assert statuses() == ["dead"]


# Deleting


def test_delete_removes_messages_with_their_failures(login: Login) -> None:
    client = login("delete")
    gone, kept = make_dead(), make_dead()
    for message in (gone, kept):
        make_failure(message)
    response = act(client, "delete", gone)
    assert told(response) == ["1 dead letter was deleted."]
    assert response.url == url(DEAD_LETTERS)
    assert list(OutboxMessage.objects.all()) == [kept]
    assert MessageFailure.objects.get().message_id == kept.id


def test_delete_is_no_get(login: Login) -> None:
    client = login("delete")
    message = make_dead()
    client.get(action_url("delete", ids=str(message.id), q=str(message.id)) + "&q=")
    assert row(message)


# Editing


def test_edit_replaces_the_payload_retries_and_keeps_the_old_in_the_log(login: Login) -> None:
    message = make_dead(payload={"weight": None, "item": "Flügel"}, retry_count=20)
    response = act(login("edit", "see_payload"), "edit", message, payload='{"weight": 310}')
    after = row(message)
    assert (after.status, after.payload, after.retry_count) == ("pending", {"weight": 310}, 0)
    assert told(response) == ["The payload was replaced. The message is pending again."]
    assert response.url == page_of(after)
    assert said()["details"] == {"payload_before": {"weight": None, "item": "Flügel"}}


def test_edit_shows_the_payload_as_it_is(login: Login) -> None:
    message = make_dead(payload={"item": "Flügel <b>"})
    form = login("edit", "see_payload").get(action_url("edit", ids=str(message.id))).context["form"]
    assert json.loads(form["payload"].value()) == {"item": "Flügel <b>"}


@pytest.mark.parametrize("payload", ["", "{", "NaN", '"\\u0000"', '"\\ud800"', "[" * 3000 + "]" * 3000])
def test_edit_refuses_what_is_no_payload(login: Login, payload: str) -> None:
    message = make_dead()
    response = act(login("edit", "see_payload"), "edit", message, payload=payload)
    assert "payload" in response.context["form"].errors
    assert (row(message).status, row(message).payload) == ("dead", {"order": 1})
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("payload", ["null", "0", '""', "[]"])
def test_edit_takes_any_json(login: Login, payload: str) -> None:
    message = make_dead()
    act(login("edit", "see_payload"), "edit", message, payload=payload)
    assert (row(message).status, row(message).payload) == ("pending", json.loads(payload))


def test_edit_loses_no_change_of_another(login: Login) -> None:
    client = login("edit", "see_payload")
    message = make_dead()
    page = action_url("edit", ids=str(message.id))
    seen = client.get(page).context["form"]["seen"].value()
    OutboxMessage.objects.filter(id=message.id).update(payload={"by": "another"}, updated_at=DatabaseNow() + A_DAY)
    response = client.post(page, {"payload": "1", "reason": "x", "seen": seen})
    assert "has changed since you opened it" in response.content.decode()
    assert (row(message).status, row(message).payload) == ("dead", {"by": "another"})
    assert not LogEntry.objects.exists()


def test_edit_that_comes_second_leaves_no_entry(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    client = login("edit", "see_payload")
    message = make_dead()
    monkeypatch.setattr(actions, "retry_with_payload", lambda *arguments, **options: False)
    act(client, "edit", message, payload="1")
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("ids", ["", "1,2", "x", "999999", "9" * 5000, "\u00b2", "\u0661"])
def test_edit_is_of_one_dead_message(login: Login, ids: str) -> None:
    make_dead(id=1)
    make_dead(id=2)
    assert login("edit", "see_payload").get(action_url("edit", ids=ids)).status_code == 404


def test_edit_is_not_of_a_living_message(login: Login) -> None:
    message = make_message()
    assert login("edit", "see_payload").get(action_url("edit", ids=str(message.id))).status_code == 404


# The log


@pytest.mark.parametrize(("action", "flag"), [("retry", 2), ("delete", 3)])
def test_log_says_who_what_how_many_and_why(login: Login, action: str, flag: int) -> None:
    client = login(action)
    make_dead(topic="orders")
    make_dead(topic="orders")
    act(client, action, query={"topic": "orders"}, reason="Kafka was full")
    entry = LogEntry.objects.get()
    assert (entry.user.get_username(), entry.action_flag, entry.object_id) == ("staff", flag, None)
    assert entry.object_repr == "topic: orders"
    assert {**said(), "details": {}} == {
        "action": action,
        "subject": "topic: orders",
        "count": 2,
        "reason": "Kafka was full",
        "details": {},
    }


def test_log_of_one_message_is_on_its_page(login: Login) -> None:
    client = login("retry")
    message = make_dead()
    act(client, "retry", message, reason="the <bug> is fixed")
    shown = content(client, page_of(row(message)))
    assert "staff retried 1 dead letter" in shown
    assert "the &lt;bug&gt; is fixed" in shown


def test_log_hides_secrets_of_an_old_payload_from_who_may_not_see_them(login: Login, admin_client: Client) -> None:
    message = make_dead(payload={"password": "hunter2-hunter2"}, last_error="not hunter2-hunter2")
    act(admin_client, "edit", message, payload='{"password": "correct-horse"}')
    client = login()
    for page in (page_of(row(message)), url("overview"), reverse("admin:index")):
        shown = content(client, page)
        assert "hunter2" not in shown
        assert "correct-horse" not in shown


def test_history_of_django_is_the_page_of_the_message(admin_client: Client) -> None:
    message = make_dead()
    response = admin_client.get(url(DEAD_LETTERS, "history", message.id))
    assert response.headers["Location"] == page_of(message)


def test_an_action_that_is_cut_off_leaves_its_trace(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*arguments: Any, **options: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "delete", dies)
    client = login("delete")
    with pytest.raises(KeyboardInterrupt):
        act(client, "delete", make_dead())
    assert said()["count"] is None
    assert "staff began to delete" in content(client, url("overview"))


def test_entries_of_others_are_no_trouble(admin_client: Client, django_user_model: Any) -> None:
    message = make_dead()
    from django_outbox.admin import audit

    entry = audit.begin(django_user_model.objects.get(), OutboxMessage, "retry", "x", "y", object_id=message.id)
    for text in ("", "Changed.", "[]", '[{"changed": {}}]', "{"):
        LogEntry.objects.filter(id=entry.id).update(change_message=text)
        assert content(admin_client, page_of(message))
        assert content(admin_client, url("overview"))


# Pending messages


def make_waiting(**fields: Any) -> OutboxMessage:
    return make_message(next_retry_at=DatabaseNow() + A_DAY, **fields)


PENDING_ACTIONS = [("send_now", "retry"), ("cancel", "cancel")]


def test_waiting_message_is_made_due(login: Login) -> None:
    message, other = make_waiting(retry_count=2), make_waiting()
    response = act(login("retry"), "send_now", message)
    assert told(response) == ["1 message is due now."]
    assert response.url == page_of(message)
    assert [each.id for each in OutboxMessage.objects.due()] == [message.id]
    assert (row(message).retry_count, row(other).status) == (2, "pending")


def test_pending_message_is_cancelled_in_the_name_of_the_user(login: Login) -> None:
    message = make_waiting()
    response = act(login("cancel"), "cancel", message, reason="sent twice")
    assert told(response) == ["1 message was cancelled."]
    after = row(message)
    assert (after.status, after.last_error) == ("dead", "Cancelled by staff.\n\nsent twice")
    assert response.url == page_of(after)


@pytest.mark.parametrize(("action", "permission"), PENDING_ACTIONS)
def test_whole_list_is_acted_on(login: Login, action: str, permission: str) -> None:
    client = login(permission)
    for _ in range(3):
        make_waiting(topic="orders")
    other = make_waiting()
    page = f"{url('outboxmessage')}?status=pending&topic=orders"
    assert action_url(action, status="pending", topic="orders").replace("&", "&amp;") in content(client, page)
    response = act(client, action, query={"status": "pending", "topic": "orders"})
    assert response.url == f"{url('outboxmessage')}?status=pending"
    assert told(response)[0].startswith("3 messages ")
    assert (row(other).status, row(other).updated_at) == ("pending", other.updated_at)
    assert said()["count"] == 3


@pytest.mark.parametrize(("action", "permission"), PENDING_ACTIONS)
def test_pending_messages_need_the_permission(login: Login, action: str, permission: str) -> None:
    client = login(*({"retry", "cancel", "delete", "edit"} - {permission}))
    message = make_waiting()
    page = action_url(action, ids=str(message.id))
    assert client.get(page).status_code == 403
    assert client.post(page, {"reason": "x", "seen": "2100-01-01T00:00"}).status_code == 403
    assert page not in content(client, page_of(message))
    assert page not in content(client, f"{url('outboxmessage')}?status=pending")
    assert row(message).updated_at == message.updated_at


@pytest.mark.parametrize(("action", "permission"), PENDING_ACTIONS)
def test_other_messages_are_not_acted_on(login: Login, action: str, permission: str) -> None:
    client = login(permission)
    messages = [make_message(status) for status in ("published", "consumed", "dead")]
    response = act(client, action, *messages)
    assert told(response)[0].startswith("0 messages ")
    assert statuses() == ["published", "consumed", "dead"]


@pytest.mark.parametrize(("action", "permission"), PENDING_ACTIONS)
def test_messages_written_after_the_page_was_shown_are_left_alone(login: Login, action: str, permission: str) -> None:
    client = login(permission)
    make_waiting()
    form = client.get(action_url(action)).context["form"]
    late = make_waiting(created_at=DatabaseNow() + A_DAY)
    client.post(action_url(action), {"reason": "x", "seen": form["seen"].value()})
    assert row(late).updated_at == late.updated_at
    assert said()["count"] == 1


@pytest.mark.parametrize("on_dead", ["hold", "continue"])
def test_page_says_if_cancelled_messages_hold_their_keys(login: Login, on_dead: str) -> None:
    message = make_waiting(message_key="k")
    client = login("cancel")
    with outbox_settings(ON_DEAD=on_dead):
        shown = content(client, action_url("cancel", ids=str(message.id)))
    assert ("later messages with the same keys wait until someone retries" in shown) == (on_dead == "hold")


def test_skipped_and_released_messages_are_counted(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    client = login("cancel")
    make_waiting()
    monkeypatch.setattr(controls, "cancel", lambda *arguments, **options: iter([controls.Controlled(1, 2, 3)]))
    assert told(act(client, "cancel", query={"status": "pending"})) == [
        "1 message was cancelled. 3 later messages with the same keys are due now too. "
        "2 were skipped: they are being sent or handled, or have changed."
    ]


def test_message_that_is_due_is_not_offered_to_be_sent_now(login: Login) -> None:
    message = make_message()
    shown = content(login("retry", "cancel"), page_of(message))
    assert action_url("send_now", ids=str(message.id)) not in shown
    assert action_url("cancel", ids=str(message.id)) in shown


def test_cancellation_is_in_the_history(login: Login) -> None:
    client = login("cancel")
    message = make_waiting()
    act(client, "cancel", message, reason="sent twice")
    shown = content(client, page_of(row(message)))
    assert "staff cancelled 1 message" in shown
    assert "Cancelled by staff." in shown


def test_pending_message_of_the_inbox_is_acted_on(login: Login) -> None:
    message = make_received(next_retry_at=DatabaseNow() + A_DAY)
    client = login("retry", "cancel", table="inboxmessage", dead="inboxdeadletter")
    assert "Handle now…" in content(client, page_of(message))
    assert told(act(client, "send_now", message, table="inboxmessage")) == ["1 message is due now."]
    assert told(act(client, "cancel", message, table="inboxmessage")) == ["1 message was cancelled."]
    message.refresh_from_db()
    assert message.status == "dead"
