"""Translations: every text that users see is there in every language, and what is compiled is what was written."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client
from django.utils import translation
from django.utils.translation.template import templatize

import django_outbox
from tests.support.inbox import make_received
from tests.support.pages import action_url, content, make_dead, make_failure, page_of, url

PACKAGE = Path(django_outbox.__file__).parent
LOCALES = sorted((PACKAGE / "locale").iterdir())
FUNCTIONS = {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy", "pgettext", "pgettext_lazy"}
PLACEHOLDERS = re.compile(r"%\(\w+\)[sd]")
IN_TEMPLATE = re.compile(r"\b(?:n?gettext|_)\(\s*u?(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")")

Catalog = dict[str | tuple[str, int], str]


def texts_of_code() -> Iterator[str]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", None) not in FUNCTIONS:
                continue
            name = node.func.id  # type: ignore[attr-defined]
            arguments = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield "\x04".join(map(str, arguments[:2])) if name.startswith("pgettext") else str(arguments[0])


def texts_of_templates() -> Iterator[str]:
    for path in PACKAGE.rglob("*.html"):
        for single, double in IN_TEMPLATE.findall(templatize(path.read_text(), origin=str(path))):
            yield (single or double).replace("\\'", "'").replace('\\"', '"')


def compiled(locale: Path) -> Catalog:
    with (locale / "LC_MESSAGES" / "django.mo").open("rb") as file:
        catalog: Catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    return {key: text for key, text in catalog.items() if key}


def written(locale: Path) -> Catalog:
    """What the .po file says, as the compiled catalogue would have it."""
    found: Catalog = {}
    for block in (locale / "LC_MESSAGES" / "django.po").read_text().split("\n\n")[1:]:
        values: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):
                assert "fuzzy" not in line, line
                continue
            if not line.startswith('"'):
                name, _, line = line.partition(" ")
            values[name] = values.get(name, "") + ast.literal_eval(line)
        key = "\x04".join([*([values["msgctxt"]] if "msgctxt" in values else []), values["msgid"]])
        if "msgid_plural" in values:
            found |= {(key, n): values[f"msgstr[{n}]"] for n in (0, 1)}
        else:
            found[key] = values["msgstr"]
    return found


def test_texts_are_found() -> None:
    assert "Reason" in set(texts_of_code())
    assert {"All would be due now.", "%(count)s message would be retried."} <= set(texts_of_templates())


@pytest.mark.parametrize("locale", LOCALES, ids=lambda path: path.name)
def test_every_text_is_translated(locale: Path) -> None:
    catalog = compiled(locale)
    translated = {key[0] if isinstance(key, tuple) else key for key, text in catalog.items() if text.strip()}
    texts = {*texts_of_code(), *texts_of_templates()}
    assert not texts - translated, "run django-admin makemessages and compilemessages in django_outbox"
    assert not translated - texts, "no longer used"


@pytest.mark.parametrize("locale", LOCALES, ids=lambda path: path.name)
def test_compiled_translations_are_the_written_ones(locale: Path) -> None:
    assert compiled(locale) == written(locale)


@pytest.mark.parametrize("locale", LOCALES, ids=lambda path: path.name)
def test_translations_keep_their_placeholders(locale: Path) -> None:
    for key, text in compiled(locale).items():
        source = key[0] if isinstance(key, tuple) else key
        wanted, found = (set(PLACEHOLDERS.findall(each)) for each in (source, text))
        # A singular may say "a" for the number, and a plural has it where its singular has none.
        assert found == wanted or (isinstance(key, tuple) and found ^ wanted <= {"%(count)s", "%(count)d"}), key


@pytest.mark.django_db
@pytest.mark.parametrize("locale", LOCALES, ids=lambda path: path.name)
def test_pages_come_in_every_language(admin_client: Client, locale: Path) -> None:
    message = make_dead(message_key="k", retry_count=3, last_error="boom")
    make_failure(message)
    ids = str(message.id)
    with translation.override(locale.name):
        for page in (url("overview"), url("eventcatalogue"), url("deadletter"), url("outboxmessage"), page_of(message)):
            assert f'lang="{locale.name}"' in content(admin_client, page)
        for action in ("retry", "delete", "edit", "send_now", "cancel"):
            assert content(admin_client, action_url(action, ids=ids))
        received = make_received("dead", source="", raw_value=b"no event", last_error="boom")
        for page in (url("overview"), url("inboxdeadletter"), url("inboxmessage"), page_of(received)):
            assert content(admin_client, page)
