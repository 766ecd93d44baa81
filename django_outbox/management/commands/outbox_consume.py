"""``manage.py outbox_consume``: runs the handlers."""

from __future__ import annotations

import logging
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.brokers.base import get_broker
from django_outbox.conf import LARGEST_COUNT, settings
from django_outbox.consumer.consumer import DEFAULT_BATCH_SIZE, Consumer
from django_outbox.handlers.registry import registry
from django_outbox.management.listing import list_handlers
from django_outbox.management.option_types import number, text
from django_outbox.management.worker import WorkerCommand

log = logging.getLogger("django_outbox.consumer")


class Command(WorkerCommand):
    help = (
        "Read the topics of the outbox and run the handlers, until SIGTERM or SIGINT (Ctrl-C). A handler's changes and "
        "the status of its message are committed in one transaction. Any number of consumers can run in parallel; Kafka "
        "assigns the partitions to them."
    )
    logger = log
    title = "Consumer"
    trial = "--list"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--list",
            action="store_true",
            dest="only_list",
            help="Print the handlers and the commands that run them, then exit. Needs neither broker nor database.",
        )
        parser.add_argument(
            "--group",
            type=text,
            metavar="G",
            help="Consumer group: CONSUMER_GROUP, or a group that handlers name (default: CONSUMER_GROUP, else SOURCE). In "
            "a group that handlers name, only these handlers run.",
        )
        parser.add_argument(
            "--topics",
            nargs="+",
            type=text,
            metavar="T",
            help="Topics to read (default: TOPIC and the topics of ROUTES, INBOX and the handlers).",
        )
        parser.add_argument(
            "--batch-size",
            type=number(1, most=LARGEST_COUNT),
            default=DEFAULT_BATCH_SIZE,
            metavar="N",
            help="Records to read before the offsets are committed (default: 100).",
        )

    def handle(
        self,
        *,
        database: str,
        group: str | None,
        topics: list[str] | None,
        batch_size: int,
        drain: bool,
        reload: bool,
        only_list: bool,
        verbosity: int,
        **options: Any,
    ) -> None:
        registry.load()
        if group is not None and group not in registry.groups:
            raise CommandError(
                f"--group: {group!r} is not a consumer group of this project. Expected one of: "
                f"{', '.join(registry.groups)}. Use CONSUMER_GROUP to rename the main group."
            )
        if only_list:
            self.stdout.write(list_handlers(registry, group))
            return
        broker = get_broker(settings.broker)
        consumer = Consumer(broker, using=database, group=group, topics=topics, batch_size=batch_size)
        with self.working(
            broker,
            verbosity,
            consumer.worker_state,
            using=database,
            drain=drain,
            reload=reload,
            options=options,
            handlers=consumer.handlers,
        ) as stop:
            log.info(
                "Consumer of %s from %s in group %s started.",
                ", ".join(sorted(consumer.topics)),
                broker.location,
                consumer.group,
                extra={"action": "started"},
            )
            consumer.run(stop, drain=drain)
