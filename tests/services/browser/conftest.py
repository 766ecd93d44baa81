"""A web server with a strict Content-Security-Policy, a browser, and who uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "for tests only"


@pytest.fixture
def server(transactional_db: None, kafka_outbox: Any, settings: Any) -> Iterator[str]:
    from pytest_django.live_server_helper import LiveServer

    settings.ROOT_URLCONF = "tests.services.browser.csp"
    settings.MIDDLEWARE = ["tests.services.browser.csp.Middleware", *settings.MIDDLEWARE]
    server = LiveServer("127.0.0.1")
    yield server.url
    server.stop()


@pytest.fixture
def browser(server: str, tmp_path: Path) -> Iterator[Any]:
    """A browser that must not complain of anything in the end."""
    from tests.services.browser.csp import violations
    from tests.services.browser.driver import Browser

    violations.clear()
    browser = Browser(server, tmp_path / "profile")
    try:
        yield browser
        complaints = browser.log()
    finally:
        browser.close()
    assert not violations
    assert not complaints


@pytest.fixture
def busy_night(
    browser: Any, settings: Any, monkeypatch: pytest.MonkeyPatch, client: Any, django_user_model: Any
) -> Any:
    """A shop with much to look at; see ``tests.services.browser.scene``."""
    from tests.services.browser.scene import make_night

    return make_night(settings, monkeypatch, client, django_user_model)


@pytest.fixture
def user(browser: Any, django_user_model: Any) -> Callable[..., None]:
    """Log somebody in, who may view and do what is named; with nothing named, everything."""
    from django.contrib.auth.models import Permission

    def user(name: str, *actions: str, superuser: bool = False) -> None:
        if superuser:
            django_user_model.objects.create_superuser(name, password=PASSWORD)
        else:
            user = django_user_model.objects.create_user(name, password=PASSWORD, is_staff=True)
            names = ["view_deadletter", *(f"{action}_outboxmessage" for action in ("view", *actions))]
            user.user_permissions.set(Permission.objects.filter(codename__in=names))
        browser.login(name, PASSWORD)

    return user
