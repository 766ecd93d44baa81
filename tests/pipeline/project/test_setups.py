"""Projects that are set up in other ways than most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from django_outbox import publish
from django_outbox.models import OutboxMessage
from tests.support.processes import ROOT


def place_order(request: HttpRequest) -> HttpResponse:
    publish("order.created", {"order": 1})
    if request.GET.get("fails"):
        raise ArithmeticError
    return HttpResponse()


urlpatterns = [path("order/", place_order)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.urls(__name__)
def test_with_atomic_requests_a_view_needs_no_transaction_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    client = Client(raise_request_exception=False)
    assert client.get("/order/?fails=1").status_code == 500
    assert not OutboxMessage.objects.exists()
    assert client.get("/order/").status_code == 200
    assert OutboxMessage.objects.count() == 1


@pytest.mark.databases("sqlite")
def test_a_project_has_a_user_model_and_an_admin_site_of_its_own(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "DJANGO_SETTINGS_MODULE": "tests.support.custom.settings",
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.custom"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    assert {page: each for page, each in told["pages"].items() if each != [200, True, False]} == {}
    assert (told["status"], told["page"]) == ("pending", True)
    assert told["paused by"] == ["ann@example.com"]
    assert told["log"] == ["ann@example.com"] * 2
