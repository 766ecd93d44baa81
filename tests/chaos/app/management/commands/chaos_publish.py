"""``chaos_publish``: publishes a share of the flights, each with its row in one transaction, at a steady rate."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from django.db import Error, connection, transaction

from django_outbox import publish
from tests.chaos.app.models import Departure
from tests.chaos.stream import Flight, Share, read

RETRY_SECONDS = 0.2


class RolledBack(Exception):
    """The business transaction failed after it had published."""


class Command(BaseCommand):
    help = "Publishes a share of the flights. Started again, it continues behind its last committed flight."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--share", type=int, required=True, help="number of this publisher, from 0")
        parser.add_argument("--shares", type=int, required=True, help="how many publishers there are")
        parser.add_argument("--flights", type=Path, required=True, help="file of the flights that all of them publish")
        parser.add_argument("--rate", type=float, required=True, help="flights of all publishers a second")
        parser.add_argument("--began-at", type=float, required=True, help="of the first flight, in monotonic seconds")

    def handle(self, *, share: int, shares: int, flights: Path, rate: float, began_at: float, **options: Any) -> None:
        mine = Share(share, shares)
        done = self._until_done(lambda: self._last(share))
        for flight in read(flights):
            if flight.number > done and mine.has(flight):
                time.sleep(max(0.0, began_at + flight.number / rate - time.monotonic()))
                self._until_done(lambda flight=flight: self._publish(flight, share))
        self.stdout.write("all flights are published")

    def _until_done(self, work: Any) -> Any:
        """Repeat what the database does not do. Its outcome may be unknown then, so ``work`` must look first."""
        while True:
            try:
                return work()
            except Error as error:
                self.stderr.write(f"{type(error).__name__}: {error}")
                with suppress(Error):
                    connection.close()
                time.sleep(RETRY_SECONDS)

    def _last(self, share: int) -> int:
        """The last flight that is committed, or 0."""
        last = Departure.objects.filter(publisher=share).order_by("-number").values_list("number", flat=True).first()
        return last or 0

    def _publish(self, flight: Flight, share: int) -> None:
        with suppress(RolledBack), transaction.atomic():
            if Departure.objects.filter(pk=flight.number).exists():
                return  # its commit was not answered, but made
            Departure.objects.create(number=flight.number, tail=flight.tail, publisher=share)
            publish("flight.departed", {"number": flight.number, "miles": flight.miles}, key=flight.tail)
            if flight.rolled_back:
                raise RolledBack
