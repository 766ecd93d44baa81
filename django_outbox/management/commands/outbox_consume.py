"""``manage.py outbox_consume``: runs the handlers."""

from __future__ import annotations

import logging
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.brokers.loading import get_broker
from django_outbox.conf import LARGEST_CONCURRENCY, LARGEST_COUNT, settings
from django_outbox.consumer.consumer import DEFAULT_BATCH_SIZE, Consumer
from django_outbox.handlers.registry import GroupHandlers, Registry, registry
from django_outbox.management.columns import columns
from django_outbox.management.option_types import number, text
from django_outbox.management.worker import WorkerCommand

log = logging.getLogger("django_outbox.consumer")

NO_HANDLER = """\
No handlers are registered. Write one in handlers.py of an installed app:

    from django_outbox import Event, handler

    @handler("order.created")
    def ship(event: Event) -> None:
        ...
"""


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
            help="Topics to read (default: TOPIC and the topics of ROUTES, TASK_TOPICS, INBOX and the handlers).",
        )
        parser.add_argument(
            "--batch-size",
            type=number(1, most=LARGEST_COUNT),
            default=DEFAULT_BATCH_SIZE,
            metavar="N",
            help="Records to read before the offsets are committed (default: 100). A batch handler that takes more raises "
            "it.",
        )
        parser.add_argument(
            "--concurrency",
            type=number(1, most=LARGEST_CONCURRENCY),
            metavar="N",
            help="Messages to handle at the same time, each in a thread with its own database connection; those of one topic "
            "and key stay in order (default: CONCURRENCY, else 1). For handlers that wait, such as for another service.",
        )

    def handle(
        self,
        *,
        database: str,
        group: str | None,
        topics: list[str] | None,
        batch_size: int,
        concurrency: int | None,
        only_list: bool,
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
        consumer = Consumer(
            broker, using=database, group=group, topics=topics, batch_size=batch_size, concurrency=concurrency
        )
        state, handlers = consumer.worker_state, consumer.handlers
        with self.working(broker, state, options, using=database, handlers=handlers) as stop:
            log.info(
                "Consumer of %s from %s in group %s started.",
                ", ".join(sorted(consumer.topics)),
                broker.location,
                consumer.group,
                extra={"action": "started"},
            )
            consumer.run(stop, drain=options["drain"])


def list_handlers(registry: Registry, group: str | None = None) -> str:
    """The handlers by event type, in the order in which they run, and the consumers that run them.

    Args:
        registry: loaded handlers.
        group: show only this group; None shows all.
    """
    main = settings.consumer_group
    groups = [group] if group else registry.groups
    handlers = sorted((each for name in groups for each in registry.for_group(name)), key=lambda each: each.event_type)
    if not handlers:
        return f"The group {group} has no handlers." if group and registry.named_groups else NO_HANDLER
    table = [("EVENT TYPE", "TOPIC", "GROUP", "BATCH", "PAYLOAD", "HANDLER")]
    for each in handlers:
        own_group = each.group or (main if group is None else group)
        batch = "-" if each.batch is None else str(each.batch)
        table.append((each.event_type, each.topic or "any", own_group, batch, each.arguments.payload_type, each.name))
    commands = [("COMMAND", "GROUP", "HANDLERS", "TOPICS")]
    for name in groups:
        command = "outbox_consume" if name == main else f"outbox_consume --group {name}"
        topics = ", ".join(sorted(GroupHandlers(registry, name).default_topics))
        commands.append((command, name, str(len(registry.for_group(name))), topics))
    return f"{columns(table)}\n\n{columns(commands)}"
