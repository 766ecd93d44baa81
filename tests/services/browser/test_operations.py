"""Operators in a real browser: they find what is stuck, read why, and mend it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from selenium.webdriver.common.keys import Keys

from django_outbox import publish
from django_outbox.models import OutboxMessage
from tests.support.inbox import make_received
from tests.support.outbox import row
from tests.support.pages import SCRIPT, action_url, make_dead, make_failure, page_of, url
from tests.support.processes import Command, wait_until

Start = Callable[..., Command]


@pytest.fixture
def pipeline(manage: Start) -> None:
    """A relay and a consumer that really run."""
    manage("outbox_relay", "--create-topics")
    manage("outbox_consume")


def dies(event_type: str = "test.fails_once", payload: Any = None) -> OutboxMessage:
    """A message that really went to its handler and failed there for the last time."""
    with transaction.atomic():
        message = publish(event_type, payload, key="customer-7", max_retry=1)
    wait_until(lambda: row(message).status == "dead", what="a dead letter")
    return message


def test_operator_finds_a_dead_letter_reads_why_and_retries_it_until_it_is_consumed(
    pipeline: None, browser: Any, user: Any
) -> None:
    message = dies()
    user("ada", "retry")

    browser.follow("Overview")
    browser.wait_for("1 message is dead")
    browser.wait_for("ArithmeticError in tests.support.app.handlers.fails_once")
    browser.follow("Show messages")
    browser.wait_for("ArithmeticError: not the first time")
    browser.follow(f"message {message.id}")
    browser.wait_for("Dead for")
    assert 'raise ArithmeticError("not the first time")' in browser.one(".outbox-error").text

    browser.follow("Retry…")
    browser.wait_for("Retry 1 dead letter?")
    browser.fill("reason", "the handler is mended")
    browser.follow("Dry run")
    browser.wait_for("1 message would be retried.")
    browser.follow("Retry 1 dead letter")
    browser.wait_for("1 dead letter is pending again and due now.")

    wait_until(lambda: row(message).status == "consumed")
    browser.driver.refresh()
    browser.wait_for("Handled")
    browser.wait_for("ada retried 1 dead letter the handler is mended")
    browser.open(url("overview"))
    browser.wait_for("working")
    assert not browser.sees("message is dead")


def test_operator_edits_a_payload_and_the_message_is_consumed(pipeline: None, browser: Any, user: Any) -> None:
    message = dies(payload="wrong")
    user("ada", "edit", "see_payload")
    browser.open(page_of(row(message)))
    browser.follow("Edit payload and retry…")
    browser.fill("payload", '{"now": "right"}')
    browser.fill("reason", "a typo of the customer's")
    browser.follow("Save payload and retry")
    browser.wait_for("The payload was replaced. The message is pending again.")
    wait_until(lambda: row(message).status == "consumed")
    browser.driver.refresh()
    assert json.loads(browser.one("#payload").get_attribute("value")) == {"now": "right"}
    browser.one(".outbox-operator summary").click()
    browser.wait_for('Payload before: "wrong"')


def test_operator_deletes_what_was_ticked(browser: Any, user: Any) -> None:
    gone, kept = make_dead(), make_dead()
    user("ada", "delete")
    browser.open(url("deadletter") + "?failures=0")
    browser.one(f"input[name=_selected_action][value='{gone.id}']").click()
    browser.one("select[name=action] option[value=delete]").click()
    browser.one("#changelist-form button[name=index]").click()
    browser.wait_for("Delete 1 dead letter?")
    browser.fill("reason", "a test")
    browser.follow("Delete 1 dead letter")
    browser.wait_for("1 dead letter was deleted.")
    assert list(OutboxMessage.objects.all()) == [kept]


def test_operator_with_a_keyboard_alone_retries_a_dead_letter(browser: Any, user: Any) -> None:
    message = make_dead(fingerprint="ValueError in shop.ship")
    user("ada", "retry")
    browser.open(url("overview"))
    browser.tab_to("Show messages")
    browser.press(Keys.ENTER)
    browser.wait_for("Dead letters by error")
    browser.tab_to("Retry…")
    browser.press(Keys.ENTER)
    browser.wait_for("Retry 1 dead letter?")
    browser.tab_to("reason")
    browser.press("the handler is mended", Keys.ENTER)
    browser.wait_for("pending again")
    assert row(message).status == "pending"


def test_who_may_only_look_sees_no_buttons(browser: Any, user: Any) -> None:
    message = make_dead(payload={"password": "hunter2-hunter2"})
    user("eve")
    for page in (url("overview"), url("deadletter"), url("outboxmessage") + "?status=dead", page_of(message)):
        browser.open(page)
        assert not browser.all("#content a[href*='/retry/'], #content a[href*='/delete/'], #content a[href*='/edit/']")
        assert not browser.all("#content select[name=action]")
        assert not [link.text for link in browser.all("#content a, #content button") if "…" in link.text]
        assert "hunter2" not in browser.driver.page_source
    for action in ("retry", "delete", "edit"):
        browser.open(action_url(action, ids=str(message.id)))
        assert "403" in browser.driver.title or "403 Forbidden" in browser.driver.page_source
    # The browser notes each refused page; nothing else may be in its log.
    assert len(browser.log()) == 3


def test_scripts_in_messages_stay_text(browser: Any, user: Any) -> None:
    script = '<script>window.broken = 1</script><img src=x onerror="window.broken = 1">'
    message = make_dead(
        event_type=script,
        message_key=script,
        payload={script: f"</textarea>{script}"},
        headers={script: f"</textarea>{script}"},
        last_error=f"</pre>{script}",
        fingerprint=script[:200],
    )
    make_failure(message, error=script, worker=script, fingerprint=SCRIPT)
    user("root", superuser=True)
    ids = str(message.id)
    pages = [url("overview"), url("deadletter"), url("outboxmessage"), page_of(message)]
    for page in (*pages, *(action_url(action, ids=ids) for action in ("retry", "delete", "edit"))):
        browser.open(page)
        assert browser.sees(script) or browser.sees(script[:30])
        assert not browser.driver.execute_script("return window.broken")
        assert not browser.all("img[src=x]")


def test_payload_is_selected_by_the_keyboard_to_be_copied(browser: Any, user: Any) -> None:
    message = make_dead(payload={"order": 7})
    user("ada")
    browser.open(page_of(message))
    browser.one("#payload").click()
    browser.press(Keys.CONTROL + "a")
    chosen = browser.driver.execute_script(
        "const field = document.activeElement; return field.value.slice(field.selectionStart, field.selectionEnd)"
    )
    assert json.loads(chosen) == {"order": 7}
    browser.press("x")
    assert json.loads(browser.one("#payload").get_attribute("value")) == {"order": 7}


def test_operator_reads_what_could_not_be_read_and_retries_it(browser: Any, user: Any) -> None:
    message = make_received(
        "dead",
        group="reports",
        source="",
        raw_value=b'{"paid": \xff',
        payload=None,
        last_error="It cannot be read: the value is not JSON.",
        fingerprint="It cannot be read",
    )
    user("root", superuser=True)
    browser.follow("Overview")
    browser.wait_for("1 message of the inbox is dead")
    browser.follow("Show messages")
    browser.follow(f"message {message.id}")
    browser.wait_for("It cannot be read: the value is not JSON.")
    assert "7b 22 70 61 69 64 22 3a 20 ff" in browser.one("textarea[id^=received]").get_attribute("value")
    assert not browser.all("#payload")
    browser.follow("Retry…")
    browser.fill("reason", "the mapper is mended")
    browser.follow("Retry 1 dead letter")
    browser.wait_for("1 dead letter is pending again and due now.")
    message.refresh_from_db()
    assert message.status == "pending"
