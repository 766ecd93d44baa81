"""What runs on the forge: every environment of tox has a job, with its Python, and no job may do more than it needs."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import ROOT

FORGE = ROOT / ".github"
WORKFLOWS = sorted((FORGE / "workflows").glob("*.yml"))
FILES = [*FORGE.rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / ".readthedocs.yaml"]
SETUP, TOX = ConfigParser(interpolation=None), ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")
TOX.read(ROOT / "tox.ini")


def read(path: Path) -> dict[Any, Any]:
    """A file of the forge; YAML 1.1 reads the key ``on`` as true."""
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text())
    return loaded


def jobs() -> dict[str, dict[str, Any]]:
    return {f"{path.stem}: {name}": job for path in WORKFLOWS for name, job in read(path)["jobs"].items()}


def matrix() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = jobs()["test: tox"]["strategy"]["matrix"]["include"]
    return entries


def required() -> list[dict[str, Any]]:
    """Without those that may fail: versions that are not supported yet."""
    return [entry for entry in matrix() if not entry.get("experimental")]


def environments() -> set[str]:
    """Those of tox.ini: the list, and each with a section."""
    sections = {name.partition(":")[2] for name in TOX.sections() if name.startswith("testenv:")}
    return sections | set(TOX["tox"]["env_list"].split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_of_the_forge_is_yaml(path: Path) -> None:
    assert isinstance(read(path), dict)


def test_every_environment_of_the_list_has_a_job_and_every_job_has_an_environment() -> None:
    named = [entry["environment"] for entry in required()]
    assert len(named) == len(set(named))
    assert sorted(set(TOX["tox"]["env_list"].split()) - set(named)) == []
    assert sorted(set(named) - environments()) == []


@pytest.mark.parametrize("entry", matrix(), ids=lambda entry: entry["environment"])
def test_a_job_has_the_python_of_its_environment(entry: dict[str, Any]) -> None:
    factor = re.match(r"py(\d)(\d+)", entry["environment"])
    base = TOX.get(f"testenv:{entry['environment']}", "base_python", fallback="").removeprefix("python")
    wanted = f"{factor[1]}.{factor[2]}" if factor else base
    assert entry["python"] == (wanted or entry["python"])


def test_every_python_that_is_claimed_is_tested() -> None:
    claimed = set(re.findall(r"Python :: (3\.\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE))
    assert claimed == {entry["python"] for entry in required() if entry["environment"].startswith("py3")}


def test_what_may_fail_is_not_claimed_and_is_an_environment_with_a_django() -> None:
    for entry in (entry for entry in matrix() if entry not in required()):
        assert f"Python :: {entry['python']}\n" not in SETUP["metadata"]["classifiers"] + "\n"
        factor = re.fullmatch(r"py3\d+-(django\d\d)", entry["environment"])
        assert factor
        assert f"{factor[1]}: Django" in TOX["testenv"]["deps"]


def test_every_django_that_is_claimed_is_tested() -> None:
    claimed = set(re.findall(r"Django :: (\d\.\d)$", SETUP["metadata"]["classifiers"], re.MULTILINE))
    factors = re.findall(r"-django(\d)(\d)", " ".join(entry["environment"] for entry in required()))
    assert claimed == {".".join(factor) for factor in factors}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read(path: Path) -> None:
    assert read(path)["permissions"] == {"contents": "read"}


def test_only_the_jobs_of_a_release_that_need_it_may_write() -> None:
    assert {name: job["permissions"] for name, job in jobs().items() if "permissions" in job} == {
        "release: publish": {"id-token": "write"},
        "release: announce": {"contents": "write"},
    }


def test_a_release_is_uploaded_only_after_all_tests_and_only_from_a_tag() -> None:
    release = read(FORGE / "workflows" / "release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}
    assert release["jobs"]["test"]["uses"] == "./.github/workflows/test.yml"
    order = [release["jobs"][name]["needs"] for name in ("build", "publish", "announce")]
    assert order == ["test", "build", "publish"]
    assert release["jobs"]["publish"]["environment"]["name"] == "pypi"
    assert "secrets." not in (FORGE / "workflows" / "release.yml").read_text(), "trusted publishing needs none"


@pytest.mark.parametrize(
    "job", [job for job in jobs().values() if "steps" in job], ids=lambda job: str(job.get("name"))
)
def test_a_job_ends_and_its_actions_have_a_version(job: dict[str, Any]) -> None:
    assert job["timeout-minutes"] <= 90
    for action in (step["uses"] for step in job["steps"] if "uses" in step):
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+|[0-9a-f]{40})", action)


def test_text_from_outside_is_not_pasted_into_a_shell() -> None:
    """An expression is replaced before the shell reads the line: only those that this repository writes may be there."""
    for name, job in jobs().items():
        for command in (step["run"] for step in job.get("steps", ()) if "run" in step):
            assert set(re.findall(r"\$\{\{\s*(\S+)", command)) <= {"matrix.environment"}, name


def test_pre_commit_has_the_ruff_of_tox() -> None:
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    dependencies = [hook["additional_dependencies"] for hook in repository["hooks"] if hook["language"] == "python"]
    assert dependencies == [[TOX["testenv:lint"]["deps"]]] * 2


def test_links_to_other_sites_are_checked_on_a_schedule_and_no_change_waits_for_it() -> None:
    workflow = read(FORGE / "workflows" / "links.yml")
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}
    assert workflow["jobs"]["links"]["steps"][-1] == {"run": "tox run -e links"}
    assert "links" in environments() - set(TOX["tox"]["env_list"].split())


def test_read_the_docs_builds_the_site_with_the_python_of_tox() -> None:
    config = read(ROOT / ".readthedocs.yaml")
    assert f"python{config['build']['tools']['python']}" == TOX["testenv:docs"]["base_python"]
    assert (ROOT / config["sphinx"]["configuration"]).is_file()
    (package,) = config["python"]["install"]
    assert set(package["extra_requirements"]) <= set(SETUP["options.extras_require"])


def test_links_of_new_issues_lead_to_the_addresses_of_the_project() -> None:
    addresses = re.findall(r"= (https:\S+)", SETUP["metadata"]["project_urls"])
    for link in read(FORGE / "ISSUE_TEMPLATE" / "config.yml")["contact_links"]:
        assert link["url"].startswith(tuple(addresses))


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_a_form_has_what_the_forge_needs(name: str) -> None:
    form = read(FORGE / "ISSUE_TEMPLATE" / name)
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
