"""The documentation: it renders, its links lead somewhere, and no page, setting, command or option is missing."""

from __future__ import annotations

import ast
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlsplit

import pytest
from django.conf import global_settings
from django.core.management import BaseCommand, load_command_class
from django.utils.module_loading import import_string
from docutils import nodes
from docutils.core import publish_doctree

import django_outbox
from django_outbox.brokers.loading import get_broker
from django_outbox.brokers.url import PROTOCOLS, parse_url
from django_outbox.conf import BrokerSettings, OutboxSettings
from tests.support.logs import ACTIONS
from tests.support.processes import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.rst"
HANDBOOK = [README, *sorted(DOCS.glob("*.rst"))]
PAGES = [
    *HANDBOOK,
    *(ROOT / name for name in ("CONTRIBUTING.rst", "CHANGELOG.rst", "SECURITY.md")),
    *(ROOT / folder / "README.rst" for folder in ("benchmarks", "contrib", "example_project")),
]
PACKAGE = Path(django_outbox.__file__).parent
COMMANDS = sorted(path.stem for path in (PACKAGE / "management" / "commands").glob("outbox_*.py"))
OPTION = re.compile(r"--[a-z][a-z-]+")
MEASURED = re.compile(r"^\.\. The benchmarks write from here$.*?^\.\. to here\.$", re.MULTILINE | re.DOTALL)
LEAST_WORDS = 7
"""What is shorter may well be said twice, such as 'Prints JSON.'"""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(page: Path) -> nodes.document:
    """A page as docutils reads it, which is what GitHub and PyPI do."""
    return tree_of_text(page.read_text(), page)


def tree_of_text(text: str, page: Path) -> nodes.document:
    """The same for a text, as if it were the page's; anything worth a warning is an error."""
    overrides = {"report_level": 2, "halt_level": 2, "syntax_highlight": "none", "_disable_config": True}
    return publish_doctree(text, source_path=str(page), settings_overrides=overrides)


def literal_blocks_of(page: Path) -> list[str]:
    return [block.astext() for block in tree_of(page).findall(nodes.literal_block)]


def links_of(page: Path) -> set[str]:
    """Whatever a page refers to in this repository, itself included, and the pictures that it shows."""
    if page.suffix == ".md":
        found = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    else:
        tree = tree_of(page)
        found = [node["refuri"] for node in tree.findall(nodes.reference) if "refuri" in node]
        found += [node["uri"] for node in tree.findall(nodes.image)]
    return {link for link in found if not urlsplit(link).scheme}


@cache
def anchors_of(page: Path) -> set[str]:
    """The places of a page that a link can name."""
    if page.suffix == ".md":
        headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return {anchor for node in tree_of(page).findall(nodes.Element) for anchor in node["ids"]}


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".rst"], ids=name_of)
def test_a_page_renders_without_a_warning(page: Path) -> None:
    assert tree_of(page).astext()


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".rst"], ids=name_of)
def test_a_merge_has_left_nothing_behind(page: Path) -> None:
    for paragraph in tree_of(page).findall(nodes.paragraph):
        assert not re.search(r"^[<=>|]{7}", paragraph.astext(), re.MULTILINE), paragraph.astext()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_to_a_place_in_it(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name_of(page)} links to {path}, which is not there"
        assert target.is_relative_to(ROOT)
        assert not anchor or anchor in anchors_of(target), f"{name_of(page)} links to {link}, a place that is not there"


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".rst"], ids=name_of)
def test_a_page_that_is_named_without_a_link_is_there(page: Path) -> None:
    for literal in tree_of(page).findall(nodes.literal):
        if re.fullmatch(r"[\w/-]+\.(rst|md)", literal.astext()):
            assert (ROOT / literal.astext()).is_file(), f"{name_of(page)} names {literal.astext()}"


@pytest.mark.parametrize("page", [DOCS / "architecture.rst", ROOT / "CONTRIBUTING.rst"], ids=name_of)
def test_files_and_folders_of_the_sources_that_a_page_names_exist(page: Path) -> None:
    for literal in tree_of(page).findall(nodes.literal):
        name = literal.astext()
        if re.fullmatch(r"(?!\.cache/)[\w.-]+/[\w./-]*|[a-z]+\.py", name) and name != "conftest.py":
            assert any((folder / name).exists() for folder in (ROOT, PACKAGE, PACKAGE / "brokers")), name


@pytest.mark.parametrize("page", HANDBOOK, ids=name_of)
def test_classes_that_a_page_names_can_be_imported(page: Path) -> None:
    for name in re.findall(r"\bdjango_outbox(?:\.[a-z]\w*)+\.[A-Z][A-Za-z]+\b", page.read_text()):
        if "django_outbox.tasks." not in name or find_spec("django.tasks"):  # not in Django 5.2
            import_string(name)


def test_the_table_of_contents_names_every_page() -> None:
    index = DOCS / "index.rst"
    named = {(DOCS / link.partition("#")[0]).resolve() for link in links_of(index)}
    assert [name_of(page) for page in PAGES if page not in named | {index, ROOT / "benchmarks/README.rst"}] == []
    assert "docs/index.rst" in links_of(README)


def test_no_sentence_is_said_twice() -> None:
    said: Counter[str] = Counter()
    for page in HANDBOOK:
        text = MEASURED.sub("", page.read_text())
        for paragraph in tree_of_text(text, page).findall(nodes.paragraph):
            sentences = re.split(r"(?<=[.:;?!])\s+", " ".join(paragraph.astext().split()))
            said.update(sentence for sentence in sentences if len(sentence.split()) >= LEAST_WORDS)
    assert [sentence for sentence, times in said.items() if times > 1] == []


# Settings


def documented_settings() -> dict[str, Any]:
    """``OUTBOX`` as it stands in the documentation, with ... where the project has to say something."""
    (block,) = (block for block in literal_blocks_of(DOCS / "settings.rst") if block.startswith("OUTBOX = {"))
    names: dict[str, Any] = {"timedelta": timedelta}
    exec(block, names)  # noqa: S102
    return dict(names["OUTBOX"])


def test_all_settings_are_documented_with_their_defaults(settings: Any) -> None:
    documented = documented_settings()
    assert set(documented) == set(OutboxSettings.KEYS)
    assert set(documented["BROKER"]) == set(OutboxSettings.BROKER_KEYS)

    def values_of(outbox: dict[str, Any]) -> dict[str, Any]:
        settings.OUTBOX = {"SOURCE": "shop", **outbox}
        return {key: getattr(OutboxSettings(), key.lower()) for key in OutboxSettings.KEYS}

    assert values_of({key: value for key, value in documented.items() if value is not ...}) == values_of({})


@pytest.mark.parametrize("page", HANDBOOK, ids=name_of)
def test_a_setting_that_is_assigned_in_the_text_exists(page: Path) -> None:
    """Such as ``ON_DEAD = "hold"``."""
    known = {*OutboxSettings.KEYS, "SILENCED_SYSTEM_CHECKS"}
    for literal in tree_of(page).findall(nodes.literal):
        if match := re.match(r"([A-Z_]+) = ", literal.astext()):
            assert match[1] in known, f"{name_of(page)}: {literal.astext()}"


def test_settings_that_replace_those_of_other_packages_exist() -> None:
    """In tables, whose left column has the names of the other package."""
    named: set[str] = set()
    for row in tree_of(DOCS / "migrating.rst").findall(nodes.row):
        texts = [node.astext() for kind in (nodes.literal, nodes.reference) for node in row[-1].findall(kind)]
        named |= {text for text in texts if re.fullmatch(r"[A-Z][A-Z_]+", text)}
    assert {"TASK_TOPICS", "RETENTION"} <= named
    assert sorted(named - {*OutboxSettings.KEYS, *dir(global_settings)}) == []


# Commands


def options_of(name: str) -> set[str]:
    command = load_command_class("django_outbox", name)
    return {option for action in command.create_parser("manage.py", name)._actions for option in action.option_strings}


def documented_options() -> dict[str, set[str]]:
    """The options in docs/commands.rst, by section; "" is what stands before the first."""
    found: dict[str, set[str]] = {"": set()}
    tree = tree_of(DOCS / "commands.rst")
    for node in tree.children:
        title = node.children[0].astext() if isinstance(node, nodes.section) else ""
        # Of a section those that it explains, not those that an explanation mentions.
        kind = nodes.term if title else nodes.literal
        texts = [part.astext() for part in node.findall(kind)]
        found.setdefault(title, set()).update(option for text in texts for option in OPTION.findall(text))
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_all_options_of_a_command_are_documented_and_no_others(name: str) -> None:
    documented = documented_options()
    mine = documented[name] | (documented["Both workers"] if name in ("outbox_relay", "outbox_consume") else set())
    options = {option for option in options_of(name) if option.startswith("--")}
    of_django = {option for action in BaseCommand().create_parser("", "")._actions for option in action.option_strings}
    assert sorted(options - of_django - mine - documented[""]) == []
    assert sorted(mine - options) == []


@pytest.mark.parametrize("page", HANDBOOK, ids=name_of)
def test_command_lines_in_examples_are_taken(page: Path) -> None:
    for name, arguments in command_lines_of(page):
        load_command_class("django_outbox", name).create_parser("manage.py", name).parse_args(arguments)


def command_lines_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Those in blocks, and in the text those with arguments; the text also names commands alone."""
    for block in literal_blocks_of(page):
        for name, rest in re.findall(r"manage\.py (outbox_\w+)([^>\n]*)", block):
            yield name, shlex.split(rest, comments=True)
    for literal in tree_of(page).findall(nodes.literal):
        if match := re.fullmatch(r"(?:manage\.py )?(outbox_\w+) (.+)", " ".join(literal.astext().split())):
            yield match[1], shlex.split(match[2])


# Brokers


def urls_of_the_documentation() -> list[str]:
    blocks = literal_blocks_of(DOCS / "brokers.rst")
    return [url for block in blocks for url in re.findall(r"^(kafka\S*://\S+)$", block, re.MULTILINE)]


def test_there_are_examples_of_all_that_needs_tls_or_a_login() -> None:
    urls = urls_of_the_documentation()
    assert {url.partition("://")[0] for url in urls} == set(PROTOCOLS) - {"kafka"}
    for option in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password", "sasl_mechanism"):
        assert any(f"{option}=" in url for url in urls)


@pytest.mark.parametrize("backend", ["kafka.KafkaBroker", "confluent.ConfluentBroker"])
@pytest.mark.parametrize("url", urls_of_the_documentation())
def test_a_url_of_the_documentation_is_taken_by_both_backends_as_it_stands(backend: str, url: str) -> None:
    broker = get_broker(BrokerSettings(backend=f"django_outbox.brokers.{backend}", url=url))
    parsed = parse_url(url)
    assert broker.location == f"{url.partition('://')[0]}://{','.join(parsed.hosts)}"
    assert (parsed.username, parsed.password) == (("shop", "s@cret") if "sasl" in url else (None, None))


# Logs


def test_all_actions_of_the_log_are_documented() -> None:
    text = (DOCS / "monitoring.rst").read_text()
    table = text[text.index("About                   ``action``") :].split("\n\n")[0]
    assert set(re.findall("``([a-z_]+)``", table)) - {"action"} == ACTIONS


def test_every_log_record_has_an_action() -> None:
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    written = re.findall(r"extra(?: = |=){\"action\": \"([a-z_]+)|log_extra\(\"([a-z_]+)", sources)
    assert {name for names in written for name in names if name} <= ACTIONS
    calls = [node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())) if is_log(node)]
    assert len(calls) > 40
    assert not [ast.unparse(call) for call in calls if "extra" not in {keyword.arg for keyword in call.keywords}]


def is_log(node: ast.AST) -> TypeGuard[ast.Call]:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    levels = ("debug", "info", "warning", "error", "exception", "log")
    return node.func.attr in levels and ast.unparse(node.func.value).rpartition(".")[2] in ("log", "_log", "logger")
