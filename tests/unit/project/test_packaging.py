"""What PyPI gets: the README there has only links and pictures that work on another site."""

from __future__ import annotations

import runpy
from configparser import ConfigParser

import pytest
from docutils import nodes
from docutils.core import publish_doctree

import django_outbox
from tests.support.processes import ROOT

README = (ROOT / "README.rst").read_text()
SETUP = runpy.run_path(str(ROOT / "setup.py"))


def links_of(text: str) -> list[str]:
    """The addresses of the links and pictures of a page, in its order."""
    tree = publish_doctree(text, settings_overrides={"report_level": 2, "halt_level": 2, "syntax_highlight": "none"})
    links = [node["refuri"] for node in tree.findall(nodes.reference) if "refuri" in node]
    return links + [node["uri"] for node in tree.findall(nodes.image)]


def project_urls() -> dict[str, str]:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["metadata"]["project_urls"].strip().splitlines()
    return dict((part.strip() for part in line.split("=", 1)) for line in lines)  # type: ignore[misc]


def test_every_link_and_picture_of_the_readme_is_absolute_on_pypi() -> None:
    here, there = links_of(README), links_of(SETUP["for_pypi"](README))
    relative = [link for link in here if "://" not in link]
    assert any(link.endswith(".png") for link in relative)
    assert [link for link in there if "://" not in link] == []
    assert [link for link in here if "://" in link] == [link for link in there if link in here]


def test_links_on_pypi_lead_to_the_files_of_the_same_version() -> None:
    address = project_urls()["Source"]
    for before, after in zip(links_of(README), links_of(SETUP["for_pypi"](README)), strict=True):
        if "://" not in before:
            kind = "raw" if before.endswith(".png") else "blob"
            assert after == f"{address}/{kind}/v{django_outbox.__version__}/{before}"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("`a <docs/a.rst>`__", "`a <{blob}/docs/a.rst>`__"),
        ("`a <docs/a.rst#b>`_", "`a <{blob}/docs/a.rst#b>`_"),
        ("`a\n<docs/a.rst>`__", "`a\n<{blob}/docs/a.rst>`__"),
        (".. image:: a.png\n   :alt: a\n", ".. image:: {raw}/a.png\n   :alt: a\n"),
        ("`a <https://example.com/>`__", "`a <https://example.com/>`__"),
        ("`a <mailto:a@example.com>`__", "`a <mailto:a@example.com>`__"),
        (".. image:: https://example.com/a.png", ".. image:: https://example.com/a.png"),
        ("``a <b>``", "``a <b>``"),
    ],
)
def test_only_relative_links_change(written: str, shown: str) -> None:
    blob, raw = (f"{project_urls()['Source']}/{kind}/v{django_outbox.__version__}" for kind in ("blob", "raw"))
    assert SETUP["for_pypi"](written) == shown.format(blob=blob, raw=raw)


def test_addresses_of_the_project_are_those_of_its_repository() -> None:
    urls = project_urls()
    assert urls["Issues"] == f"{urls['Source']}/issues"
    assert urls["Changelog"] == f"{urls['Source']}/blob/main/CHANGELOG.rst"
