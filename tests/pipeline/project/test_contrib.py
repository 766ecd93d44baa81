"""What ships in contrib: every metric, label, option and page that it names is really there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from django_outbox.management.monitoring import monitored
from django_outbox.worker.state import WorkerState
from tests.support.outbox import make_message

CONTRIB = Path(__file__).parents[3] / "contrib"
MANIFESTS = sorted((CONTRIB / "kubernetes").glob("*.yaml"))
"""Labels that Prometheus itself adds, and that of a histogram's buckets."""


# Commands


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_probes_ask_for_pages_that_are_there_and_liveness_not_for_the_broker(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.pipeline.commands.test_monitoring import get

    (container,) = yaml.safe_load(path.read_text())["spec"]["template"]["spec"]["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert all(container[f"{name}Probe"]["httpGet"]["port"] == "metrics" for name in probes)
    caplog.set_level("INFO", "django_outbox")
    make_message()
    worker_state = WorkerState("relay")
    worker_state.record_fault("The broker: away", is_broker=True)
    options = {"metrics_port": 0, "metrics_addr": "127.0.0.1", "health_timeout": 300}
    with monitored(worker_state, options, using="default"):
        (port,) = (record.port for record in caplog.records if getattr(record, "action", "") == "serving")
        answers = {name: get(f"http://127.0.0.1:{port}{page}")[0] for name, page in probes.items()}
    assert answers == {"startup": 200, "liveness": 200, "readiness": 503}
