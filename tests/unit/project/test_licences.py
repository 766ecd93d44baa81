"""The licences of what users install: an unknown or forbidden one fails the check, and no extra is left out."""

from __future__ import annotations

import runpy
from configparser import ConfigParser
from email.message import Message
from typing import Any

import pytest

from tests.support.processes import ROOT

OF_DEVELOPERS = {"browser", "chaos", "docs", "test"}


@pytest.fixture(scope="module")
def licences() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / ".ci"))
        return runpy.run_path(str(ROOT / ".ci" / "licences.py"))


def metadata(**fields: str) -> Message:
    message = Message()
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License_Expression": "MIT"}, "MIT"),
        ({"License_Expression": "MIT", "License": "GPL-3.0-only"}, "MIT"),
        ({"License": "3-Clause BSD License"}, "BSD-3-Clause"),
        ({"License": "Permission is hereby granted\nto any person"}, ""),
        ({"License": "a whole\ntext", "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"Classifier": "Programming Language :: Python"}, ""),
        ({}, ""),
    ],
)
def test_the_licence_is_what_the_package_says(licences: dict[str, Any], fields: dict[str, str], licence: str) -> None:
    assert licences["licence_of"](metadata(**fields)) == licence


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND BSD-2-Clause", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("GPL-3.0-only AND BSD-3-Clause OR MIT", True),
        ("(Apache-2.0 OR MIT) AND BSD-3-Clause", True),
        ("(GPL-3.0-only OR MIT) AND BSD-3-Clause", False),
        ("AGPL-3.0-or-later", False),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", False),
        ("Proprietary", False),
        ("", False),
    ],
)
def test_only_licences_of_the_list_are_allowed(licences: dict[str, Any], expression: str, allowed: bool) -> None:
    assert licences["is_allowed"](expression) is allowed


def test_a_package_that_is_not_allowed_fails_the_check_by_name(
    licences: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert licences["check"]({"django": "BSD-3-Clause", "mit": "MIT"}) == 0
    assert "All 2 licences are allowed." in capsys.readouterr().out
    assert licences["check"]({"django": "BSD-3-Clause", "paid": "Proprietary", "silent": ""}) == 1
    assert "NOT ALLOWED: paid, silent." in capsys.readouterr().out


def test_the_check_reads_every_extra_for_users(licences: dict[str, Any]) -> None:
    config, tox = ConfigParser(), ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    tox.read(ROOT / "tox.ini")
    extras = set(config["options.extras_require"]) - OF_DEVELOPERS
    assert set(licences["EXTRAS"]) == set(tox["testenv:licences"]["extras"].split()) == extras
