"""The output of ``outbox_consume --list``: the handlers, and the commands that run them."""

from __future__ import annotations

from django_outbox.conf import settings
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.management.columns import columns

NO_HANDLER = """\
No handlers are registered. Write one in handlers.py of an installed app:

    from django_outbox import Event, handler

    @handler("order.created")
    def ship(event: Event) -> None:
        ...
"""


def list_handlers(registry: Registry, group: str | None = None) -> str:
    """Two tables: the handlers by event type, in the order in which they run, and the consumers that run them.

    Args:
        registry: loaded handlers.
        group: show only this group; None shows all.
    """
    main = settings.consumer_group
    groups = [group] if group else registry.groups
    handlers = sorted((each for name in groups for each in registry.for_group(name)), key=lambda each: each.event_type)
    if not handlers:
        return f"The group {group} has no handlers." if group and registry.named_groups else NO_HANDLER
    table = [("EVENT TYPE", "TOPIC", "GROUP", "PAYLOAD", "HANDLER")]
    for each in handlers:
        own_group = each.group or (main if group is None else group)
        table.append((each.event_type, each.topic or "any", own_group, each.arguments.payload_type, each.name))
    commands = [("COMMAND", "GROUP", "HANDLERS", "TOPICS")]
    for name in groups:
        command = "outbox_consume" if name == main else f"outbox_consume --group {name}"
        topics = ", ".join(sorted(GroupHandlers(registry, name).default_topics))
        commands.append((command, name, str(len(registry.for_group(name))), topics))
    return f"{columns(table)}\n\n{columns(commands)}"
