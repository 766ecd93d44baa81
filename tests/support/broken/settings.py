"""Settings of a project in which something is wrong. The environment says what.

``BROKEN_OUTBOX``: a JSON object of keys of ``OUTBOX`` to change, or to leave out (null).
``BROKEN_APPS``: apps more, separated by commas.
"""

from tests.support.settings import *  # noqa: F403
from tests.support.settings import INSTALLED_APPS, OUTBOX, env

INSTALLED_APPS = [*INSTALLED_APPS, *env.list("BROKEN_APPS", default=[])]
OUTBOX = {**OUTBOX, **env.json("BROKEN_OUTBOX", default={})}
OUTBOX = {key: value for key, value in OUTBOX.items() if value is not None}
