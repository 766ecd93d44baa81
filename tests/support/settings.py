"""Django settings of the tests, in the test process and in the real commands that it starts."""

from pathlib import Path
from typing import Any

import environ

env = environ.Env()

BASE_DIR = Path(__file__).parents[2]

SECRET_KEY = "for tests only"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "tests.support.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_outbox",
    "tests.support.app",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

database: dict[str, Any] = env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'tests.sqlite3'}")
if database["ENGINE"].endswith("sqlite3"):
    database["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;",
    }
    # A file, where Django would take memory: threads and commands of their own share the test database.
    database["TEST"] = {"NAME": f"{database['NAME']}.test"}
elif database["ENGINE"].endswith("mysql"):
    # Pure Python, so that no compiler and no system library is needed for the tests.
    import pymysql

    pymysql.install_as_MySQLdb()
elif env.bool("PREPARED_STATEMENTS", default=False):
    # psycopg's own way, with parameters that the server binds; Django's default is text made by the client.
    database["OPTIONS"] = {**database.get("OPTIONS", {}), "server_side_binding": True, "prepare_threshold": 1}
DATABASES = {"default": database}
DATABASE_ROUTERS = ["tests.support.routers.NoDefaultDatabase"]

BACKEND = env.str("OUTBOX_BACKEND", default="django_outbox.brokers.memory.MemoryBroker")
# A killed consumer frees its partitions sooner; and Tansu lets a group's first member wait half of it.
CONSUMER_OPTIONS = {
    "session_timeout_ms": env.int("OUTBOX_SESSION_TIMEOUT_MS", default=3000),
    "heartbeat_interval_ms": 500,
}
if "confluent" in BACKEND:
    CONSUMER_OPTIONS = {name.replace("_", "."): value for name, value in CONSUMER_OPTIONS.items()}

OUTBOX = {
    "BROKER": {
        "BACKEND": BACKEND,
        "URL": env.str("KAFKA_URL", default="kafka://localhost:9092"),
        "CONSUMER_OPTIONS": CONSUMER_OPTIONS,
    },
    "SOURCE": "tests",
    "TOPIC": env.str("OUTBOX_TOPIC", default="outbox"),
    "CONSUMER_GROUP": env.str("OUTBOX_CONSUMER_GROUP", default="tests"),
    "PUBLISH_TIMEOUT": env.float("OUTBOX_PUBLISH_TIMEOUT", default=15),
    "WIRE_FORMAT": env.str("OUTBOX_WIRE_FORMAT", default="cloudevents"),
    "PUBLISHER": env.str("OUTBOX_PUBLISHER", default="relay"),
    "DEBEZIUM": env.json("OUTBOX_DEBEZIUM", default={}),
    "TASK_TOPICS": env.json("OUTBOX_TASK_TOPICS", default={}),
    "MAX_DELIVERIES": env.int("OUTBOX_MAX_DELIVERIES", default=5),
    "INBOX": env.json("OUTBOX_INBOX", default={}),
    "HANDLER_TIMEOUT": env.float("OUTBOX_HANDLER_TIMEOUT", default=None),
}
if tasks := env.json("DJANGO_TASKS", default=None):
    TASKS = tasks
