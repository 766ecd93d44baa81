"""Creates the tables, and visits the pages of the outbox: prints addresses and statuses as JSON."""

from __future__ import annotations

import json
import sys

import django
from django.core.management import call_command
from django.test import Client
from django.test.utils import setup_test_environment

if __name__ == "__main__":
    django.setup()
    setup_test_environment()
    call_command("migrate", run_syncdb=True, verbosity=0)

    from django.contrib.admin.models import LogEntry
    from django.contrib.auth import get_user_model

    from django_outbox.models import Pause
    from tests.support.outbox import make_message, row
    from tests.support.pages import act, action_url, url

    user = get_user_model()(email="ann@example.com", is_superuser=True)
    user.save()
    client = Client()
    client.force_login(user)
    dead = make_message("dead", last_error="boom")
    base = "/operations/django_outbox"
    retry = action_url("retry", ids=str(dead.id))
    pages = {}
    for page in (
        "/operations/",
        f"{base}/",
        f"{base}/overview/",
        f"{base}/eventcatalogue/",
        f"{base}/pause/",
        f"{base}/outboxmessage/",
        f"{base}/deadletter/",
        f"{base}/inboxmessage/",
        f"{base}/deadletter/{dead.id}/change/",
        retry,
    ):
        response = client.get(page)
        content = response.content.decode()
        pages[page] = [response.status_code, "Operations of the shop" in content, '"/admin/' in content]
    act(client, "retry", dead)
    subject = {"group": "tests", "event_type": "test.effect", "handler": "", "reason": "later"}
    client.post(url("pause", "pause"), subject)
    told = {
        "pages": pages,
        "status": row(dead).status,
        "log": [str(entry.user) for entry in LogEntry.objects.all()],
        "page": "ann@example.com retried" in client.get(f"{base}/outboxmessage/{dead.id}/change/").content.decode(),
        "paused by": list(Pause.objects.values_list("created_by", flat=True)),
    }
    json.dump(told, sys.stdout)
