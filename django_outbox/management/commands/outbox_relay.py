"""``manage.py outbox_relay``: sends due messages to Kafka."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.brokers.loading import get_broker
from django_outbox.conf import LARGEST_COUNT, LONGEST_WAIT, settings
from django_outbox.handlers.registry import registry
from django_outbox.management.option_types import number
from django_outbox.management.worker import WorkerCommand
from django_outbox.relay.background_purge import BackgroundPurge
from django_outbox.relay.relay import Relay

log = logging.getLogger("django_outbox.relay")


class Command(WorkerCommand):
    help = (
        "Send due messages from the outbox to Kafka, until SIGTERM or SIGINT (Ctrl-C). Any number of relays can run in "
        "parallel. If the broker or the database is unavailable, the relay waits; no retry is counted."
    )
    logger = log
    title = "Relay"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--batch-size",
            type=number(1, most=LARGEST_COUNT),
            metavar="N",
            help="Messages to send in one transaction, more while the relay is behind (default: RELAY_BATCH_SIZE, 500).",
        )
        parser.add_argument(
            "--interval",
            type=number(0.001, float, most=LONGEST_WAIT.total_seconds()),
            metavar="S",
            help="Seconds between polls when no message is due (default: POLL_INTERVAL, 0.2).",
        )
        parser.add_argument(
            "--create-topics",
            action="store_true",
            help="Create missing topics. Without this option, their messages wait.",
        )
        parser.add_argument(
            "--partitions", type=number(1), metavar="N", help="Partitions of created topics (default: the cluster's)."
        )
        parser.add_argument(
            "--replication",
            type=number(1),
            metavar="N",
            help="Replication factor of created topics (default: the cluster's).",
        )

    def handle(
        self,
        *,
        database: str,
        batch_size: int | None,
        interval: float | None,
        create_topics: bool,
        partitions: int | None,
        replication: int | None,
        **options: Any,
    ) -> None:
        if not create_topics and (partitions or replication):
            raise CommandError("--partitions and --replication require --create-topics.")
        broker = get_broker(settings.broker)

        def create(topics: Iterable[str]) -> None:
            names = list(topics)
            broker.create_topics(names, partitions=partitions, replication=replication)
            log.info("Created %s.", ", ".join(names), extra={"action": "created"})

        creator = create if create_topics else None
        relay = Relay(broker, using=database, batch_size=batch_size, poll_interval=interval, create_topics=creator)
        if settings.purge:
            relay.background = BackgroundPurge(relay.worker_state, using=database, handlers=registry).run_if_due
        with self.working(broker, relay.worker_state, options, using=database) as stop:
            log.info("Relay from %s to %s started.", database, broker.location, extra={"action": "started"})
            relay.run(stop, drain=options["drain"])
