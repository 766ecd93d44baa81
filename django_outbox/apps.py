"""Django's entry to this package."""

from __future__ import annotations

from importlib.util import find_spec

from django.apps import AppConfig
from django.core import checks
from django.utils.translation import gettext_lazy as _


class DjangoOutboxConfig(AppConfig):
    """Registers the system checks, and imports what ``publish()`` would otherwise import in a transaction.

    These are declared event types and serializers. Handlers are imported by the consumer, not here.
    """

    name = "django_outbox"
    label = "django_outbox"
    verbose_name = _("Outbox")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django_outbox.events.declared import event_types
        from django_outbox.operations.checks.deployment import check_deployment
        from django_outbox.operations.checks.event_types import check_event_types
        from django_outbox.operations.checks.server import check_routing, check_servers
        from django_outbox.operations.checks.settings import check_databases, check_settings
        from django_outbox.serializers.configured import import_classes

        if find_spec("django.tasks") is not None:  # Django 6.0 or later
            from django_outbox.handlers.registry import registry
            from django_outbox.signals import message_dead
            from django_outbox.tasks.loading import load_tasks
            from django_outbox.tasks.running import finish_dead

            registry.add_loader(load_tasks)
            message_dead.connect(finish_dead)

        event_types.load()  # every process that publishes checks the same, and imports nothing in a transaction
        checks.register(check_settings)
        checks.register(check_event_types)
        checks.register(check_routing)
        checks.register(check_databases, checks.Tags.database)
        checks.register(check_servers, checks.Tags.database)
        checks.register(check_deployment, deploy=True)
        import_classes()
