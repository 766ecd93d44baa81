"""Links of the documentation's site: written for files of the repository, they lead to pages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

SITE = "https://outbox.example.com/stable/"
REPOSITORY = "https://git.example.com/outbox/blob/main/"

INDEX = f"""
Contents
========

Begin with the `README <../README.rst>`__.

Guides
------

* `Events <events.rst>`__
* `Versions <events.rst#versions>`__
* `Security <../SECURITY.md>`__

Reference
---------

* `API <{SITE}site/api.html>`__
"""
EVENTS = f"""
Events
======

`page <index.rst>`__ `anchor <index.rst#guides>`__ `here <#versions>`__ `overview <../README.rst#why>`__
`file <../SECURITY.md>`__ `heading <../SECURITY.md#scope>`__ `data <data.json>`__ `web <https://example.org/#x>`__
`site <{SITE}site/api.html#names>`__

Versions
--------

=============================  =
`in a table <index.rst>`__     x
=============================  =
"""
README = """
Outbox
======

`events <docs/events.rst#versions>`__ `licence <LICENSE>`__

.. image:: docs/picture.svg
   :alt: A picture

Why
---
"""


CONFIGURATION = f"""
import sys

sys.path.insert(0, {str(ROOT / "docs" / "site")!r})
extensions = ["page_links"]
html_baseurl = {SITE!r}
page_links_repository = {REPOSITORY!r}
html_theme = "basic"
html_sidebars = {{"**": ["globaltoc.html"]}}
"""
MISSING = {
    "gone.rst": "gone.rst does not exist",
    "../GONE.md": "../GONE.md does not exist",
    "index.rst#gone": "index does not have the anchor gone",
    "#lost": "events does not have the anchor lost",
    "../README.rst#gone": "site/overview does not have the anchor gone",
    f"{SITE}site/gone.html": f"{SITE}site/gone.html does not exist",
}


def write(root: Path, events: str) -> None:
    """A small project with this page."""
    files = {
        "docs/conf.py": CONFIGURATION,
        "docs/index.rst": INDEX,
        "docs/events.rst": events,
        "docs/site/overview.rst": ".. include:: ../../README.rst\n",
        "docs/site/api.rst": "API\n===\n\nNames\n-----\n",
        "docs/picture.svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
        "docs/data.json": "{}",
        "README.rst": README,
        "SECURITY.md": "",
        "LICENSE": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def build(root: Path, *options: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", *options, root / "docs", root / "html"]
    return subprocess.run(command, capture_output=True, text=True, cwd=root / folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    write(root, EVENTS)
    built = build(root)
    assert (built.returncode, built.stderr) == (0, "")
    return root / "html"


def links_of(page: Path) -> dict[str, str]:
    """The addresses of a page's text, by the text of the link."""
    body = page.read_text().partition('<div class="body" role="main">')[2].partition('<div class="sphinxsidebar')[0]
    found = re.findall(r'<a class="reference \w+" href="([^"]*)">(.*?)</a>', body)
    return {text: address for address, text in found}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("page", "index.html"),
        ("anchor", "index.html#guides"),
        ("here", "#versions"),
        ("overview", "site/overview.html#why"),
        ("in a table", "index.html"),
        ("site", "site/api.html#names"),
        ("file", f"{REPOSITORY}SECURITY.md"),
        ("heading", f"{REPOSITORY}SECURITY.md#scope"),
        ("data", f"{REPOSITORY}docs/data.json"),
        ("web", "https://example.org/#x"),
    ],
)
def test_a_link_leads_to_a_page_or_to_a_file_of_the_repository(site: Path, text: str, address: str) -> None:
    assert links_of(site / "events.html")[text] == address


def test_links_and_pictures_of_an_included_file_are_relative_to_that_file(site: Path) -> None:
    overview = site / "site" / "overview.html"
    assert links_of(overview) == {"events": "../events.html#versions", "licence": f"{REPOSITORY}LICENSE"}
    assert 'src="../_images/picture.svg"' in overview.read_text()
    assert (site / "_images" / "picture.svg").is_file()


def test_a_build_in_another_folder_can_use_what_the_last_one_has_read(site: Path) -> None:
    again = build(site.parent, "--write-all", folder="docs/site")
    assert (again.returncode, again.stderr) == (0, "")


def test_the_sidebar_has_the_sections_of_the_index_and_each_page_once(site: Path) -> None:
    sidebar = (site / "events.html").read_text().partition("sphinxsidebarwrapper")[2]
    captions_and_links = re.findall(
        r'class="caption-text">(.*?)<|class="[a-z ]*reference \w+" href="([^"]*)">', sidebar
    )
    assert [caption or link for caption, link in captions_and_links] == [
        "site/overview.html",
        "Guides",
        "#",
        f"{REPOSITORY}SECURITY.md",
        "Reference",
        "site/api.html",
    ]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    links = "\n".join(f"`x <{link}>`__" for link in MISSING)
    root = tmp_path_factory.mktemp("broken")
    write(root, f"{EVENTS}\n{links}\n")
    return build(root)


@pytest.mark.parametrize("link", MISSING)
def test_a_link_to_nothing_fails_the_build_and_names_its_page(
    broken: subprocess.CompletedProcess[str], link: str
) -> None:
    assert broken.returncode != 0
    assert re.search(rf"docs/events\.rst:\d+: WARNING: {re.escape(MISSING[link])}", broken.stderr)


def test_there_are_no_other_warnings(broken: subprocess.CompletedProcess[str]) -> None:
    assert broken.stderr.count("WARNING") == len(MISSING)
