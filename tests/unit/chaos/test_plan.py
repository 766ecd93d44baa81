"""The plan of a chaos run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.options import Options, UnknownOption, read
from tests.chaos.plan import KINDS, NAMES, WORKERS, plan

OPTIONS = Options(seconds=600)


def test_a_seed_always_gives_the_same_plan() -> None:
    assert plan(OPTIONS) == plan(OPTIONS)
    assert plan(OPTIONS) != plan(replace(OPTIONS, seed=2))


@pytest.mark.parametrize("seconds", [30.0, 180.0, 1800.0])
def test_each_kind_happens_while_there_is_load(seconds: float) -> None:
    found = plan(replace(OPTIONS, seconds=seconds))
    assert {each.kind for each in found} == {*NAMES}
    assert all(0.1 * seconds <= each.at < 0.9 * seconds for each in found)
    assert found == sorted(found, key=lambda each: each.at)
    assert {each.target for each in found} <= {*WORKERS, "broker-1", "broker-2", "broker-3", "database", ""}


def test_a_kind_that_is_left_out_changes_no_other() -> None:
    everything = plan(OPTIONS)
    assert plan(OPTIONS, without=["disk"]) == [each for each in everything if each.kind != "disk"]
    assert plan(replace(OPTIONS, faults="cut, failover")) == [
        each for each in everything if each.kind in ("cut", "failover")
    ]


def test_one_broker_has_no_faults_that_need_three() -> None:
    found = plan(replace(OPTIONS, brokers=1))
    assert {each.kind for each in found} == {kind.name for kind in KINDS if kind.brokers == 1}
    assert {each.target for each in found if "broker" in each.target} == {"broker-1"}


def test_a_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"CHAOS_FAULTS: flood is not a fault; known: worker-kill, "):
        plan(replace(OPTIONS, faults="cut,flood"))


def test_options_are_read_from_the_environment() -> None:
    env = {"CHAOS_SECONDS": "1800", "CHAOS_SEED": "7", "CHAOS_BACKEND": "confluent", "PATH": "/bin"}
    assert read(env) == Options(seconds=1800, seed=7, backend="confluent")
    assert read({}) == Options()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CHAOS_SECONDS", "long"),
        ("CHAOS_SECONDS", "0"),
        ("CHAOS_BROKERS", "2"),
        ("CHAOS_REPLICAS", "4"),
        ("CHAOS_BACKEND", "memory"),
        ("CHAOS_SPEED", "1"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(variable: str, value: str) -> None:
    with pytest.raises(UnknownOption, match=variable):
        read({variable: value})
