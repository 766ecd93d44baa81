"""``manage.py outbox_purge``: deletes old messages."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.conf import settings
from django_outbox.handlers.registry import registry
from django_outbox.management.base import OutboxCommand, record
from django_outbox.management.option_types import age, number
from django_outbox.management.progress import Progress
from django_outbox.state.purging import Step, Walk
from django_outbox.state.retention import INBOX, INBOX_DEAD, Expiry, expiries
from django_outbox.worker.heartbeat import delete_old_heartbeats
from django_outbox.worker.stop import Stop, stop_on_signals

log = logging.getLogger("django_outbox.purge")

COUNTED_AT_ONCE = 10_000
OF_INBOX = (INBOX, INBOX_DEAD)


class Command(OutboxCommand):
    help = (
        "Delete messages of outbox and inbox that were consumed or published longer ago than RETENTION allows. Dead "
        "messages are kept unless RETENTION or --dead sets an age. Pending messages are always kept, and so are published "
        "messages that a handler of this project has yet to handle. Relays do the same in the background, unless PURGE is "
        "False. Ctrl-C stops it after the current batch; run it again to continue."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--dead",
            type=age,
            metavar="OLDER_THAN",
            help="Also delete dead letters of outbox and inbox that died longer ago than this: 12h, 90d, 8w.",
        )
        parser.add_argument(
            "--batch-size",
            type=number(1, most=10_000),
            default=1000,
            metavar="N",
            help="Rows to check and delete in one transaction (default: 1000).",
        )
        parser.add_argument("--dry-run", action="store_true", help="Only print how many messages would be deleted.")

    def handle(self, *, database: str, dead: timedelta | None, batch_size: int, dry_run: bool, **options: Any) -> None:
        self.require_tables(database)
        registry.load()
        ages = {**settings.retention, **({} if dead is None else {"dead": dead})}
        tables = expiries(ages, registry)
        counts: Counter[str] = Counter()
        if dead is not None and not dry_run:
            record("delete", f"deletes messages that died more than {dead} ago")
        with stop_on_signals(log) as stop, Progress(self.stderr) as progress:
            walks = [Walk(table, using=database) for table in tables]
            whole, behind = sum(walk.length for walk in walks), 0
            for walk in walks:
                steps = walk.count(COUNTED_AT_ONCE) if dry_run else walk.steps(lambda: batch_size)
                for step in _until(stop, steps):
                    counts += step.counts
                    share = (behind + step.share * walk.length) / whole
                    progress.show(share, f"{counts.total():,} messages {'found' if dry_run else 'deleted'}")
                behind += walk.length
            stopped = stop.requested  # read here, as leaving the block sets it
            if not dry_run and not stopped:
                delete_old_heartbeats(using=database)
        done = "would be deleted" if dry_run else "deleted"
        for name in (name for table in tables for name in table.ages):
            if counts[name] or name not in OF_INBOX:  # not every project has an inbox
                self.stdout.write(f"{counts[name]} {name} messages {done}.")
        if stopped:
            raise CommandError("Stopped before the end. Run it again to continue.", returncode=130)
        if dry_run:
            self._print_awaited(tables, database)

    def _print_awaited(self, tables: list[Expiry], using: str) -> None:
        for table in tables:
            if table.unhandled is None or "published" not in table.ages:
                continue
            steps = Walk(table, using=using).count(COUNTED_AT_ONCE, table.old("published") & table.unhandled)
            if awaited := sum(step.counts.total() for step in steps):
                self.stdout.write(
                    f"{awaited} published messages are old enough, but kept: a handler of this project has yet to handle "
                    f"them. Check that outbox_consume is running."
                )


def _until(stop: Stop, steps: Iterator[Step]) -> Iterator[Step]:
    while not stop.requested and (step := next(steps, None)) is not None:
        yield step
