"""In a fresh process: optional libraries are imported only by projects that use them."""

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


def test_nothing_of_prometheus_is_imported_by_those_who_do_not_ask_for_it() -> None:
    code = (
        "import sys, django; django.setup()\n"
        "import django_outbox.management.commands.outbox_relay, django_outbox.management.commands.outbox_consume\n"
        "assert not [name for name in sys.modules if name.startswith('prometheus_client')]\n"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.support.settings"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_project_without_the_admin_renders_its_templates() -> None:
    code = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django_outbox"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    OUTBOX={"SOURCE": "tests"},
)
django.setup()
from django.template import engines
print(engines["django"].from_string("it {{ word }}").render({"word": "works"}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "it works\n"
