"""The admin: messages and dead letters are found and read, never written, but for the retry of the dead."""

from __future__ import annotations

import html
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from django_outbox import publish, state
from django_outbox.admin import OutboxMessageAdmin
from django_outbox.models import OutboxMessage
from tests.outbox import Status, make_message, row, statuses

pytestmark = pytest.mark.django_db

MESSAGES, DEAD_LETTERS = "outboxmessage", "deadletter"
LISTS = (MESSAGES, DEAD_LETTERS)
SCRIPT = "<script>alert('x')</script>"
EVENT_ID = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")

Login = Callable[..., Client]


@pytest.fixture
def login(client: Client, django_user_model: type[User]) -> Login:
    """Log in as staff who may view both lists and has these permissions more."""

    def login(*more: str) -> Client:
        user = django_user_model.objects.create_user("staff", is_staff=True)
        names = [f"view_{name}" for name in LISTS] + list(more)
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="django_outbox", codename__in=names)
        )
        client.force_login(user)
        return client

    return login


def url(model: str, view: str = "changelist", *arguments: Any) -> str:
    return reverse(f"admin:django_outbox_{model}_{view}", args=arguments)


def listed(response: HttpResponse) -> list[int]:
    """The ids of the rows that a list shows."""
    assert response.status_code == 200
    return [message.id for message in response.context["cl"].result_list]  # type: ignore[attr-defined]


def search(client: Client, term: str, model: str = MESSAGES) -> list[int]:
    return listed(client.get(url(model), {"q": term}))


def retry(client: Client, model: str, *messages: OutboxMessage, across: bool = False, **query: str) -> HttpResponse:
    data = {
        "action": "retry",
        "_selected_action": [message.id for message in messages],
        "select_across": str(int(across)),
    }
    return client.post(url(model), data, query_params=query)  # type: ignore[call-arg]


def told(response: HttpResponse) -> list[str]:
    return [str(message) for message in get_messages(response.wsgi_request)]  # type: ignore[attr-defined]


# Lists


def test_both_lists_are_in_the_index(admin_client: Client) -> None:
    content = admin_client.get(reverse("admin:index")).content.decode()
    assert url(MESSAGES) in content
    assert url(DEAD_LETTERS) in content


def test_messages_are_listed_newest_first(admin_client: Client) -> None:
    messages = [make_message(status) for status in Status.values]
    assert listed(admin_client.get(url(MESSAGES))) == [message.id for message in reversed(messages)]


def test_dead_letters_are_the_dead_alone_with_their_reason(admin_client: Client) -> None:
    for status in Status.values:
        make_message(status, last_error=f"why it is {status}\nand more")
    response = admin_client.get(url(DEAD_LETTERS))
    assert len(listed(response)) == 1
    content = response.content.decode()
    assert "why it is dead" in content
    assert "and more" not in content


def test_long_errors_are_shortened_in_the_list_only(admin_client: Client) -> None:
    message = make_message(Status.DEAD, last_error="x" * 2000)
    content = admin_client.get(url(DEAD_LETTERS)).content.decode()
    assert "x" * 79 + "…" in content
    assert "x" * 80 not in content
    assert "x" * 2000 in admin_client.get(url(DEAD_LETTERS, "change", message.id)).content.decode()


@pytest.mark.parametrize("status", Status.values)
def test_messages_are_filtered_by_status(admin_client: Client, status: str) -> None:
    ids = {each: make_message(each).id for each in Status.values}
    assert listed(admin_client.get(url(MESSAGES), {"status__exact": status})) == [ids[status]]


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
    assert queries() == few <= 6


def test_pages_do_not_count_the_whole_table(admin_client: Client) -> None:
    make_message()
    with CaptureQueriesContext(connection) as captured:
        admin_client.get(url(MESSAGES), {"status__exact": "pending"})
    counts = [query["sql"] for query in captured if "COUNT(" in query["sql"] and "outboxmessage" in query["sql"]]
    assert len(counts) == 1
    assert "pending" in counts[0]


# Search


def test_search_finds_id_event_id_and_key_exactly(admin_client: Client) -> None:
    message = make_message(event_id=EVENT_ID, message_key="käufer-4")
    make_message(message_key="käufer-44")
    for term in (str(message.id), str(EVENT_ID), EVENT_ID.hex, str(EVENT_ID).upper(), "käufer-4", " käufer-4 "):
        assert search(admin_client, term) == [message.id]


def test_search_finds_nothing_by_a_part(admin_client: Client) -> None:
    message = make_message(id=123_456, event_id=EVENT_ID, message_key="käufer-4", payload="needle")
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


# Reading one


@pytest.mark.parametrize("model", LISTS)
def test_page_shows_payload_headers_and_error_as_they_are(admin_client: Client, model: str) -> None:
    payload = {"items": ["Grüße", {"n": None}], "order": 1}
    message = make_message(Status.DEAD, payload=payload, headers={"trace": "t"}, last_error="Boom: <x>\n  line 2")
    content = admin_client.get(url(model, "change", message.id)).content.decode()
    shown = [html.unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", content, re.DOTALL)]
    assert shown == [
        "Boom: <x>\n  line 2",
        json.dumps(payload, indent=2, ensure_ascii=False),
        json.dumps({"trace": "t"}, indent=2),
    ]


@pytest.mark.parametrize("payload", [None, 0, "", [], "text"])
def test_page_shows_any_payload(admin_client: Client, payload: Any) -> None:
    message = publish("order.created", payload)
    content = admin_client.get(url(MESSAGES, "change", message.id)).content.decode()
    assert f"<pre>{html.escape(json.dumps(payload))}</pre>" in content


@pytest.mark.parametrize("model", LISTS)
def test_markup_in_a_message_stays_text(admin_client: Client, model: str) -> None:
    message = make_message(
        Status.DEAD,
        event_type=SCRIPT,
        message_key=SCRIPT,
        payload={SCRIPT: SCRIPT},
        headers={SCRIPT: SCRIPT},
        last_error=SCRIPT,
    )
    for page in (url(model), url(model, "change", message.id)):
        content = admin_client.get(page).content.decode()
        assert SCRIPT not in content
        assert html.escape(SCRIPT) in content


# Nothing is written


@pytest.mark.parametrize("model", LISTS)
def test_nobody_adds_changes_or_deletes(admin_client: Client, model: str) -> None:
    message = make_message(Status.DEAD)
    data = {"status": "consumed", "event_type": "changed", "post": "yes"}
    for page in (url(model, "add"), url(model, "change", message.id), url(model, "delete", message.id)):
        assert admin_client.post(page, data).status_code == 403
    for page in (url(model, "add"), url(model, "delete", message.id)):
        assert admin_client.get(page).status_code == 403
    after = row(message)
    assert (after.status, after.event_type, after.updated_at) == ("dead", "order.created", message.updated_at)


@pytest.mark.parametrize("model", LISTS)
def test_pages_have_no_fields_and_no_buttons_to_write_with(admin_client: Client, model: str) -> None:
    message = make_message(Status.DEAD)
    content = admin_client.get(url(model, "change", message.id)).content.decode()
    assert not re.search(r'name="_(save|continue|addanother)', content)
    assert not re.search(r"<(input|textarea|select)[^>]* name=\"(status|payload|event_type)", content)


@pytest.mark.parametrize("model", LISTS)
def test_deletion_is_no_action(admin_client: Client, model: str) -> None:
    message = make_message(Status.DEAD)
    assert "delete_selected" not in admin_client.get(url(model)).content.decode()
    admin_client.post(url(model), {"action": "delete_selected", "_selected_action": [message.id], "post": "yes"})
    assert row(message).status == "dead"


# Retry


@pytest.mark.parametrize("model", LISTS)
def test_retry_makes_dead_messages_pending_and_says_how_many(login: Login, model: str) -> None:
    client = login("retry_outboxmessage")
    dead = [make_message(Status.DEAD, retry_count=20, last_error="boom") for _ in range(3)]
    response = retry(client, model, *dead[:2])
    assert told(response) == ["2 dead letters are pending again and will be sent at once."]
    assert statuses() == ["pending", "pending", "dead"]
    assert (row(dead[0]).retry_count, row(dead[0]).last_error) == (0, "boom")


def test_retry_of_one_speaks_of_one(login: Login) -> None:
    client = login("retry_outboxmessage")
    response = retry(client, DEAD_LETTERS, make_message(Status.DEAD))
    assert told(response) == ["1 dead letter is pending again and will be sent at once."]


def test_retry_touches_the_dead_alone(login: Login) -> None:
    client = login("retry_outboxmessage")
    messages = [make_message(status) for status in Status.values]
    response = retry(client, MESSAGES, *messages)
    assert told(response) == ["1 dead letter is pending again and will be sent at once."]
    assert statuses() == ["pending", "published", "consumed", "pending"]
    assert row(messages[0]).updated_at == messages[0].updated_at


def test_retry_of_none_is_a_warning(login: Login) -> None:
    client = login("retry_outboxmessage")
    response = retry(client, MESSAGES, make_message(Status.CONSUMED))
    (message,) = get_messages(response.wsgi_request)  # type: ignore[attr-defined]
    assert message.level_tag == "warning"
    assert message.message.startswith("0 dead letters")


@pytest.mark.parametrize("model", LISTS)
def test_retry_reaches_all_pages(login: Login, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in admin.site._registry.values():
        if each.model._meta.app_label == "django_outbox":
            monkeypatch.setattr(each, "list_per_page", 2)
    client = login("retry_outboxmessage")
    dead = [make_message(Status.DEAD) for _ in range(5)]
    alive = make_message(Status.CONSUMED)
    response = retry(client, model, dead[0], across=True)
    assert told(response) == ["5 dead letters are pending again and will be sent at once."]
    assert row(alive).status == "consumed"


def test_retry_across_pages_keeps_to_what_was_searched_for(login: Login) -> None:
    client = login("retry_outboxmessage")
    wanted, other = make_message(Status.DEAD, message_key="a"), make_message(Status.DEAD, message_key="b")
    response = retry(client, DEAD_LETTERS, wanted, across=True, q="a")
    assert told(response) == ["1 dead letter is pending again and will be sent at once."]
    assert (row(wanted).status, row(other).status) == ("pending", "dead")


@pytest.mark.parametrize("model", LISTS)
def test_who_may_only_view_neither_sees_the_retry_nor_can_do_it(login: Login, model: str) -> None:
    client = login()
    message = make_message(Status.DEAD)
    assert 'value="retry"' not in client.get(url(model)).content.decode()
    retry(client, model, message)
    retry(client, model, message, across=True)
    assert row(message).status == "dead"


@pytest.mark.parametrize("model", LISTS)
def test_who_may_retry_sees_the_retry(login: Login, model: str) -> None:
    client = login("retry_outboxmessage")
    make_message(Status.DEAD)
    assert 'value="retry"' in client.get(url(model)).content.decode()


@pytest.mark.parametrize("model", LISTS)
def test_who_may_retry_but_not_view_gets_nowhere(client: Client, django_user_model: type[User], model: str) -> None:
    user = django_user_model.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="retry_outboxmessage"))
    client.force_login(user)
    message = make_message(Status.DEAD)
    assert client.get(url(model)).status_code == 403
    assert retry(client, model, message).status_code == 403
    assert row(message).status == "dead"


def test_permissions_are_these_alone() -> None:
    names = Permission.objects.filter(content_type__app_label="django_outbox").values_list("codename", flat=True)
    assert sorted(names) == [
        "retry_inboxmessage",
        "retry_outboxmessage",
        "view_deadletter",
        "view_inboxdeadletter",
        "view_inboxmessage",
        "view_outboxmessage",
    ]


class ReplicaForReading:
    """A router that reads from a database of its own."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "replica" if model._meta.app_label == "django_outbox" else None


def test_retry_is_written_where_writes_go(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    monkeypatch.setattr(state, "retry", lambda messages, *, using: used.append(using) or 0)
    settings.DATABASE_ROUTERS = [ReplicaForReading()]
    model_admin = OutboxMessageAdmin(OutboxMessage, admin.site)
    monkeypatch.setattr(model_admin, "message_user", lambda *arguments: None)
    model_admin.retry(None, OutboxMessage.objects.all())  # type: ignore[arg-type]
    assert used == ["default"]
