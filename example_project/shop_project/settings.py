"""Settings of the example shop; the environment overrides what differs between machines."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import django
import environ

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

# For development; with DEBUG=false, SECRET_KEY is required.
DEBUG = env.bool("DEBUG", default=True)
SECRET_KEY = env.str("SECRET_KEY", default="only-for-development" if DEBUG else env.NOTSET)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_outbox",
    "orders",
    "shipping",
    "mail",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "shop_project.urls"
WSGI_APPLICATION = "shop_project.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"

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

# Orders and messages are in the same database, so that one transaction writes both.
DATABASES: dict[str, dict[str, Any]] = {
    "default": env.db_url("DATABASE_URL", default=f"sqlite:///{quote(str(BASE_DIR / 'shop.sqlite3'))}"),
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # SQLite has no row locks. IMMEDIATE takes the write lock at BEGIN, so that shop, relay and consumer wait for each
    # other. WAL lets them read meanwhile.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }

OUTBOX = {
    "BROKER": {
        "URL": env.str("KAFKA_URL", default="kafka://localhost:9092"),
        # Another consumer takes over a killed one's partitions after this time. The development broker makes a
        # starting consumer wait for half of it.
        "CONSUMER_OPTIONS": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 2_000},
    },
    "SOURCE": "shop",
    "TOPIC": "shop",
    "ROUTES": {"order.*": "shop.orders"},
    "MAX_RETRY": env.int("OUTBOX_MAX_RETRY", default=20),
}

# Each e-mail is written to a file and does not leave this machine.
MAIL_DIR = env.str("MAIL_DIR", default=str(BASE_DIR / "mail_sent"))
MAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": MAIL_BACKEND, "OPTIONS": {"file_path": MAIL_DIR}}}
else:
    EMAIL_BACKEND = MAIL_BACKEND
    EMAIL_FILE_PATH = MAIL_DIR
