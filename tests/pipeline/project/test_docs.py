"""The documentation: it renders, its links lead somewhere, and no page, setting, command or option is missing."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction

from django_outbox import publish
from tests.support.app.models import Effect

"""What is shorter may well be said twice, such as 'Prints JSON.'"""


# Settings


# Commands


# Brokers


# Testing


@pytest.mark.django_db
def test_a_project_can_test_its_whole_pipeline_within_a_test_case(settings: Any) -> None:
    settings.OUTBOX = {
        "SOURCE": "shop",
        "BROKER": {"BACKEND": "django_outbox.brokers.memory.MemoryBroker"},
    }
    with transaction.atomic():
        publish("test.effect", {"order": 7}, key="7")

    call_command("outbox_relay", "--drain")
    call_command("outbox_consume", "--drain")

    assert Effect.objects.get().name == "test.effect {'order': 7}"
