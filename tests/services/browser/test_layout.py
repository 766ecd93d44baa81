"""What fits on a usual screen: whole columns, and words that are not broken."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from django_outbox.models.fields import DatabaseNow
from tests.services.browser.scene import Night
from tests.support.inbox import make_received
from tests.support.outbox import make_message
from tests.support.pages import make_dead, url

USUAL = (1440, 900)
SMALL = (1280, 800)
CLIPPED = """
    return [...document.querySelectorAll(".results, .outbox-scroll")]
        .filter(each => each.scrollWidth > each.clientWidth)
        .map(each => `${each.className} ${each.scrollWidth} > ${each.clientWidth}`)
"""
BROKEN = """
    const walker = document.createTreeWalker(document.getElementById("content"), NodeFilter.SHOW_TEXT)
    const broken = []
    for (let text = walker.nextNode(); text; text = walker.nextNode())
        for (const word of text.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
            const range = document.createRange()
            range.setStart(text, word.index)
            range.setEnd(text, word.index + word[0].length)
            if (new Set([...range.getClientRects()].map(each => Math.round(each.top))).size > 1) broken.push(word[0])
        }
    return broken
"""


@pytest.fixture
def long_names(busy_night: Night) -> None:
    """Names and keys as real ones are, and times that are as long as they get."""
    key, minutes = "0190b2c4-7d1a-7e07-a4b1-94e6a38c0b12", timedelta(minutes=49)
    since, due = DatabaseNow() - minutes, {"next_retry_at": DatabaseNow() + minutes}
    fields = {"event_type": "invoice.payment_reminder_requested", "message_key": key, "created_at": since}
    error = {"last_error": "shop.billing.errors.CustomerAddressMissing: none", "fingerprint": "CustomerAddressMissing"}
    make_message(topic="shop.billing.reminders", **fields, **due)
    make_message("published", topic="orders", published_at=since, **{**fields, "event_type": "invoice.created"})
    make_dead(topic="shop.billing.reminders", **fields, **error)
    partner = {"group": "partner-import", "source": "https://partners.example.com/orders", "topic": "shop.partners"}
    make_received("pending", **partner, **fields, **error, **due)
    make_received("dead", **partner, **fields, **error)


@pytest.mark.parametrize("size", [USUAL, SMALL], ids=["1440", "1280"])
@pytest.mark.parametrize(
    "page", ["overview", "eventcatalogue", "outboxmessage", "deadletter", "inboxmessage", "inboxdeadletter"]
)
@pytest.mark.usefixtures("long_names")
def test_a_screen_clips_no_column_and_breaks_no_word(browser: Any, user: Any, page: str, size: tuple[int, int]) -> None:
    user("ada", superuser=True)
    browser.size(size)
    browser.open(url(page))
    assert browser.driver.execute_script(CLIPPED) == []
    assert browser.driver.execute_script(BROKEN) == []


@pytest.mark.usefixtures("busy_night")
def test_the_first_screen_of_the_overview_tells_what_is_stuck_and_what_to_do(browser: Any, user: Any) -> None:
    user("ada", superuser=True)
    browser.size(SMALL)
    browser.open(url("overview"))
    ends = browser.driver.execute_script(
        "return [...document.querySelectorAll('.outbox-notice')].map(each => each.getBoundingClientRect().bottom)"
    )
    assert len(ends) == 6
    assert max(ends) <= SMALL[1]
