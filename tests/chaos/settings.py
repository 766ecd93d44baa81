"""Django settings of the workers of a chaos run."""

from __future__ import annotations

import os

from tests.support.settings import *  # noqa: F403
from tests.support.settings import INSTALLED_APPS, OUTBOX

INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "tests.support.app"] + ["tests.chaos.app"]
# Killed consumers leave deliveries behind that count: a long run must not give up a message for that.
OUTBOX = OUTBOX | {"SOURCE": "flights", "TOPIC": "flights", "CONSUMER_GROUP": "flights", "MAX_DELIVERIES": 1000}
RELEASE = int(os.environ.get("OUTBOX_CHAOS_RELEASE", "2"))
"""Of the app: 1 knows nothing of the second migration."""
