"""Django settings of watched processes: those of the tests, with handlers and a broker of their own."""

from tests.support.settings import *  # noqa: F403
from tests.support.settings import DATABASES, INSTALLED_APPS, OUTBOX

INSTALLED_APPS = [*INSTALLED_APPS, "tests.support.watched"]
DATABASES["default"].setdefault("OPTIONS", {})
OUTBOX["BROKER"]["BACKEND"] = "tests.support.watched.broker.WatchedBroker"
