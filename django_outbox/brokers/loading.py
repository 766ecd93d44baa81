"""Loads the backend that the settings name."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_outbox.brokers.base import Broker
from django_outbox.conf import BrokerSettings


def get_broker(settings: BrokerSettings) -> Broker:
    """The broker that the settings name.

    Raises:
        ImproperlyConfigured: the backend cannot be imported or is not a ``Broker``.
    """
    try:
        backend = import_string(settings.backend)
    except (ImportError, TypeError, ValueError) as error:  # the last two for a path such as "." or "..x"
        raise ImproperlyConfigured(f'OUTBOX["BROKER"]["BACKEND"] cannot be imported: {error}.') from error
    if not (isinstance(backend, type) and issubclass(backend, Broker)):
        raise ImproperlyConfigured(f'OUTBOX["BROKER"]["BACKEND"] is not a Broker: {settings.backend}.')
    return backend(settings)
