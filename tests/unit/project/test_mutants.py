"""The faults of ``make mutants``: each still fits the code, and only a failed assertion counts as noticed."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest

from tests.mutants import survivors
from tests.mutants.faults import DIRECTORY, PACKAGE, ROOT, Fault, load
from tests.mutants.runs import Result, judge

FAULTS = load()
TEST = {"test": "tests/unit/test_a.py::test_b", "when": "call", "kinds": ["AssertionError", "Exception"]}


@cache
def guarantees() -> list[str]:
    """The sections of docs/guarantees.rst."""
    lines = (ROOT / "docs/guarantees.rst").read_text().splitlines()
    return [title for title, line in pairwise(lines) if title and re.fullmatch("=+", line)]


@cache
def functions(path: str) -> set[str]:
    """The functions of a file, and the classes that Hypothesis makes tests of."""
    tree = ast.parse((ROOT / path).read_text())
    named = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assigned = [node.targets[0] for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    return named | {target.id for target in assigned if isinstance(target, ast.Name)}


def make_fault(*, old: str = "", raises: str = "", hangs: bool = False) -> Fault:
    return Fault("fault", "guarantee", "faults.toml", "apps.py", old, "", ("tests/unit",), raises=raises, hangs=hangs)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_fits_the_code_and_its_tests_exist(fault: Fault) -> None:
    changed = fault.apply((ROOT / fault.path).read_text())

    ast.parse(changed)  # one that Python cannot read would fail any test
    assert fault.guarantee in guarantees()
    for test in fault.tests:
        path, _, names = test.partition("::")
        assert (ROOT / path).exists(), f"renew {fault.name!r} in {fault.source}: there is no {path}"
        name = names.rpartition("::")[2].partition("[")[0]
        known = not names or name in functions(path)
        assert known, f"renew {fault.name!r} in {fault.source}: there is no {name} in {path}"


@pytest.mark.parametrize("explanation", survivors.load(), ids=lambda each: f"{each.file}: {each.old}")
def test_an_explained_survivor_is_a_change_of_a_line_that_there_is(explanation: survivors.Explanation) -> None:
    lines = [line.strip() for line in (ROOT / PACKAGE / explanation.file).read_text().splitlines()]
    assert "\n".join(["", explanation.old, ""]) in "\n".join(["", *lines, ""]), f"renew {survivors.EXPLAINED.name}"
    assert explanation.old not in explanation.new
    assert explanation.why.endswith(".")


@pytest.mark.parametrize(
    ("new", "is_wording"),
    [
        ('log.info("XXNot now.XX", {"a": "b"})', True),
        ('log.info("NOT NOW.", {"a": "b"})', True),
        ('log.info("Not then.", {"a": "b"})', False),
        ('log.info("Not now.", {"a": "XXbXX"})', False),
        ('log.info("Not now.", {"A": "b"})', False),
        ('log.info("NOT NOW.", {"a": "B"})', False),
        ('log.info("NOT NOW.", )', False),
        ("log.info(None)", False),
    ],
)
def test_the_wording_of_a_sentence_needs_no_test(new: str, is_wording: bool) -> None:
    assert (
        survivors.Survivor("a.x_f__mutmut_1", "a.py", "f", 'log.info("Not now.", {"a": "b"})', new).is_wording
        is is_wording
    )


def test_names_are_unique_and_every_guarantee_has_faults() -> None:
    assert [name for name, count in Counter(fault.name for fault in FAULTS).items() if count > 1] == []
    assert {fault.guarantee for fault in FAULTS} == set(guarantees()) - {"Guarantees", "What is not guaranteed"}
    assert {fault.source for fault in FAULTS} == {str(path.relative_to(ROOT)) for path in DIRECTORY.iterdir()}


@pytest.mark.parametrize("old", ["no such text", "import"])
def test_an_old_text_that_does_not_occur_exactly_once_names_the_entry_to_renew(old: str) -> None:
    fault = make_fault(old=old)

    with pytest.raises(ValueError, match=r"renew 'fault' in faults.toml: its old text occurs \d+ times in .*apps.py"):
        fault.apply((ROOT / fault.path).read_text())


def test_a_failed_assertion_is_noticed() -> None:
    assert judge(make_fault(), Result(1, TEST, "")) == (True, TEST["test"])


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(Result(0, None, ""), id="no test fails"),
        pytest.param(Result(2, None, ""), id="a module cannot be imported"),
        pytest.param(Result(5, None, ""), id="there are no tests"),
        pytest.param(Result(1, {**TEST, "when": "setup"}, ""), id="a fixture fails"),
        pytest.param(Result(1, {**TEST, "kinds": ["NameError", "Exception"]}, ""), id="another error"),
        pytest.param(Result(None, None, ""), id="the tests do not end"),
    ],
)
def test_anything_else_is_not(result: Result) -> None:
    assert not judge(make_fault(), result).is_killed


def test_another_error_or_a_hang_is_noticed_only_if_the_fault_says_so() -> None:
    error = Result(1, {**TEST, "kinds": ["IntegrityError", "DatabaseError"]}, "")

    assert judge(make_fault(raises="IntegrityError"), error).is_killed
    assert judge(make_fault(raises="DatabaseError"), error).is_killed
    assert not judge(make_fault(raises="OperationalError"), error).is_killed
    assert not judge(make_fault(raises="IntegrityError"), Result(1, TEST, "")).is_killed
    assert judge(make_fault(hangs=True), Result(None, None, "")).is_killed
