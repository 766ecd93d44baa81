"""What is imported for traces: nothing, unless the project uses it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT

PIPELINE = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import django
django.setup()
from django.core.management import call_command
from django.db import transaction
from django_outbox import publish
from tests.support.app.models import Effect
call_command("migrate", verbosity=0)
with transaction.atomic():
    publish("test.effect", 1)
call_command("outbox_relay", "--drain")
call_command("outbox_consume", "--drain")
assert Effect.objects.count() == 1
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "sentry_sdk") and sys.modules[name]))
"""


@pytest.mark.parametrize("blocked", [[], ["opentelemetry", "sentry_sdk"]], ids=["installed", "not installed"])
def test_libraries_that_the_project_does_not_use_are_not_imported(blocked: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PIPELINE.format(blocked=blocked)],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.support.settings",
            "DATABASE_URL": "sqlite://:memory:",
            "OUTBOX_BACKEND": "django_outbox.brokers.memory.MemoryBroker",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
