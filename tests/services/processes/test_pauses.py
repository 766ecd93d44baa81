"""Pauses with real commands, which are killed: nothing is lost, handled twice or out of order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from django_outbox.conf import settings as outbox
from django_outbox.models import OutboxMessage, Pause
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.pauses import AHEAD, pause, resume
from tests.support.processes import Command, stopwatch, wait_until

Start = Callable[..., Command]


def paused() -> Any:
    """Messages that a consumer has put back."""
    return OutboxMessage.objects.filter(
        status="pending", publish_count__gte=1, next_retry_at__gt=DatabaseNow() + AHEAD - timedelta(seconds=5)
    )


def pause_effects() -> None:
    pause(outbox.consumer_group, event_type="test.eff*", reason="a bug", by="ada", using="default")


def resume_all() -> None:
    resume(Pause.objects.all(), using="default")


@pytest.mark.parametrize("busy", [True, False])
def test_running_consumer_obeys_whether_it_has_work_or_not(
    busy: bool, send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any
) -> None:
    relay()
    consumer()
    send("test.effect", 0)
    consumed(1)

    def is_paused() -> bool:
        if busy or seconds() > 3:
            send("test.effect", 1)
        return bool(paused().exists())

    pause_effects()
    with stopwatch() as seconds:
        wait_until(is_paused)
    done = len(effects())
    resume_all()
    wait_until(lambda: OutboxMessage.objects.exclude(status="consumed").count() == 0)
    assert len(effects()) == OutboxMessage.objects.count() > done


@pytest.mark.parametrize("lanes", [1, pytest.param(4, marks=pytest.mark.databases("postgresql", "mariadb", "mysql"))])
def test_paused_messages_survive_kills_and_are_handled_once_and_in_order(
    lanes: int, send: Any, relay: Start, consumer: Start, counts: Any, consumed: Any, effects: Any
) -> None:
    number = 200
    pause_effects()
    for n in range(number):
        send("test.effect" if n % 3 else "test.publishes", n, key=str(n % 7))
    relay("--batch-size", 20)
    command = consumer("--batch-size", 5, "--concurrency", lanes)
    for share in (0.2, 0.5, 0.8):
        wait_until(lambda share=share: paused().count() >= share * number / 3, 120)
        command.kill()
        command = consumer("--batch-size", 5, "--concurrency", lanes)
    assert not any(name.startswith("test.effect") for name in effects())
    resume_all()
    for _ in range(3):
        done = counts()["consumed"]
        wait_until(lambda done=done: counts()["consumed"] > done or not OutboxMessage.objects.pending().exists(), 120)
        command.kill()
        command = consumer("--batch-size", 5, "--concurrency", lanes)

    published = sum(n % 3 == 0 for n in range(number))
    consumed(number + published, 120)
    handled = [int(name.split()[1]) for name in effects()]
    assert Counter(handled) == Counter(range(number))
    for key in range(7):
        of_key = [n for n in handled if n % 7 == key and n % 3]
        assert of_key == sorted(of_key)
