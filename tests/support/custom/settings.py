"""Django settings of a project whose users have no user name, and whose admin site is its own."""

from typing import Any

from tests.support.settings import *  # noqa: F403
from tests.support.settings import INSTALLED_APPS as _APPS
from tests.support.settings import env

DATABASES: dict[str, Any] = {"default": env.db_url("DATABASE_URL")}
INSTALLED_APPS = [
    "tests.support.custom.operations.OperationsConfig" if name == "django.contrib.admin" else name for name in _APPS
] + ["tests.support.custom"]
AUTH_USER_MODEL = "custom.User"
ROOT_URLCONF = "tests.support.custom.urls"
