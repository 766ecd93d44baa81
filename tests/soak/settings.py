"""Django settings of the processes of a soak run."""

from __future__ import annotations

from datetime import timedelta

from tests.support.settings import *  # noqa: F403
from tests.support.settings import INSTALLED_APPS, OUTBOX

INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "tests.support.app"] + ["tests.soak.app"]
KEPT = timedelta(minutes=5)
OUTBOX = OUTBOX | {"SOURCE": "soak", "TOPIC": "soak", "CONSUMER_GROUP": "soak", "RETENTION": {"consumed": KEPT}}
