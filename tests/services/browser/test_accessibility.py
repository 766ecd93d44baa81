"""Pages are usable without eyes and without a mouse, as far as axe-core can tell, light and dark."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.services.browser.driver import PHONE, WIDE
from tests.services.browser.scene import NO_WEIGHT, Night
from tests.support.pages import action_url, page_of, url

# What Django's own templates bring along is not ours to mend: the label of the search box, which is an image, ...
DJANGOS = ("#searchbar", "#header", "#nav-sidebar", "#changelist-filter")
RUN = """
const [exclude, done] = arguments;
axe.run({exclude: exclude.map(each => [each])}, {resultTypes: ["violations"]})
   .then(result => done(result.violations), error => done([{id: String(error), nodes: []}]));
"""


@pytest.fixture
def axe(browser: Any, pytestconfig: pytest.Config) -> Any:
    """What axe-core finds wrong with the page that is open. --axe names a newer one than the package brings."""
    chosen = pytestconfig.option.axe
    source = (Path(chosen) if chosen else files("axe_core_python") / "axe.min.js").read_text()

    def axe() -> list[str]:
        if not browser.driver.execute_script("return 'axe' in window"):
            browser.driver.execute_script(source)
        found = browser.driver.execute_async_script(RUN, DJANGOS)
        return [
            f"{each['id']}: {node['target']}: {node.get('failureSummary', '')}"
            for each in found
            for node in each["nodes"] or [{"target": "?"}]
        ]

    return axe


def test_axe_finds_nothing_wrong(browser: Any, user: Any, busy_night: Night, axe: Any) -> None:
    browser.bypass_content_security_policy()  # axe-core brings styles; that our pages bring none, all other tests show
    user("ada", superuser=True)
    ids = str(busy_night.dead.id)
    pages = [
        url(model)
        for model in ("overview", "eventcatalogue", "outboxmessage", "deadletter", "inboxmessage", "inboxdeadletter")
    ]
    pages += [page_of(busy_night.dead), page_of(busy_night.unreadable), action_url("edit", ids=ids)]
    pages += [action_url(action, error=NO_WEIGHT) for action in ("retry", "delete")]
    pages += [action_url(action, status="pending") for action in ("send_now", "cancel")]
    pages += [url("pause"), url("pause", "pause"), f"{url('pause', 'resume')}?id={busy_night.pause.id}"]
    for page in pages:
        browser.open(page)
        browser.open_all_details()
        for size, theme in ((WIDE, "light"), (PHONE, "dark")):
            browser.size(size)
            browser.theme(theme)
            browser.wait_for_colours()
            assert not axe(), f"{page}, {theme}"


def test_headings_go_down_one_level_at_a_time_and_every_table_has_headers(
    browser: Any, user: Any, busy_night: Night
) -> None:
    user("ada", superuser=True)
    for page in (url("overview"), page_of(busy_night.dead), action_url("retry", error=NO_WEIGHT)):
        browser.open(page)
        levels = [int(heading.tag_name[1]) for heading in browser.all("#content :is(h1, h2, h3, h4)")]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), levels
        assert not browser.all("#content-main th:not([scope])")
        for table in browser.all("#content-main table"):
            assert table.find_elements("css selector", "thead th[scope=col]"), table.text


def test_plots_have_a_name_and_their_numbers_a_table(browser: Any, user: Any, busy_night: Night) -> None:
    user("ada", superuser=True)
    browser.open(url("overview"))
    plots = browser.all("svg[role=img]")
    assert [plot.get_attribute("aria-label") for plot in plots] == [
        "Messages of the outbox written, published and consumed per ten minutes, in the last 24 hours",
        "Messages of the inbox received and consumed per ten minutes, in the last 24 hours",
        "Messages that became dead per day, in the last 14 days",
    ]
    browser.open_all_details()
    assert len(browser.all("figure details table")) == len(plots)
    legend = " ".join(" ".join(each.text for each in browser.all(".outbox-legend li")).split())
    assert "outbox 2" in legend
    assert "inbox" in legend


def test_focus_is_seen_on_every_link_and_button(browser: Any, user: Any, busy_night: Night) -> None:
    user("ada", superuser=True)
    browser.open(url("overview"))
    browser.tab_to("Show messages")
    for _ in range(30):
        focused = browser.driver.switch_to.active_element
        outline = focused.value_of_css_property("outline-style")
        assert outline != "none", focused.get_attribute("outerHTML")
        browser.press(Keys.TAB)
