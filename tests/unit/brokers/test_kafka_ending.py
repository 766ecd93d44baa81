"""Ending a client of kafka-python: nothing that it still holds may be sent, as its own ``close()`` would do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from django_outbox.brokers.kafka.producer import end_client


class Sender:
    """Stands for the thread that sends."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def initiate_close(self) -> None:
        self.done.append("sends what it holds")

    def force_close(self) -> None:
        self.done.append("drops what it holds")

    def join(self, seconds: float) -> None:
        self.done.append(seconds)


def test_a_client_that_is_ended_drops_what_it_holds_and_its_thread_is_awaited() -> None:
    sender = Sender()
    client: Any = SimpleNamespace(_sender=sender, _unregister_cleanup=lambda: None)

    end_client(client, 2.5)

    assert sender.done == ["drops what it holds", 2.5]
    assert client._closed


def test_an_error_of_a_client_that_is_ended_is_nobody_s() -> None:
    client: Any = SimpleNamespace(_sender=None, _unregister_cleanup=lambda: None)
    end_client(client)
    assert client._closed
