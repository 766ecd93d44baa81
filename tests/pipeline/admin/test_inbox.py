"""The inbox among the operators' pages: the same lists, pages and actions as the outbox has."""

from __future__ import annotations

import base64
import html
import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client

from django_outbox.admin.tables import INBOX
from django_outbox.models import InboxMessage, MessageFailure, OutboxMessage, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.observability.masking import MASK
from django_outbox.state import dead_letters
from tests.support.inbox import Receiver, Status, make_received, only, plain, received, statuses
from tests.support.outbox import make_message
from tests.support.overrides import outbox_settings
from tests.support.pages import INBOX_DEAD_LETTERS as DEAD_LETTERS
from tests.support.pages import INBOX_MESSAGES as MESSAGES
from tests.support.pages import Login, act, action_url, content, listed, make_failure, page_of, textareas, told, url

pytestmark = pytest.mark.django_db


@pytest.fixture
def enter(login: Login) -> Login:
    """Log in as staff who may view the lists of the inbox and has these permissions more."""

    def enter(*more: str) -> Client:
        client: Client = login(*more, table=MESSAGES, dead=DEAD_LETTERS)
        return client

    return enter


def make_dead(**fields: Any) -> InboxMessage:
    return make_received(Status.DEAD, **fields)


def timeline(client: Client, message: InboxMessage) -> list[tuple[str, str]]:
    message.refresh_from_db()
    return [(moment.kind, moment.text) for moment in client.get(page_of(message)).context["timeline"]]


# The lists


def test_lists_show_all_messages_and_the_dead_ones(enter: Login) -> None:
    ids = [make_received(status).id for status in Status.values]
    client = enter()
    assert listed(client.get(url(MESSAGES))) == ids[::-1]
    assert listed(client.get(url(DEAD_LETTERS))) == [ids[Status.values.index("dead")]]


@pytest.mark.parametrize("model", [MESSAGES, DEAD_LETTERS])
@pytest.mark.parametrize("term", ["the-event", "the key", "{id}"])
def test_message_is_found_by_id_event_id_and_key(enter: Login, model: str, term: str) -> None:
    make_dead()
    message = make_dead(event_id="the-event", message_key="the key")
    assert listed(enter().get(url(model), {"q": term.format(id=message.id)})) == [message.id]


@pytest.mark.parametrize("model", [MESSAGES, DEAD_LETTERS])
@pytest.mark.parametrize("query", [{"group": "others"}, {"topic": "t"}, {"type": "e"}, {"error": "f"}])
def test_lists_can_be_filtered(enter: Login, model: str, query: dict[str, str]) -> None:
    make_dead()
    message = make_dead(group="others", topic="t", event_type="e", fingerprint="f")
    assert listed(enter().get(url(model), query)) == [message.id]


def test_states_to_choose_from_are_those_of_the_inbox(enter: Login) -> None:
    make_received()
    shown = content(enter(), url(MESSAGES))
    assert "?status=consumed" in shown
    assert "?status=published" not in shown


def test_outbox_knows_no_groups(login: Login) -> None:
    make_message("dead")
    assert login("retry").get(action_url("retry", group="tests")).context["count"] == 0


def test_dead_letters_are_grouped_by_error(enter: Login) -> None:
    receiver = Receiver()
    receiver.on("order.created")
    receiver.receive(plain(b"no event"), plain(b"none either"))
    groups = enter().get(url(DEAD_LETTERS)).context["groups"]
    assert [(group.count, group.title) for group in groups] == [(2, only_fingerprint())]


def only_fingerprint() -> str:
    (fingerprint,) = set(InboxMessage.objects.values_list("fingerprint", flat=True))
    assert fingerprint.startswith("It cannot be read: ")
    return fingerprint


def test_lists_do_not_read_what_was_received(enter: Login) -> None:
    make_dead(raw_value=b"bytes")
    client = enter()
    for model in (MESSAGES, DEAD_LETTERS):
        (message,) = client.get(url(model)).context["cl"].result_list
        assert "raw_value" in message.get_deferred_fields()


@pytest.mark.databases("postgresql")
def test_the_dead_are_found_by_an_index_that_nothing_else_uses() -> None:
    for _ in range(500):
        make_received(Status.CONSUMED)
    make_dead()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_outbox_inboxmessage")
        cursor.execute("SET LOCAL enable_seqscan = off")
    newest = INBOX.dead.order_by("-id")[:50]
    assert "django_outbox_inbox_unfinished" in newest.explain()
    assert "unfinished" not in InboxMessage.objects.filter(status="dead").order_by("-id")[:50].explain()


# The page


@pytest.mark.parametrize("status", Status.values)
def test_page_of_every_state_says_where_it_stands(enter: Login, status: str) -> None:
    response = enter().get(page_of(make_received(status)))
    assert response.status_code == 200
    assert response.context["headline"]


def test_page_shows_what_was_received_as_text_and_digits(enter: Login) -> None:
    message = make_dead(source="", raw_value=b"<b>Zo\xc3\xab\xff", raw_key=b"\0", payload=None, last_error="It cannot.")
    page = content(enter("see_payload"), page_of(message))
    assert "<b>Zo" not in page
    assert [html.unescape(text) for text in textareas(page)][1:] == [  # after the headers; there is no payload
        "\N{REPLACEMENT CHARACTER}\n\n00",
        "<b>Zoë\N{REPLACEMENT CHARACTER}\n\n3c 62 3e 5a 6f c3 ab ff",
    ]
    assert "It cannot." in page


def test_history_says_that_a_record_could_not_be_read_and_blames_no_handler(enter: Login) -> None:
    poison, failed = make_dead(source="", raw_value=b"?"), make_dead()
    for message in (poison, failed):
        make_failure(message, final=True)
    client = enter()
    assert timeline(client, poison)[-1][1].startswith("Could not be read, attempt 1")
    assert timeline(client, failed)[-1][1].startswith("Its handler failed, attempt 1")


def test_page_shows_the_beginning_of_very_many_bytes(enter: Login) -> None:
    page = content(enter("see_payload"), page_of(make_dead(source="", raw_value=b"x" * 100_000)))
    assert "… 100000 bytes in total" in page
    assert len(page) < 50_000


def test_what_was_received_is_hidden_from_who_may_not_see_secrets(enter: Login) -> None:
    message = make_dead(source="", raw_value=b"hunter2")
    client = enter()
    page = content(client, page_of(message))
    assert "hunter2" not in page
    assert b"hunter2".hex(" ") not in page
    assert "may contain secrets" in page
    with outbox_settings(REDACT=[]):
        assert "hunter2" in content(client, page_of(message))


def test_what_a_mapper_says_of_hidden_bytes_is_hidden_too(enter: Login) -> None:
    error = "It cannot be read: the mapper failed.\n\nValueError: no password: hunter2"
    message = make_dead(source="", payload=None, raw_value=b"hunter2", last_error=error)
    make_failure(message, error=error, final=True)
    client = enter()
    page = content(client, page_of(message))
    assert "It cannot be read: the mapper failed." in page
    assert "hunter2" not in page
    with outbox_settings(REDACT=[]):
        assert "no password: hunter2" in content(client, page_of(message))


def test_a_copy_of_hidden_bytes_hides_them_too(login: Login) -> None:
    error = "It cannot be read: the mapper failed.\n\nValueError: no password: hunter2"
    with outbox_settings(DEAD_LETTER_TOPIC="outbox.dead"):
        record = make_dead(source="", payload=None, raw_value=b"hunter2", last_error=error)
        dead_letters.publish_copy(record, error, using="default")
    copy = OutboxMessage.objects.get()
    client = login()
    page = content(client, page_of(copy))
    assert "It cannot be read: the mapper failed." in page
    assert "hunter2" not in page
    assert base64.b64encode(b"hunter2").decode() not in page
    assert "may contain secrets" in page
    with outbox_settings(REDACT=[]):
        assert base64.b64encode(b"hunter2").decode() in content(client, page_of(copy))


def test_secret_values_are_hidden(enter: Login) -> None:
    message = make_dead(payload={"password": "hunter2"}, last_error="wrong: hunter2")
    client = enter()
    for page in (page_of(message), url(DEAD_LETTERS)):
        shown = content(client, page)
        assert "hunter2" not in shown
        assert MASK in shown


def test_timeline_tells_the_whole_life(enter: Login) -> None:
    receiver = Receiver()
    broken = True

    def handle(event: Any) -> None:
        if broken:
            raise ValueError("boom")

    receiver.on("order.created", handle)
    with outbox_settings(MAX_RETRY=2):
        receiver.receive(received(offset=7))
    receiver.retry()
    client = enter("retry")
    act(client, "retry", only(), table=MESSAGES)
    broken = False
    receiver.retry()
    worker = only().failures.earliest("id").worker
    assert timeline(client, only()) == [
        ("written", "Received by tests from elsewhere, partition 0, offset 7"),
        ("failed", f"Its handler failed, attempt 1, worker {worker}"),
        ("failed", f"Its handler failed, attempt 2, worker {worker}, now dead"),
        ("operator", "staff retried 1 dead letter"),
        ("consumed", "Handled"),
    ]


def test_page_names_the_message_that_comes_first_in_its_group(enter: Login) -> None:
    first = make_received(message_key="k")
    second = make_received(message_key="k")
    make_received(message_key="k", group="others")
    client = enter()
    assert client.get(page_of(first)).context["blocked"] == 1
    assert client.get(page_of(second)).context["blocker"] == first


# Acting


def test_dead_letters_are_retried_with_the_permission_alone(enter: Login, django_user_model: Any) -> None:
    message = make_dead()
    client = enter()
    assert act(client, "retry", message, table=MESSAGES).status_code == 403
    assert only().status == "dead"
    django_user_model.objects.all().delete()
    response = act(enter("retry"), "retry", message, table=MESSAGES)
    assert told(response) == ["1 dead letter is pending again and due now."]
    assert only().status == "pending"


def test_ticked_dead_letters_are_asked_about(enter: Login) -> None:
    message = make_dead()
    response = enter("retry").post(url(DEAD_LETTERS), {"action": "retry", "_selected_action": [message.id]})
    assert response.url == action_url("retry", MESSAGES, ids=str(message.id))


def test_dead_letters_of_a_group_are_deleted_with_their_failures(enter: Login) -> None:
    receiver = Receiver()
    receiver.receive(plain(b"no event"))
    make_dead(group="others")
    make_received()
    act(enter("delete"), "delete", table=MESSAGES, query={"group": "tests"})
    assert statuses() == ["dead", "pending"]
    assert not InboxMessage.objects.filter(failures__isnull=False).exists()


def test_a_payload_is_edited_and_retried(enter: Login) -> None:
    message = make_dead(payload={"order": "x"})
    act(enter("edit", "see_payload"), "edit", message, table=MESSAGES, payload='{"order": 1}')
    assert (only().status, only().payload) == ("pending", {"order": 1})
    said = json.loads(LogEntry.objects.get().change_message)[0]["outbox"]
    assert said["details"] == {"payload_before": {"order": "x"}}


def test_what_could_not_be_read_has_no_payload_to_edit(enter: Login) -> None:
    message = make_dead(source="", payload=None, raw_value=b"no event")
    client = enter("edit", "see_payload")
    page = action_url("edit", MESSAGES, ids=str(message.id))
    assert page not in content(client, page_of(message))
    assert client.get(page).status_code == 404


def test_nothing_can_be_written_otherwise(enter: Login) -> None:
    message = make_received()
    client = enter("retry", "edit", "delete", "see_payload")
    assert client.get(url(MESSAGES, "add")).status_code == 403
    assert client.post(url(MESSAGES, "change", message.id), {"status": "consumed"}).status_code == 403
    assert client.post(url(MESSAGES, "delete", message.id), {"post": "yes"}).status_code == 403


def test_permissions_of_the_outbox_are_none_for_the_inbox(login: Login) -> None:
    client = login("retry", "edit", "delete", "see_payload")
    message = make_dead()
    assert client.get(url(MESSAGES)).status_code == 403
    assert client.get(page_of(message)).status_code == 403
    for action in ("retry", "delete", "edit"):
        assert client.get(action_url(action, MESSAGES, ids=str(message.id))).status_code == 403


# The overview


def overview(client: Client) -> Any:
    return client.get(url("overview")).context


def test_overview_has_counts_and_ages_of_the_inbox(admin_client: Client) -> None:
    oldest = make_received(created_at=DatabaseNow() - timedelta(hours=1))
    make_received()
    make_received(Status.CONSUMED)
    make_dead(fingerprint="f", last_error="boom")
    found = overview(admin_client)["panels"][1]
    assert [(state.status, state.count) for state in found.statuses] == [("pending", 2), ("dead", 1)]
    assert found.statuses[0].oldest == oldest
    assert [group.title for group in found.letters.groups] == ["f"]


def test_overview_says_what_is_stuck_in_the_inbox(admin_client: Client) -> None:
    make_received(group="reports", next_retry_at=DatabaseNow() - timedelta(minutes=2))
    make_dead(last_error="boom")
    Worker.objects.create(kind="consumer", group="reports", host="h", pid=1)
    found = {notice.title: notice for notice in overview(admin_client)["notices"]}
    assert {"1 message of the inbox is dead", "The inbox is behind"} <= set(found)
    assert found["The inbox is behind"].links[0].url == url(MESSAGES) + "?status=pending&group=reports"


def test_overview_says_what_waits_for_a_group_that_nobody_consumes(admin_client: Client) -> None:
    make_received(group="reports", next_retry_at=DatabaseNow() - timedelta(minutes=5))
    found = {notice.title: notice.text for notice in overview(admin_client)["notices"]}
    assert found["No consumer of the group reports is running"] == (
        "Messages have waited for their handler for 5\xa0minutes. "
        "Its handlers are not called. Start one: manage.py outbox_consume --group reports"
    )


def test_overview_links_to_what_waits_for_a_group_whatever_its_name(admin_client: Client) -> None:
    message = make_received(group="R&D #1", next_retry_at=DatabaseNow() - timedelta(minutes=5))
    with outbox_settings(CONSUMER_GROUP="R&D #1"):
        found = {notice.title: notice for notice in overview(admin_client)["notices"]}
    (link,) = found["No consumer of the group R&D #1 is running"].links
    assert listed(admin_client.get(link.url)) == [message.id]


def test_overview_says_what_keeps_failing_in_the_inbox(admin_client: Client) -> None:
    message = make_received(retry_count=3, last_error="ValueError: boom")
    MessageFailure.objects.create(inbox_message=message, worker="w", stage="handle", attempt=3, final=False, error="b")
    titles = [notice.title for notice in overview(admin_client)["notices"]]
    assert "1 message of the inbox keeps failing" in titles


def test_an_empty_inbox_is_not_shown(admin_client: Client) -> None:
    assert [panel.title for panel in overview(admin_client)["panels"]] == ["Outbox"]


def test_overview_shows_nothing_of_the_inbox_to_who_may_not_view_it(login: Login, admin_client: Client) -> None:
    make_dead(last_error="boom")
    act(admin_client, "retry", table=MESSAGES, query={"group": "tests"})
    make_dead(last_error="boom")
    assert overview(admin_client)["audit_entries"]
    context = overview(login())
    assert not context["audit_entries"]
    assert [panel.title for panel in context["panels"]] == ["Outbox"]
    assert not [notice for notice in context["notices"] if "inbox" in notice.title]
