"""``soak_publish``: publishes at a steady rate, or as fast as the consumers keep up."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction
from django.db.models import Sum

from django_outbox import Event, publish_many
from tests.soak.app.models import Account, Ledger

SIZE = 20
"""Events of one transaction."""
MOST_WAITING = 4_000
"""With ``--rate 0``: events that may wait to be handled."""
PADDING = "x" * 160
"""Makes a payload of about 200 bytes."""


class Command(BaseCommand):
    help = "Publishes the next events of all keys in turn, until it is killed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--rate", type=float, required=True, help="events a second; 0: as many as are handled")

    def handle(self, *, rate: float, **options: Any) -> None:
        ledger = dict(Ledger.objects.values_list("key", "published"))
        keys, done = list(ledger), 0
        began_at = time.monotonic()
        while True:
            if not rate:
                self._wait_for_consumers(sum(ledger.values()))
            elif (ahead := began_at + done / rate - time.monotonic()) > 0:
                time.sleep(ahead)
            chosen = [keys[place % len(keys)] for place in range(done, done + SIZE)]
            self._publish(ledger, chosen)
            done += SIZE

    def _publish(self, ledger: dict[str, int], chosen: list[str]) -> None:
        for key in chosen:
            ledger[key] += 1
        with transaction.atomic():
            Ledger.objects.bulk_update([Ledger(key, ledger[key]) for key in chosen], ["published"])
            publish_many(
                Event(type="soak.deposited", payload={"number": ledger[key], "padding": PADDING}, key=key)
                for key in chosen
            )

    def _wait_for_consumers(self, published: int) -> None:
        while published - (Account.objects.aggregate(Sum("handled"))["handled__sum"] or 0) > MOST_WAITING:
            time.sleep(0.02)
