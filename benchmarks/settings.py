"""Django settings of the benchmarks and of the processes that they start; all from the environment."""

from __future__ import annotations

import environ

from benchmarks.backends import CONSUMER_OPTIONS, KAFKA_PYTHON, PREPARED_STATEMENTS

env = environ.Env()

SECRET_KEY = "for benchmarks only"
DEBUG = False
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django_outbox", "benchmarks"]

# Environ reads the URL; CONN_MAX_AGE as a server under load would have it.
DATABASES = {"default": {**env.db_url("DATABASE_URL", default="sqlite://:memory:"), "CONN_MAX_AGE": None}}
if env.bool("BENCH_PREPARED", default=False):
    DATABASES["default"]["OPTIONS"] = PREPARED_STATEMENTS

_backend = env.str("BENCH_BACKEND", default=KAFKA_PYTHON)

OUTBOX = {
    "BROKER": {
        "BACKEND": _backend,
        "URL": env.str("KAFKA_URL", default="kafka://localhost:9092"),
        "CONSUMER_OPTIONS": CONSUMER_OPTIONS[_backend],
    },
    "SOURCE": "benchmarks",
    "TOPIC": env.str("BENCH_TOPIC", default="benchmarks"),
    "CONSUMER_GROUP": env.str("BENCH_GROUP", default="benchmarks"),
    "ORDERING": env.str("BENCH_ORDERING", default="key"),
    "PUBLISHER": env.str("BENCH_PUBLISHER", default="relay"),
    "NOTIFY": env.bool("BENCH_NOTIFY", default=False),
    "PURGE": env.bool("BENCH_PURGE", default=True),
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
