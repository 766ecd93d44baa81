"""Settings of the warehouse, another project with its own database that reads the shop's topic."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import environ

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

SECRET_KEY = "it serves no pages"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

INSTALLED_APPS = ["django_outbox", "warehouse"]

DATABASES: dict[str, dict[str, Any]] = {
    "default": env.db_url("WAREHOUSE_DATABASE_URL", default=f"sqlite:///{quote(str(BASE_DIR / 'warehouse.sqlite3'))}"),
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}

OUTBOX = {
    "BROKER": {
        "URL": env.str("KAFKA_URL", default="kafka://localhost:9092"),
        "CONSUMER_OPTIONS": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 2_000},
    },
    "SOURCE": "warehouse",
}
