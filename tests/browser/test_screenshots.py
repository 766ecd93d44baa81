"""Every page as a picture, light and dark, wide and on a phone: for the documentation, and to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from django_outbox import lag
from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.kafka import KafkaBroker
from django_outbox.fields import DatabaseNow
from django_outbox.heartbeat import period_of
from django_outbox.models import Activity, MessageFailure, OutboxMessage, Worker
from tests.admin.pages import act, action_url, make_dead, make_failure, page_of, url
from tests.browser.driver import PHONE, WIDE
from tests.outbox import make_message
from tests.test_lag import Progress

NOW = DatabaseNow()
MINUTE = timedelta(minutes=1)
THEMES = ("light", "dark")
SIZES = {"wide": WIDE, "phone": PHONE}

NO_WEIGHT = "shop.errors.NoWeight in shop.shipping.handlers.ship"
ERROR = """shop.errors.NoWeight: no parcel weight for grand-piano

  File "/srv/shop/shipping/handlers.py", line 31, in ship
    weight = weight_of(event.payload["item"])
  File "/srv/shop/shipping/weights.py", line 12, in weight_of
    raise NoWeight(f"no parcel weight for {item}")"""
TIMED_OUT = "TimeoutError in shop.mail.handlers.queue_mail"


@pytest.fixture
def directory(pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """Where the pictures go: to --screenshots, if that is given."""
    directory = Path(pytestconfig.option.screenshots or tmp_path / "pictures")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
def busy_night(
    browser: Any, settings: Any, monkeypatch: pytest.MonkeyPatch, client: Any, django_user_model: Any
) -> OutboxMessage:
    """A shop whose shipping met a bug; returns one of its dead letters."""
    settings.OUTBOX = {**settings.OUTBOX, "TOPIC": "orders", "CONSUMER_GROUP": "shop"}
    lag._questions.clear()
    offsets = {0: (8410, 8406), 1: (7932, 7931), 2: (8127, 7893)}
    progress = {TopicPartition("orders", n): Progress(0, end, done) for n, (end, done) in offsets.items()}
    monkeypatch.setattr(KafkaBroker, "progress", lambda self, topics, group: progress, raising=False)
    for number in range(20):
        make_message(
            "consumed", event_type="order.created", topic="orders", message_key=str(4000 + number), id=90_000 + number
        )
    messages = [_dead(number) for number in range(7)]
    for number in range(3):
        make_dead(
            event_type="order.shipped",
            topic="orders",
            message_key=f"42{number}9",
            last_error="TimeoutError: mail.example.com did not answer",
            fingerprint=TIMED_OUT,
            retry_count=20,
            updated_at=NOW - (number + 3) * 11 * MINUTE,
        )
    for number in range(4):
        make_message(event_type="order.created", topic="orders", message_key="4011" if number else "4012")
    make_message("published", event_type="test.effect", topic="orders", message_key="77", published_at=NOW)
    _history()
    _workers()
    root = django_user_model.objects.create_superuser("grace", password="x")
    client.force_login(root)
    act(client, "retry", make_dead(topic="orders"), reason="mail server is back")
    OutboxMessage.objects.filter(topic="orders", event_type="order.created", status="dead", last_error="").delete()
    return messages[-1]


def _dead(number: int) -> OutboxMessage:
    message = make_dead(
        event_type="order.created",
        topic="orders",
        message_key=str(4011 + number),
        payload={
            "order_id": 4011 + number,
            "item": "grand-piano",
            "customer": {"email": "ada@example.com", "password": "correct horse"},
        },
        headers={"tenant": "north", "authorization": "Bearer 3f9a0c27d1"},
        last_error=ERROR,
        fingerprint=NO_WEIGHT,
        retry_count=3,
        max_retry=3,
        publish_count=3,
        partition=1,
        offset=7900 + number,
        created_at=NOW - (number + 8) * 6 * MINUTE,
        published_at=NOW - (number + 2) * 6 * MINUTE,
        updated_at=NOW - (number + 2) * 6 * MINUTE,
    )
    for attempt in (1, 2, 3):
        at = NOW - (number + 8 - 2 * attempt) * 6 * MINUTE
        make_failure(
            message,
            occurred_at=at,
            published_at=at,
            partition=1,
            offset=7600 + number + attempt,
            attempt=attempt,
            worker="shop-consumer-2:41",
            error=ERROR,
            fingerprint=NO_WEIGHT,
            final=attempt == 3,
        )
    return message


def _history() -> None:
    now, last_id = timezone.now(), 76_000
    first = period_of(now) - timedelta(hours=24, minutes=10)
    for number in range(146):
        # More by day than by night, with a dent where the consumers were being deployed.
        written = 30 + abs(72 - number) ** 2 // 40 + number * 37 % 23
        last_id += written
        consumed = 0 if number in (96, 97) else written + 90 * (number in (98, 99))
        Activity.objects.create(
            period=first + number * 10 * MINUTE, last_id=last_id, published=written, consumed=consumed
        )
    older = make_message("consumed", topic="orders", event_type="order.created")
    for day, count in enumerate((1, 0, 0, 4, 2, 0, 9, 3, 0, 0, 1, 0, 2)):
        for _ in range(count):
            failure = make_failure(older, final=True)
            MessageFailure.objects.filter(id=failure.id).update(occurred_at=now - timedelta(days=13 - day))


def _workers() -> None:
    for kind, host, rate, seen in (
        ("relay", "shop-relay-1", 41.2, 3),
        ("consumer", "shop-consumer-1", 22.7, 6),
        ("consumer", "shop-consumer-2", 18.4, 1),
        ("consumer", "shop-consumer-3", 0.0, 260),
    ):
        Worker.objects.create(
            kind=kind,
            host=host,
            pid=41,
            version="0.1.0",
            state="working",
            rate=rate,
            started_at=NOW - timedelta(hours=7),
            last_seen_at=NOW - timedelta(seconds=seen),
        )


def test_pages_as_pictures(browser: Any, user: Any, busy_night: OutboxMessage, directory: Path) -> None:
    message = busy_night
    user("ada", "retry", "edit", "delete", "see_payload")
    selection = {"error": NO_WEIGHT}

    def dry_run() -> None:
        browser.open(action_url("retry", **selection))
        browser.follow("Dry run")

    def page(address: str) -> Callable[[], None]:
        return lambda: browser.open(address)

    pages = {
        "overview": page(url("overview")),
        "messages": page(url("outboxmessage")),
        "dead-letters": page(url("deadletter")),
        "message": page(page_of(message)),
        "retry": dry_run,
        "edit": page(action_url("edit", ids=str(message.id))),
        "delete": page(action_url("delete", **selection)),
    }
    for name, open_page in pages.items():
        open_page()
        for size, pixels in SIZES.items():
            for theme in THEMES:
                browser.size(pixels)
                browser.theme(theme)
                width = browser.driver.execute_script("return document.documentElement.scrollWidth")
                assert width <= pixels[0], f"{name} is wider than a {size} screen"
                browser.picture(directory / f"{name}-{size}-{theme}.png")
    assert len(list(directory.glob("*.png"))) == len(pages) * len(SIZES) * len(THEMES)


def test_who_may_not_see_secrets_does_not(browser: Any, user: Any, busy_night: OutboxMessage) -> None:
    user("eve", "retry")
    browser.open(page_of(busy_night))
    assert "correct horse" not in browser.driver.page_source
    browser.wait_for("Secret values are hidden")
