"""What the README promises: testing a project with the memory broker, and URLs with TLS and logins."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction

from django_outbox import publish
from django_outbox.brokers.base import get_broker
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.brokers.url import PROTOCOLS, parse_url
from django_outbox.conf import BrokerSettings
from tests.app.models import Effect
from tests.helpers import ROOT


@pytest.mark.django_db
def test_a_project_can_test_its_whole_pipeline_within_a_test_case(settings: Any) -> None:
    settings.OUTBOX = {
        "SOURCE": "shop",
        "BROKER": {"BACKEND": "django_outbox.brokers.memory.MemoryBroker"},
    }
    MemoryBroker.clear()
    with transaction.atomic():
        publish("test.effect", {"order": 7}, key="7")

    call_command("outbox_relay", "--drain")
    call_command("outbox_consume", "--drain")

    assert Effect.objects.get().name == "test.effect {'order': 7}"


def urls_of_the_readme() -> list[str]:
    section = (ROOT / "README.rst").read_text().partition("\nTLS and logins\n=")[2].partition("\n====")[0]
    return re.findall(r"^    (kafka\S*://\S+)$", section, re.MULTILINE)


def test_the_readme_has_examples_of_all_that_needs_tls_or_a_login() -> None:
    urls = urls_of_the_readme()
    assert {url.partition("://")[0] for url in urls} == set(PROTOCOLS) - {"kafka"}
    for option in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password", "sasl_mechanism"):
        assert any(f"{option}=" in url for url in urls)


@pytest.mark.parametrize("backend", ["kafka.KafkaBroker", "confluent.ConfluentBroker"])
@pytest.mark.parametrize("url", urls_of_the_readme())
def test_a_url_of_the_readme_is_taken_by_both_backends_as_it_stands(backend: str, url: str) -> None:
    broker = get_broker(BrokerSettings(backend=f"django_outbox.brokers.{backend}", url=url))
    parsed = parse_url(url)
    assert broker.location == f"{url.partition('://')[0]}://{','.join(parsed.hosts)}"
    assert (parsed.username, parsed.password) == (("shop", "s@cret") if "sasl" in url else (None, None))
