"""Hints lead to pages of the documentation that are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from configparser import ConfigParser
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import django_outbox
from django_outbox.operations import documentation as module
from django_outbox.operations.checks.settings import check_settings
from django_outbox.operations.documentation import documentation
from tests.support.overrides import outbox_settings

PACKAGE = Path(django_outbox.__file__).parent
ROOT = Path(__file__).parents[3]
SITE = "https://docs.example.com/en/stable/"


def calls(name: str) -> Iterator[ast.Call]:
    """The package's calls of a function."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                yield node


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Message:
    """The metadata of the installed package."""
    message = Message()
    monkeypatch.setattr(module, "metadata", lambda distribution: message)
    return message


@pytest.mark.parametrize("site", [SITE, SITE.rstrip("/")])
def test_page_is_on_the_site_that_the_metadata_name(metadata: Message, site: str) -> None:
    metadata["Project-URL"] = "Source, https://code.example.com/"
    metadata["Project-URL"] = f"Documentation, {site}"
    assert documentation("brokers") == f"{SITE}brokers.html"


def test_page_is_in_the_sources_where_no_site_is_named(metadata: Message) -> None:
    assert documentation("brokers") == "docs/brokers.rst"


def test_page_is_in_the_sources_where_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def metadata(distribution: str) -> None:
        raise PackageNotFoundError(distribution)

    monkeypatch.setattr(module, "metadata", metadata)
    assert documentation("brokers") == "docs/brokers.rst"


def test_site_is_named_in_one_place() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["name"] == module.DISTRIBUTION
    label, _, site = setup["metadata"]["project_urls"].strip().partition(" = ")
    assert (label, site[:8]) == ("Documentation", "https://")
    sources = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.html")]
    assert [path for path in sources if site.split("/")[2] in path.read_text()] == []


def test_each_page_that_is_named_exists() -> None:
    named = [call.args[0] for call in calls("documentation")]
    assert {ast.literal_eval(page) for page in named} >= {"brokers", "settings"}
    assert [page for page in map(ast.literal_eval, named) if not (ROOT / "docs" / f"{page}.rst").is_file()] == []


def test_nothing_else_in_the_package_points_to_the_sources_of_the_documentation() -> None:
    pointers = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.html")]
        if path.name != "documentation.py"
        for found in re.finditer(r"(?<![\w/.])docs/[\w-]+|[\w-]+\.rst\b(?!rip)", path.read_text())
    ]
    assert pointers == []


@pytest.mark.parametrize(
    ("changes", "page"),
    [({"ORDERING": "no"}, "settings"), ({"BROKER": {"BACKEND": "nothing.here"}}, "brokers")],
)
def test_hint_of_a_system_check_is_the_page_s_address(metadata: Message, changes: dict[str, object], page: str) -> None:
    metadata["Project-URL"] = f"Documentation, {SITE}"
    with outbox_settings(**changes):
        (message,) = check_settings()
    assert message.hint == f"See {SITE}{page}.html."
