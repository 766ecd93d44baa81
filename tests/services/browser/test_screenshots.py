"""Every page as a picture, light and dark, wide and on a phone: to be looked at, and some for the documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.services.browser.driver import PHONE, WIDE
from tests.services.browser.scene import NO_WEIGHT, Night
from tests.support.pages import action_url, page_of, url

THEMES = ("light", "dark")
SIZES = {"wide": WIDE, "phone": PHONE}
# The documentation's; each costs every clone of the repository some 50 kB.
KEPT = {
    "overview-wide-light",
    "overview-wide-dark",
    "overview-phone-dark",
    "messages-wide-light",
    "dead-letters-wide-light",
    "dead-letters-phone-light",
    "message-wide-light",
    "unreadable-wide-dark",
    "retry-wide-light",
}


@pytest.fixture
def directory(pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """Where all pictures go: to --all-screenshots, if that is given."""
    directory = Path(pytestconfig.option.all_screenshots or tmp_path / "pictures")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def test_pages_as_pictures(
    browser: Any, user: Any, busy_night: Night, directory: Path, pytestconfig: pytest.Config
) -> None:
    user("ada", superuser=True)
    selection = {"error": NO_WEIGHT}

    def dry_run() -> None:
        browser.open(action_url("retry", **selection))
        browser.follow("Dry run")

    def page(address: str) -> Callable[[], None]:
        return lambda: browser.open(address)

    pages = {
        "overview": page(url("overview")),
        "messages": page(url("outboxmessage")),
        "dead-letters": page(url("deadletter")),
        "inbox": page(url("inboxmessage")),
        "inbox-dead-letters": page(url("inboxdeadletter")),
        "message": page(page_of(busy_night.dead)),
        "unreadable": page(page_of(busy_night.unreadable)),
        "retry": dry_run,
        "edit": page(action_url("edit", ids=str(busy_night.dead.id))),
        "delete": page(action_url("delete", **selection)),
        "pending": page(f"{url('outboxmessage')}?status=pending"),
        "send-now": page(action_url("send_now", status="pending")),
        "cancel": page(action_url("cancel", status="pending")),
        "pauses": page(url("pause")),
        "pause": page(url("pause", "pause")),
        "resume": page(f"{url('pause', 'resume')}?id={busy_night.pause.id}"),
    }
    for name, open_page in pages.items():
        open_page()
        for size, pixels in SIZES.items():
            for theme in THEMES:
                browser.size(pixels)
                browser.theme(theme)
                width = browser.driver.execute_script("return document.documentElement.scrollWidth")
                assert width <= pixels[0], f"{name} is wider than a {size} screen"
                browser.picture(directory / f"{name}-{size}-{theme}.png")
    pictures = {picture.stem: picture for picture in directory.glob("*.png")}
    assert len(pictures) == len(pages) * len(SIZES) * len(THEMES)
    assert pictures.keys() >= KEPT
    if pytestconfig.option.screenshots:
        for name in KEPT:
            (Path(pytestconfig.option.screenshots) / f"{name}.png").write_bytes(pictures[name].read_bytes())


def test_pages_have_the_look_of_the_django_that_is_installed(browser: Any, user: Any, busy_night: Night) -> None:
    user("ada", superuser=True)

    def crumbs() -> list[str]:
        line = browser.one(".breadcrumbs")
        return [line.value_of_css_property(name) for name in ("background-color", "padding-left", "color")]

    browser.open(url("deadletter"))
    djangos = crumbs()
    for page in (url("overview"), page_of(busy_night.dead)):
        browser.open(page)
        assert crumbs() == djangos
        for button in browser.all("#content a.button"):
            assert button.value_of_css_property("text-decoration-line") == "none", button.text


def test_who_may_not_see_secrets_does_not(browser: Any, user: Any, busy_night: Night) -> None:
    user("eve", "retry")
    browser.open(page_of(busy_night.dead))
    assert "correct horse" not in browser.driver.page_source
    browser.wait_for("Secret values are hidden")
