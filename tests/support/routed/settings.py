"""A project whose router sends all models to another database than "default", which has no tables."""

from typing import Any

from tests.support.settings import *  # noqa: F403
from tests.support.settings import database

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}, "events": database}


class Router:
    """Knows one database."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "events"

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == "events"


DATABASE_ROUTERS = ["tests.support.routed.settings.Router"]
