"""What tests of the admin share: its pages, and what they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse

from django_outbox.models import InboxMessage, MessageFailure, OutboxMessage
from tests.support.outbox import Status, make_message

MESSAGES, DEAD_LETTERS = "outboxmessage", "deadletter"
INBOX_MESSAGES, INBOX_DEAD_LETTERS = "inboxmessage", "inboxdeadletter"
LISTS = (MESSAGES, DEAD_LETTERS)
SCRIPT = "<script>alert('x')</script>"

Login = Callable[..., Client]


def url(model: str, view: str = "changelist", *arguments: Any) -> str:
    return reverse(f"admin:django_outbox_{model}_{view}", args=arguments)


def page_of(message: OutboxMessage | InboxMessage) -> str:
    dead = {"outboxmessage": DEAD_LETTERS, "inboxmessage": INBOX_DEAD_LETTERS}
    name = message._meta.model_name
    return url(dead[name] if message.status == "dead" else name, "change", message.id)


def action_url(action: str, table: str = "outboxmessage", **query: str) -> str:
    return reverse(f"admin:{table}_{action}", query=query)


def content(client: Client, page: str) -> str:
    response = client.get(page)
    assert response.status_code == 200
    return str(response.content.decode())


def listed(response: Any) -> list[int]:
    """The ids of the rows that a list shows."""
    assert response.status_code == 200
    return [message.id for message in response.context["cl"].result_list]


def told(response: Any) -> list[str]:
    """What the next page will tell."""
    return [str(message) for message in get_messages(response.wsgi_request)]


def act(
    client: Client, action: str, *messages: OutboxMessage | InboxMessage, table: str = MESSAGES, **data: Any
) -> Any:
    """Go through an action's page as a browser does: open it, fill in a reason, submit."""
    query = data.pop("query", {"ids": ",".join(str(message.id) for message in messages)})
    page = action_url(action, table, **query)
    opened = client.get(page)
    if opened.status_code != 200:
        return opened
    form = opened.context["form"]
    values = {name: form[name].value() for name in form.fields}
    values = {name: value for name, value in {**values, "reason": "they said so", **data}.items() if value is not None}
    return client.post(page, values)


def make_failure(message: OutboxMessage | InboxMessage, **fields: Any) -> MessageFailure:
    of = "inbox_message" if isinstance(message, InboxMessage) else "message"
    values = {"worker": "host:1", "stage": "handle", "attempt": 1, "final": False, "error": "boom", "fingerprint": "f"}
    failure = MessageFailure.objects.create(**{of: message, **values, **fields})
    failure.refresh_from_db()
    return failure


def make_dead(**fields: Any) -> OutboxMessage:
    return make_message(Status.DEAD, **fields)


def textareas(text: str) -> list[str]:
    return re.findall(r"<textarea[^>]*>\n?(.*?)</textarea>", text, re.DOTALL)
