"""What ships in contrib: every metric, label, option and page that it names is really there."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import load_command_class
from prometheus_client.parser import text_string_to_metric_families

from django_outbox.conf import OutboxSettings
from django_outbox.events.writer import Outgoing
from django_outbox.observability.backlog import Backlog, Unfinished
from django_outbox.observability.health import default_limit, outage_limit
from django_outbox.observability.metrics import Metrics
from django_outbox.observability.prometheus import exposition, registry_of
from django_outbox.operations.counts import MOST_COUNTED
from django_outbox.state.slot import Slot
from django_outbox.worker.state import WorkerState

CONTRIB = Path(__file__).parents[3] / "contrib"
ALERTS = yaml.safe_load((CONTRIB / "prometheus/alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((CONTRIB / "grafana/dashboard.json").read_text())
UNITS = sorted((CONTRIB / "systemd").glob("*.service"))
MANIFESTS = sorted((CONTRIB / "kubernetes").glob("*.yaml"))

EVERYWHERE = {"job", "instance", "le"}
"""Labels that Prometheus itself adds, and that of a histogram's buckets."""


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """The labels of every series that relays and consumers export, by name."""
    counts = {"pending": 1, "published": 1, "dead": 1}
    slot = Slot("outbox_tests", present=True, lag_bytes=1, lag_seconds=1.0, retained_bytes=1)
    backlog = Backlog("default", lambda using: {"outbox": Unfinished(counts, 1.0, 1.0, slot=slot)})
    message = Outgoing(1, "tests", "id", "order.created", "v1", "outbox", "", "{}", datetime.now(UTC), 0, "{}")
    relay, consumer = Metrics(), Metrics(known_types={"order.created"})
    relay.published([message], 1.0)
    consumer.consumed([message])  # type: ignore[list-item]  # it has what is looked at
    for metrics in (relay, consumer):
        metrics.failed(message, final=False)
        metrics.dead(message)
    consumer.handler_seconds.add(("order.created", "print"), [1.0])
    labels: dict[str, set[str]] = {}
    for metrics, kind in ((relay, "relay"), (consumer, "consumer")):
        _, body = exposition(registry_of(metrics, backlog, WorkerState(kind)), "")
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def expressions() -> Iterator[Any]:
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")


def labels_of(expression: str, exported: dict[str, set[str]]) -> set[str]:
    """The labels that the series of an expression have; fails if there is no such series."""
    names = re.findall(r"\bdjango_outbox_\w+", expression)
    assert names, expression
    for name in names:
        assert name in exported, f"no worker exports {name}: {sorted(exported)}"
    return set.intersection(*(exported[name] for name in names)) | EVERYWHERE


@pytest.mark.parametrize("expression", [*expressions()])
def test_every_metric_and_label_of_an_expression_is_exported(expression: str, exported: dict[str, set[str]]) -> None:
    assert labels_of(expression, exported)
    for name, matchers in re.findall(r"\b(django_outbox_\w+)\{([^}]*)\}", expression):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
            assert label in exported[name] | EVERYWHERE, f"{name} has no label {label}"
    for grouped, rest in re.findall(r"\bby\s*\(([^)]*)\)\s*(?=\((.*))", expression, re.DOTALL):
        (name, *_) = re.findall(r"\bdjango_outbox_\w+", rest)
        assert names_in(grouped) <= labels_of(name, exported), expression


def names_in(grouped: str) -> set[str]:
    return {label.strip() for label in grouped.split(",")}


@pytest.mark.parametrize("expression", [*expressions()])
def test_every_expression_is_well_formed(expression: str) -> None:
    depth = 0
    for character in re.sub(r'"[^"]*"', "", expression):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        assert depth >= 0, expression
    assert depth == 0, expression
    for counter in re.findall(r"\b(?:rate|increase)\((\w+)", expression):
        assert counter.endswith(("_total", "_bucket", "_count", "_sum")), f"{counter} is no counter"
    for gauge in re.findall(r"\bderiv\((\w+)", expression):
        assert not gauge.endswith("_total"), f"{gauge} is no gauge"


def test_a_slot_of_one_service_is_not_hidden_by_those_of_others() -> None:
    """Alerts see the slots of all services, and the worst one counts."""
    worst = {
        "django_outbox_slot_active": "min",
        "django_outbox_slot_lost": "max",
        "django_outbox_slot_retained_bytes": "max",
    }
    found = [re.match(r"(\w+)\((django_outbox_slot_\w+)\)", rule["expr"]) for rule in RULES if "_slot_" in rule["expr"]]
    assert {match[2]: match[1] for match in found if match} == worst


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any], exported: dict[str, set[str]]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    text = " ".join(rule["annotations"].values())
    assert text.count("{{") == text.count("}}")
    grouped = re.findall(r"\bby\s*\(([^)]*)\)", rule["expr"])
    kept = set.union(*map(names_in, grouped)) if grouped else labels_of(rule["expr"], exported)
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= kept


def test_names_of_alerts_and_panels_are_unique() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)


def test_no_panel_covers_another() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = any(
            a[axis] + a[size] <= b[axis]
            for a, b in ((one, other), (other, one))
            for axis, size in (("x", "w"), ("y", "h"))
        )
        assert apart, (one, other)


def test_the_dashboard_lets_one_choose_the_data_source() -> None:
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used - {"__rate_interval"} == names
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in DASHBOARD["panels"])


# Commands


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The options that a command understands these as."""
    name, *rest = arguments[arguments.index("manage.py") + 1 :]
    command = load_command_class("django_outbox", name)
    return vars(command.create_parser("manage.py", name).parse_args(rest))


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_understands_its_options(path: Path) -> None:
    service = unit(path)["Service"]
    options = parsed(shlex.split(service["ExecStart"].replace("%i", "11")))
    assert 1024 < options["metrics_port"] < 65536
    assert options["metrics_addr"] == "127.0.0.1"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_leaves_time_to_finish_the_work_in_hand_and_asks_whether_the_loop_goes_on(path: Path) -> None:
    service = unit(path)["Service"]
    assert float(service["TimeoutStopSec"]) > OutboxSettings().publish_timeout + 2
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert float(service["WatchdogSec"]) >= outage_limit(), "an outage is no standstill"
    assert float(service["WatchdogSec"]) == default_limit(), "as for /healthz"
    assert service["KillMode"] == "mixed"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_deployment_starts_a_command_that_understands_its_options(path: Path) -> None:
    deployment = yaml.safe_load(path.read_text())
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    options = parsed(container["command"])
    (port,) = container["ports"]
    assert container["command"][0] == "python", "no shell, which would keep SIGTERM to itself"
    assert options["metrics_port"] == port["containerPort"]
    assert options["health_timeout"] >= outage_limit(), "an outage is no standstill"
    assert options["metrics_addr"] == "0.0.0.0", "the kubelet asks from outside"  # noqa: S104
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_deployment_drains_within_its_grace_period(path: Path) -> None:
    pod = yaml.safe_load(path.read_text())["spec"]["template"]["spec"]
    grace = pod["terminationGracePeriodSeconds"]
    handler = 60 if "consumer" in path.name else 0  # as the file says
    assert grace > max(OutboxSettings().publish_timeout, handler) + 2
    assert pod["containers"][0].get("lifecycle") is None, "a preStop hook would take from it"


def test_a_backlog_of_more_than_is_counted_goes_on_to_alert() -> None:
    (rule,) = (rule for rule in RULES if rule["alert"] == "OutboxBacklogGrows")
    (most,) = re.findall(r">= (\S+?)\)", rule["expr"])
    assert float(most) == MOST_COUNTED
