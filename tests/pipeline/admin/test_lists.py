"""The lists of messages and dead letters: what they show, find and leave out, and that they stay cheap."""

from __future__ import annotations

import html
import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from django_outbox.admin.message_list import MessageAdmin
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.outbox import Status, make_message, row
from tests.support.overrides import outbox_settings
from tests.support.pages import (
    DEAD_LETTERS,
    LISTS,
    MESSAGES,
    SCRIPT,
    Login,
    action_url,
    content,
    listed,
    make_dead,
    told,
    url,
)

pytestmark = pytest.mark.django_db

EVENT_ID = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def search(client: Client, term: str, model: str = MESSAGES) -> list[int]:
    return listed(client.get(url(model), {"q": term}))


# Lists


def test_lists_and_overview_are_in_the_index(admin_client: Client) -> None:
    index = content(admin_client, reverse("admin:index"))
    for model in (MESSAGES, DEAD_LETTERS, "overview"):
        assert url(model) in index


def test_messages_are_listed_newest_first(admin_client: Client) -> None:
    messages = [make_message(status) for status in Status.values]
    assert listed(admin_client.get(url(MESSAGES))) == [message.id for message in reversed(messages)]


def test_dead_letters_are_the_dead_alone_with_their_reason(admin_client: Client) -> None:
    for status in Status.values:
        make_message(status, last_error=f"why it is {status}\nand more")
    response = admin_client.get(url(DEAD_LETTERS))
    assert len(listed(response)) == 1
    shown = response.content.decode()
    assert "why it is dead" in shown
    assert "and more" not in shown


def test_long_errors_are_shortened_in_the_list_only(admin_client: Client) -> None:
    message = make_message(Status.DEAD, last_error="x" * 2000)
    shown = content(admin_client, f"{url(DEAD_LETTERS)}?error=-")
    assert "x" * 79 + "…" in shown
    assert "x" * 80 not in shown
    assert "x" * 2000 in admin_client.get(url(DEAD_LETTERS, "change", message.id)).content.decode()


@pytest.mark.parametrize("status", Status.values)
def test_messages_are_filtered_by_status(admin_client: Client, status: str) -> None:
    ids = {each: make_message(each).id for each in Status.values}
    assert listed(admin_client.get(url(MESSAGES), {"status": status})) == [ids[status]]


def test_message_that_is_not_dead_is_no_dead_letter(admin_client: Client) -> None:
    message = make_message()
    response = admin_client.get(url(DEAD_LETTERS, "change", message.id))
    assert response.status_code == 302
    assert f"“{message.id}”" in told(response)[0]


@pytest.mark.parametrize("model", LISTS)
def test_a_page_costs_few_queries_however_many_messages_there_are(admin_client: Client, model: str) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(url(model)).status_code == 200
        return len(captured)

    make_message(Status.DEAD)
    few = queries()
    for _ in range(30):
        make_message(Status.DEAD)
    assert queries() == few <= 8


@pytest.mark.parametrize("model", LISTS)
@pytest.mark.parametrize(
    "query", ["", "?status=pending", "?q=k", "?before=100", "?type=order.created&age=1h&failures=1"]
)
def test_lists_count_nothing_and_walk_over_nothing(admin_client: Client, model: str, query: str) -> None:
    make_dead()
    with CaptureQueriesContext(connection) as captured:
        admin_client.get(url(model) + query)
    about_rows = [query["sql"] for query in captured if 'FROM "django_outbox' in query["sql"].replace("`", '"')]
    lists = [sql for sql in about_rows if "GROUP BY" not in sql and " IN (" not in sql]
    assert all(word not in sql for sql in lists for word in ("COUNT(", "DISTINCT", "OFFSET"))


def test_list_of_messages_does_not_read_payloads(admin_client: Client) -> None:
    make_message()
    with CaptureQueriesContext(connection) as captured:
        admin_client.get(url(MESSAGES))
    assert not [query for query in captured if "payload" in query["sql"] and "outboxmessage" in query["sql"]]


def test_pages_go_on_below_the_last_id(admin_client: Client) -> None:
    messages = [make_message().id for _ in range(120)]
    seen: list[int] = []
    page = url(MESSAGES)
    for _ in range(3):
        response = admin_client.get(page)
        seen += listed(response)
        older = response.context["cl"].older
        page = f"{url(MESSAGES)}{older}"
    assert older is None
    assert seen == messages[::-1]
    assert response.context["cl"].newest == "?"


def test_pages_keep_their_filter(admin_client: Client) -> None:
    for _ in range(51):
        make_dead()
        make_message()
    response = admin_client.get(url(MESSAGES), {"status": "dead"})
    assert len(listed(response)) == 50
    response = admin_client.get(url(MESSAGES) + response.context["cl"].older)
    assert len(listed(response)) == 1


def test_filters_and_searches_begin_with_the_newest_again(admin_client: Client) -> None:
    for _ in range(51):
        make_message()
    newest = make_message(topic="outbox", message_key="k")
    page = admin_client.get(url(MESSAGES) + admin_client.get(url(MESSAGES)).context["cl"].older)
    assert newest.id not in listed(page)
    (link,) = re.findall(r'href="(\?[^"]*topic=outbox[^"]*)"', page.content.decode())
    assert newest.id in listed(admin_client.get(url(MESSAGES) + html.unescape(link)))
    assert 'name="before"' not in page.content.decode()  # a hidden field of the search


@pytest.mark.parametrize("query", ["before=x", "before=-1", "before=" + "9" * 30, "o=5", "p=9", "all="])
def test_junk_in_the_address_shows_a_list(admin_client: Client, query: str) -> None:
    message = make_message()
    assert listed(admin_client.get(f"{url(MESSAGES)}?{query}", follow=True)) == [message.id]


# Filters


def test_filters_offer_types_and_topics_of_settings_and_handlers(admin_client: Client) -> None:
    with outbox_settings(TOPIC="here", ROUTES={"order.*": "orders"}):
        shown = content(admin_client, url(MESSAGES))
    for text in ("?type=test.effect", "?topic=here", "?topic=orders"):
        assert text in shown


def test_long_names_are_shortened_in_the_middle(admin_client: Client) -> None:
    make_message(message_key="customer/" + "x" * 200 + "/7", event_type="t" * 255)
    (message,) = admin_client.get(url(MESSAGES)).context["cl"].result_list
    shown = MessageAdmin(OutboxMessage, site)
    assert shown.key(message).replace("<wbr>", "") == "customer/" + "x" * 22 + "…" + "x" * 14 + "/7"
    assert len(shown.event(message)) == 48
    assert shown.key(make_message()) == "-"


@pytest.mark.parametrize("model", LISTS)
def test_an_empty_list_offers_no_action(admin_client: Client, model: str) -> None:
    shown = content(admin_client, url(model))
    assert "No messages." in shown
    assert 'name="action"' not in shown


def test_messages_are_filtered_by_type_topic_age_failures_and_error(admin_client: Client) -> None:
    wanted = make_dead(event_type="a.b", topic="t", retry_count=12, fingerprint="ValueError in x")
    OutboxMessage.objects.filter(id=wanted.id).update(created_at=DatabaseNow() - timedelta(hours=2))
    make_dead()
    for query in ("type=a.b", "topic=t", "age=1h", "failures=1", "failures=10", "error=ValueError+in+x"):
        for model in LISTS:
            assert listed(admin_client.get(f"{url(model)}?{query}")) == [wanted.id], query
    for query in (
        "type=a",
        "topic=T",
        "age=1d",
        "failures=0&type=a.b",
        "age=junk",
        "failures=junk",
        "error=ValueError",
    ):
        assert listed(admin_client.get(f"{url(MESSAGES)}?{query}")) == [], query


@pytest.mark.parametrize("model", LISTS)
def test_messages_of_several_services_are_listed_and_filtered_by_source(admin_client: Client, model: str) -> None:
    own = make_message(Status.DEAD)
    assert "?source=" not in content(admin_client, url(model))
    foreign = make_message(Status.DEAD, source="billing")
    for _ in range(2):
        for source in ("billing", "crm"):
            make_message(Status.PUBLISHED, source=source)

    page = content(admin_client, url(model))
    assert re.findall(r"\?source=([^\"&]*)", page) == ["tests", "billing", "crm"]
    assert {own.id, foreign.id} <= set(listed(admin_client.get(url(model))))
    found = listed(admin_client.get(url(model), {"source": "billing"}))
    assert foreign.id in found
    assert own.id not in found
    assert "billing" in content(admin_client, url(DEAD_LETTERS, "change", foreign.id))


def test_a_group_filters_the_list_and_is_named_beside_it(admin_client: Client) -> None:
    make_dead(fingerprint="ValueError in x.y")
    shown = content(admin_client, f"{url(DEAD_LETTERS)}?error=ValueError+in+x.y")
    assert "ValueError in x.y</a>" in shown


QUESTIONS = [
    "payload__password__startswith=h",
    "payload__contains=h",
    "last_error__contains=h",
    "headers__token=h",
    "failures__id__gt=0",
    "message_key=k",
]


@pytest.mark.parametrize("model", LISTS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_lists_answer_no_question_but_those_of_their_filters(admin_client: Client, model: str, question: str) -> None:
    """One about a payload would tell what is hidden in it; and what none of the actions on a list knows of would
    let them act on more than it shows.
    """
    make_dead(payload={"password": "hunter2"})
    assert admin_client.get(f"{url(model)}?{question}").status_code == 400


# Groups


def test_dead_letters_are_grouped_by_their_error(admin_client: Client) -> None:
    for n in range(3):
        make_dead(fingerprint="ValueError in shop.ship", last_error=f"ValueError: {n}")
    make_dead(fingerprint="Rejected")
    groups = admin_client.get(url(DEAD_LETTERS)).context["groups"]
    assert [(group.title, group.count) for group in groups] == [("ValueError in shop.ship", 3), ("Rejected", 1)]
    assert groups[0].error == "ValueError: 2"
    assert groups[0].first <= groups[0].last


def test_each_group_links_to_its_letters_and_its_retry(admin_client: Client) -> None:
    make_dead(fingerprint="Value<Error> in x & y")
    shown = content(admin_client, url(DEAD_LETTERS))
    for page in (
        url(DEAD_LETTERS) + "?error=Value%3CError%3E+in+x+%26+y",
        action_url("retry", error="Value<Error> in x & y"),
    ):
        assert html.escape(page) in shown


@pytest.mark.parametrize("max_retry", [0, 1])
def test_a_message_without_retries_has_failed_once_of_once(admin_client: Client, max_retry: int) -> None:
    make_dead(retry_count=1, max_retry=max_retry)
    assert "1 / 1" in admin_client.get("/admin/django_outbox/deadletter/").content.decode()


def test_letters_without_a_fingerprint_are_a_group_too(admin_client: Client) -> None:
    message = make_dead(last_error="from before")
    make_dead(fingerprint="other")
    group = next(group for group in admin_client.get(url(DEAD_LETTERS)).context["groups"] if not group.title)
    assert group.count == 1
    assert listed(admin_client.get(f"{url(DEAD_LETTERS)}?{group.selection.query}")) == [message.id]


# Search


def test_search_finds_id_event_id_and_key_exactly(admin_client: Client) -> None:
    message = make_message(event_id=EVENT_ID, message_key="käufer-4")
    make_message(message_key="käufer-44")
    for term in (str(message.id), str(EVENT_ID), EVENT_ID.hex, str(EVENT_ID).upper(), "käufer-4", " käufer-4 "):
        assert search(admin_client, term) == [message.id]


def test_search_finds_a_key_among_the_unfinished_and_the_last_of_the_finished(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_outbox.admin.message_list.RECENT", 10)
    old, unfinished = make_message(Status.CONSUMED, id=1, message_key="k"), make_message(id=2, message_key="k")
    recent = make_message(Status.CONSUMED, id=100, message_key="k")
    assert search(admin_client, "k") == [recent.id, unfinished.id]
    assert search(admin_client, str(old.id)) == [old.id]


def test_search_finds_nothing_by_a_part(admin_client: Client) -> None:
    message = make_message(id=123_456, event_id=EVENT_ID, message_key="käufer-4", payload="needle")
    make_dead(last_error="needle")
    for term in ("12345", "käufer", "-4", "KÄUFER-4", str(EVENT_ID)[:-1], "order", "needle", "%", "_", message.topic):
        assert search(admin_client, term) == []


def test_search_finds_a_key_that_looks_like_an_id(admin_client: Client) -> None:
    key = str(uuid.uuid4())
    by_id = make_message(event_id=key)
    by_key = make_message(message_key=key)
    assert set(search(admin_client, key)) == {by_id.id, by_key.id}
    number = make_message(message_key=str(by_id.id))
    assert set(search(admin_client, str(by_id.id))) == {by_id.id, number.id}
    digits = make_message(message_key="1" * 32)
    assert search(admin_client, "1" * 32) == [digits.id]


@pytest.mark.parametrize(
    "term",
    [
        "9" * 19,
        "9" * 30,
        "9" * 5000,
        str(2**63),
        "-1",
        "1.5",
        "\u0661",
        "\u00b2",
        "{}",
        "'\"; --",
        "\0",
        "\N{GRINNING FACE}",
        SCRIPT,
        "0" * 31,
        "urn:uuid:",
    ],
)
def test_search_survives_junk(admin_client: Client, term: str) -> None:
    make_message()
    assert search(admin_client, term) in ([], [OutboxMessage.objects.get().id])  # NUL: Django asks to mend the term
    assert search(admin_client, term, DEAD_LETTERS) == []


def test_search_among_dead_letters_finds_no_others(admin_client: Client) -> None:
    alive, dead = make_message(message_key="k"), make_message(Status.DEAD, message_key="k")
    assert search(admin_client, "k", DEAD_LETTERS) == [dead.id]
    assert search(admin_client, str(alive.id), DEAD_LETTERS) == []


# Nobody writes, nobody runs scripts


@pytest.mark.parametrize("model", LISTS)
def test_markup_in_a_message_stays_text(admin_client: Client, model: str) -> None:
    message = make_dead(
        event_type=SCRIPT,
        message_key=SCRIPT,
        topic=SCRIPT,
        payload={SCRIPT: SCRIPT},
        headers={SCRIPT: SCRIPT},
        last_error=SCRIPT,
        fingerprint=SCRIPT,
    )
    for page in (
        url(model),
        url(model, "change", message.id),
        action_url("retry", ids=str(message.id)),
        url("overview"),
    ):
        shown = content(admin_client, page)
        assert SCRIPT not in shown
        assert html.escape(SCRIPT) in shown


@pytest.mark.parametrize("model", LISTS)
def test_nobody_adds_changes_or_deletes_past_the_actions(admin_client: Client, model: str) -> None:
    message = make_dead()
    data = {"status": "consumed", "event_type": "changed", "post": "yes"}
    for page in (url(model, "add"), url(model, "change", message.id), url(model, "delete", message.id)):
        assert admin_client.post(page, data).status_code == 403
    for page in (url(model, "add"), url(model, "delete", message.id)):
        assert admin_client.get(page).status_code == 403
    after = row(message)
    assert (after.status, after.event_type, after.updated_at) == ("dead", "order.created", message.updated_at)


@pytest.mark.parametrize("model", LISTS)
def test_djangos_deletion_is_no_action(admin_client: Client, model: str) -> None:
    message = make_dead()
    assert "delete_selected" not in content(admin_client, url(model))
    admin_client.post(url(model), {"action": "delete_selected", "_selected_action": [message.id], "post": "yes"})
    assert row(message).status == "dead"


# Ways to the actions


@pytest.mark.parametrize("model", LISTS)
@pytest.mark.parametrize("action", ["retry", "delete"])
def test_ticked_messages_go_to_the_page_that_asks(login: Login, model: str, action: str) -> None:
    client = login(action)
    first, second = make_dead(), make_dead()
    response = client.post(url(model), {"action": action, "_selected_action": [first.id, second.id]})
    assert response.url == action_url(action, ids=f"{first.id},{second.id}")
    assert row(first).status == "dead"


@pytest.mark.parametrize("model", LISTS)
def test_who_may_only_view_sees_no_way_to_an_action(login: Login, model: str) -> None:
    client = login()
    make_dead()
    shown = content(client, url(model)) + content(client, url(model) + "?status=dead" * (model == MESSAGES))
    for action in ("retry", "delete"):
        assert f'value="{action}"' not in shown
        assert action_url(action) not in shown


@pytest.mark.parametrize("action", ["retry", "delete"])
def test_who_may_act_is_offered_all_that_is_listed(login: Login, action: str) -> None:
    client = login(action)
    make_dead(topic="t")
    assert html.escape(action_url(action, topic="t")) in content(client, url(DEAD_LETTERS) + "?topic=t")
    assert html.escape(action_url(action, status="dead")) in content(client, url(MESSAGES) + "?status=dead")
    assert action_url(action) not in content(client, url(MESSAGES))


@pytest.mark.parametrize("model", [*LISTS, "overview"])
def test_who_may_not_view_gets_nowhere(client: Client, django_user_model: Any, model: str) -> None:
    user = django_user_model.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["retry_outboxmessage", "delete_outboxmessage"]))
    client.force_login(user)
    message = make_dead()
    assert client.get(url(model)).status_code == 403
    for action in ("retry", "delete", "edit"):
        page = action_url(action, ids=str(message.id))
        assert client.get(page).status_code == 403
        assert client.post(page, {"reason": "x", "seen": "2100-01-01"}).status_code == 403
    assert row(message).status == "dead"


def test_permissions_are_these_alone() -> None:
    names = Permission.objects.filter(content_type__app_label="django_outbox").values_list("codename", flat=True)
    actions = ("cancel", "delete", "edit", "retry", "see_payload", "view")
    expected = [f"{action}_{model}" for action in actions for model in ("inboxmessage", "outboxmessage")]
    assert sorted(names) == sorted(["view_deadletter", "view_inboxdeadletter", "view_pause", "change_pause", *expected])


def test_list_says_when_a_message_is_due(admin_client: Client) -> None:
    make_message(next_retry_at=DatabaseNow() + timedelta(minutes=5, seconds=30))
    make_message(next_retry_at=DatabaseNow() - timedelta(seconds=31))
    make_message(Status.CONSUMED)
    shown = content(admin_client, url(MESSAGES))
    assert [cell.split("<")[0] for cell in shown.split('class="field-due">')[1:]] == ["-", "now", "in 5\xa0minutes"]
