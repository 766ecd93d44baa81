"""Django 5.2 has no Tasks framework."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest
from django.core.exceptions import ImproperlyConfigured

if find_spec("django.tasks") is None:

    def test_the_backend_of_tasks_says_which_django_it_needs() -> None:
        module = import_module("django_outbox.tasks")  # as Celery imports it
        with pytest.raises(
            ImproperlyConfigured, match=r"django_outbox\.tasks\.OutboxBackend needs Django 6\.0 or later"
        ):
            _ = module.OutboxBackend
