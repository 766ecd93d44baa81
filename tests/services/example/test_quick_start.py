"""The README's quick start, taken at its word in an empty folder, and what the documentation builds on it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from docutils import nodes
from docutils.core import publish_doctree

from tests.support.processes import ROOT

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.brokers("tansu")]

FILES = ["orders/models.py", "orders/services.py", "orders/handlers.py"]
"""Where the README puts its Python, but for the settings, which come first."""
TYPED = "5. Give the payload a type"
TESTING = "Testing your project"


def examples_of(page: str, section: str) -> tuple[list[str], list[str]]:
    """The Python of a section, or of the whole page with this title, and the command lines, in their order."""
    tree = publish_doctree((ROOT / page).read_text(), settings_overrides={"syntax_highlight": "none"})
    (title,) = (node for node in tree.findall(nodes.title) if node.astext() == section)
    found = title.parent
    python, lines = [], []
    for block in found.findall(nodes.literal_block):
        if "python" in block["classes"]:
            python.append(block.astext())
        else:
            lines += block.astext().splitlines()
    return python, lines


class Project:
    """A project in a folder, whose commands a person types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ours = ("DATABASE_URL", "DJANGO_SETTINGS_MODULE", "KAFKA_URL")
        clean = {name: value for name, value in os.environ.items() if name not in ours}
        superuser = {"DJANGO_SUPERUSER_USERNAME": "ada", "DJANGO_SUPERUSER_EMAIL": "", "DJANGO_SUPERUSER_PASSWORD": "-"}
        self._environment = {**clean, **superuser, "PYTHONPATH": str(ROOT)}

    def type(self, line: str, *more: str, exit_code: int = 0) -> str:
        words = shlex.split(line)
        python = {"django-admin": [sys.executable, "-m", "django"], "python": [sys.executable]}[words[0]]
        ended = subprocess.run(
            [*python, *words[1:], *more],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert ended.returncode == exit_code, f"{line}\n{ended.stdout}"
        return ended.stdout

    def write(self, path: str, text: str) -> None:
        (self.folder / path).write_text(text)

    def add_settings(self, text: str) -> None:
        settings = self.folder / "shop" / "settings.py"
        settings.write_text(f"{settings.read_text()}\n{text}")


def test_the_quick_start_leads_to_a_shipment(tmp_path: Path, kafka_url: str, topic: str) -> None:
    (settings, *modules), lines = examples_of("README.rst", "Quick start")
    assert len(modules) == len(FILES)
    # The broker of this test run, which others use as well.
    broker = '"BROKER": {"URL": "kafka://localhost:9092"}'
    assert broker in settings
    own = f'"TOPIC": "{topic}", "CONSUMER_GROUP": "{topic}", "BROKER": {{"URL": "{kafka_url}"}}'
    settings = settings.replace(broker, own)

    project = Project(tmp_path)
    for line in lines:
        if "makemigrations" in line:  # what came before has made the folders that these go to
            project.add_settings(settings)
            for path, text in zip(FILES, modules, strict=True):
                project.write(path, text)
        if not any(word in line for word in ("pip", "outbox_devbroker", "outbox_relay", "outbox_consume")):
            project.type(line, *(["--noinput"] if "createsuperuser" in line else []))
    # In the README these run beside the others; here they end when there is nothing left to do.
    for command in ("outbox_relay", "outbox_consume"):
        project.type(next(line for line in lines if command in line), "--drain")
    status = project.type("python manage.py outbox_status")
    assert re.search(r"^consumed +1$", status, re.MULTILINE), status
    shipments = "from orders.models import Shipment; print(Shipment.objects.get().order.item)"
    assert project.type(f'python manage.py shell -c "{shipments}"').endswith("tent\n")

    (case, *_), _ = examples_of("docs/testing.rst", TESTING)
    project.write("orders/tests.py", case)
    assert "Ran 1 test " in project.type("python manage.py test")

    (typed,), _ = examples_of("docs/tutorial.rst", TYPED)
    project.write("orders/handlers.py", typed)
    assert "tent of 3 kg" in project.type("python manage.py test")


def test_the_examples_of_the_page_about_tests_run_as_they_are_printed(tmp_path: Path) -> None:
    (settings, *modules), lines = examples_of("README.rst", "Quick start")
    (_, *functions), printed = examples_of("docs/testing.rst", TESTING)
    (failing,) = (each for each in functions if "test_the_item_is_published" in each)
    (foreign,) = (each for each in functions if each.startswith("@handler"))
    passing = [each for each in functions if each not in (failing, foreign)]

    project = Project(tmp_path)
    for line in lines:
        if "makemigrations" in line:
            break
        if "pip" not in line:
            project.type(line)
    project.add_settings(settings)
    for path, text in zip(FILES, modules, strict=True):
        project.write(path, text)
    project.write("orders/handlers.py", f"{modules[-1]}\n\n{foreign}\n")
    project.type("python manage.py makemigrations orders")
    project.write("orders/test_passing.py", "\n\n".join(passing))
    project.write("orders/test_failing.py", f"from orders.services import place_order\n\n{failing}\n")
    output = project.type("python -m pytest -p no:cacheprovider --ds=shop.settings -n 2 orders", exit_code=1)

    assert re.search("1 failed, 7 passed", output), output
    shown = "\n".join(each.removeprefix("E       ") for each in output.splitlines())
    assert "AssertionError: " + "\n".join(printed) in shown, output
