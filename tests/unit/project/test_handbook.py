"""docs/operations.rst: an entry for each alert and for each check of the doctor."""

from __future__ import annotations

from configparser import ConfigParser
from typing import Any

import pytest
import yaml
from docutils import nodes
from docutils.core import publish_doctree

from django_outbox.operations.doctor.run import CHECKS
from tests.support.processes import ROOT

PAGE = publish_doctree((ROOT / "docs/operations.rst").read_text(), settings_overrides={"syntax_highlight": "none"})
SECTIONS = {section.next_node(nodes.title).astext(): section for section in PAGE.findall(nodes.section)}
ALERTS = yaml.safe_load((ROOT / "contrib/prometheus/alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
URGENCY = {"critical": "Now", "warning": "Today"}


def fields_of(section: nodes.section) -> dict[str, str]:
    return {name.astext(): body.astext() for name, body in section.findall(nodes.field)}


def site() -> str:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup["metadata"]["project_urls"].strip().partition("\n")[0].partition(" = ")[2]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_has_an_entry_to_which_it_leads(rule: dict[str, Any]) -> None:
    section = SECTIONS[rule["alert"]]
    assert rule["annotations"]["runbook_url"] == f"{site()}operations.html#{section['ids'][0]}"
    fields = fields_of(section)
    assert list(fields) == ["Means", "Find", "Do", "Over"]
    assert fields["Means"].startswith(URGENCY[rule["labels"]["severity"]])


def test_entries_are_those_of_alerts_that_exist() -> None:
    entries = [section.next_node(nodes.title).astext() for section in SECTIONS["Alerts"].findall(nodes.section)]
    assert entries[1:] == [rule["alert"] for rule in RULES]


def test_urgency_of_each_check_of_the_doctor_is_stated_once() -> None:
    (body,) = SECTIONS["Checks of the doctor"].findall(nodes.tbody)
    names = [each.astext() for row in body for each in row[0].findall(nodes.literal)]
    assert sorted(names) == sorted(check.name for check in CHECKS)


def test_commands_of_entries_are_understood() -> None:
    """Inside a paragraph; those in blocks are checked with all pages."""
    literals = [each.astext() for each in PAGE.findall(nodes.literal)]
    checks = {check.name for check in CHECKS}
    named = [name for each in literals if "--only" in each for name in each.partition("--only ")[2].split()]
    assert set(named) <= checks
