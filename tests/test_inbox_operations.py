"""The inbox in the hands of operators: admin, outbox_status, outbox_retry, outbox_purge."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from django_outbox.fields import DatabaseNow
from django_outbox.models import InboxMessage
from tests.inbox import Status, make_received, only, statuses
from tests.outbox import make_message
from tests.overrides import outbox_settings

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
MESSAGES, DEAD_LETTERS = "inboxmessage", "inboxdeadletter"

Login = Callable[..., Client]


@pytest.fixture
def login(client: Client, django_user_model: type[User]) -> Login:
    """Log in as staff who may view the inbox and has these permissions more."""

    def login(*more: str) -> Client:
        user = django_user_model.objects.create_user("staff", is_staff=True)
        names = [f"view_{MESSAGES}", f"view_{DEAD_LETTERS}", *more]
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="django_outbox", codename__in=names)
        )
        client.force_login(user)
        return client

    return login


def url(model: str, view: str = "changelist", *arguments: Any) -> str:
    return reverse(f"admin:django_outbox_{model}_{view}", args=arguments)


def listed(client: Client, model: str, query: str = "") -> list[int]:
    response = client.get(url(model) + query)
    assert response.status_code == 200
    return [message.id for message in response.context["cl"].result_list]


def run(command: str, *arguments: str) -> list[str]:
    out = io.StringIO()
    call_command(command, *arguments, stdout=out, stderr=out)
    return out.getvalue().splitlines()


def check(*arguments: str) -> tuple[Any, str]:
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("outbox_status", "--check", *arguments, stdout=out)
    return ended.value.code, out.getvalue().strip()


def make_old(status: str, age: timedelta) -> InboxMessage:
    message = make_received(status)
    InboxMessage.objects.filter(id=message.id).update(created_at=DatabaseNow() - age, updated_at=DatabaseNow() - age)
    return message


# The admin


def test_the_lists_show_all_messages_and_the_dead_ones(login: Login) -> None:
    ids = [make_received(status).id for status in Status.values]
    client = login()
    assert listed(client, MESSAGES) == ids[::-1]
    assert listed(client, DEAD_LETTERS) == [ids[Status.values.index("dead")]]


@pytest.mark.parametrize("term", ["the-event", "the key", "{id}"])
def test_a_message_is_found_by_id_event_id_and_key(login: Login, term: str) -> None:
    make_received()
    message = make_received(event_id="the-event", message_key="the key")
    assert listed(login(), MESSAGES, f"?q={term.format(id=message.id)}") == [message.id]


def test_a_page_shows_the_bytes_as_text_and_digits(login: Login) -> None:
    message = make_received(
        Status.DEAD, source="", raw_value=b"<b>Zo\xc3\xab\xff", raw_key=b"\0", payload=None, last_error="It cannot."
    )
    page = login().get(url(DEAD_LETTERS, "change", message.id)).content.decode()
    shown = html.unescape(page)
    assert "<b>Zo" not in page
    assert "<b>Zoë\N{REPLACEMENT CHARACTER}\n\n3c 62 3e 5a 6f c3 ab ff" in shown
    assert "\N{REPLACEMENT CHARACTER}\n\n00" in shown
    assert "It cannot." in shown


def test_a_page_shows_the_beginning_of_very_many_bytes(login: Login) -> None:
    message = make_received(Status.DEAD, raw_value=b"x" * 100_000)
    response = login().get(url(MESSAGES, "change", message.id))
    assert "... 100000 bytes in all" in response.content.decode()
    assert len(response.content) < 50_000


@pytest.mark.parametrize("status", Status.values)
def test_a_page_of_every_state_opens(login: Login, status: str) -> None:
    assert login().get(url(MESSAGES, "change", make_received(status).id)).status_code == 200


def test_dead_letters_are_retried_with_the_permission_alone(login: Login) -> None:
    message = make_received(Status.DEAD)
    client = login()
    data = {"action": "retry", "_selected_action": [message.id]}
    client.post(url(DEAD_LETTERS), data)
    assert only().status == "dead"
    user = User.objects.get()
    user.user_permissions.add(Permission.objects.get(codename="retry_inboxmessage"))

    response = client.post(url(DEAD_LETTERS), data)

    assert [str(message) for message in get_messages(response.wsgi_request)] == [
        "1 dead letter is pending again and will be handled at once."
    ]
    assert only().status == "pending"


def test_nothing_can_be_written_otherwise(login: Login) -> None:
    message = make_received()
    client = login("retry_inboxmessage")
    assert client.get(url(MESSAGES, "add")).status_code == 403
    assert client.post(url(MESSAGES, "change", message.id), {"status": "consumed"}).status_code == 403
    assert client.post(url(MESSAGES, "delete", message.id), {"post": "yes"}).status_code == 403


# outbox_status


def test_status_has_the_counts_of_the_inbox() -> None:
    for status, count in {"pending": 1, "consumed": 2, "dead": 3}.items():
        for _ in range(count):
            make_received(status)
    make_old("pending", DAY)
    found = json.loads("\n".join(run("outbox_status", "--json")))["inbox"]
    assert {name: found[name] for name in Status.values} == {"pending": 2, "consumed": 2, "dead": 3}
    assert found["oldest_pending_seconds"] == pytest.approx(86400, abs=60)
    lines = [" ".join(line.split()[:-1]) for line in run("outbox_status")]
    assert lines[-4:] == ["inbox pending", "inbox consumed", "inbox dead", "inbox oldest pending seconds"]


def test_an_empty_inbox_is_not_shown_to_people() -> None:
    assert json.loads("\n".join(run("outbox_status", "--json")))["inbox"]["oldest_pending_seconds"] is None
    assert "inbox" not in "\n".join(run("outbox_status"))


def test_check_looks_at_the_inbox_too() -> None:
    make_old("pending", timedelta(seconds=100))
    make_received(Status.DEAD)
    assert check("--max-age", "50")[0] == 2
    assert re.search(r"oldest pending inbox message is 10\d s old", check("--max-age", "50")[1])
    assert check("--max-dead", "0") == (1, "OUTBOX WARNING - 1 dead in the inbox")
    assert check("--max-age", "150", "--max-dead", "1")[0] == 0


# outbox_retry


def test_retry_chooses_the_inbox() -> None:
    dead = make_received(Status.DEAD, event_type="a")
    make_received(Status.DEAD, event_type="b")
    of_outbox = make_message("dead", id=dead.id, event_type="a")

    assert run("outbox_retry", "--inbox", "--event-type", "a", "--dry-run") == ["1 dead message would be retried."]
    assert run("outbox_retry", "--inbox", "--event-type", "a") == ["1 dead message pending again."]

    of_outbox.refresh_from_db()
    assert (statuses(), of_outbox.status) == (["pending", "dead"], "dead")
    assert run("outbox_retry", "--inbox", "--id", str(dead.id)) == [
        "0 dead messages pending again.",
        f"Message {dead.id} is pending, not dead.",
    ]
    assert run("outbox_retry", "--inbox", "--all") == ["1 dead message pending again."]


def test_retry_of_the_outbox_leaves_the_inbox_alone() -> None:
    make_received(Status.DEAD)
    run("outbox_retry", "--all")
    assert statuses() == ["dead"]
    with pytest.raises(CommandError, match="Choose messages"):
        run("outbox_retry", "--inbox")


# outbox_purge


def test_consumed_messages_of_the_inbox_are_deleted_after_a_week_and_no_others() -> None:
    for status in Status.values:
        make_old(status, 3650 * DAY)
    make_old("consumed", 6 * DAY)
    assert run("outbox_purge", "--dry-run")[-1] == "1 inbox messages would be deleted."
    assert run("outbox_purge")[-1] == "1 inbox messages deleted."
    assert statuses() == ["pending", "dead", "consumed"]
    assert not any("inbox" in line for line in run("outbox_purge"))


def test_the_retention_of_the_inbox_is_a_setting_of_its_own() -> None:
    make_old("consumed", 2 * DAY)
    with outbox_settings(RETENTION={"inbox": None, "consumed": DAY}):
        run("outbox_purge")
        assert statuses() == ["consumed"]
    with outbox_settings(RETENTION={"inbox": DAY}):
        run("outbox_purge")
        assert statuses() == []
