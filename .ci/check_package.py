"""Check the built distributions: metadata, contents, and that the wheel works where nothing else is.

Usage: python .ci/check_package.py DIST
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WANTED = [
    "django_outbox/__init__.py",
    "django_outbox/py.typed",
    "django_outbox/migrations/0001_initial.py",
    "django_outbox/management/commands/outbox_relay.py",
    "django_outbox/management/commands/outbox_consume.py",
    "django_outbox/testing/plugin.py",
]

# Run from the installed wheel, away from the sources: every table is made by a migration of the package.
SMOKE_TEST = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django_outbox"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "smoke.sqlite3",
            "OPTIONS": {"transaction_mode": "IMMEDIATE"},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    OUTBOX={"SOURCE": "smoke"},
)
django.setup()
from django.core.management import call_command
call_command("check", fail_level="WARNING")
call_command("makemigrations", check=True, dry_run=True, verbosity=0)
call_command("migrate", verbosity=0)
from django.db import transaction
from django_outbox import publish
with transaction.atomic():
    publish("smoke.tested", {"n": 1}, key="1")
from django_outbox.models import OutboxMessage
assert OutboxMessage.objects.get().status == "pending"
from django_outbox.operations.documentation import documentation
assert documentation("brokers").startswith("https://")
from django_outbox.testing import assert_published, drain
assert_published("smoke.tested", key=1, payload={"n": 1})
assert drain().published == 1
from importlib.metadata import entry_points
(plugin,) = (each for each in entry_points(group="pytest11") if each.name == "django_outbox")
assert plugin.value == "django_outbox.testing.plugin"
"""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=cwd)


def check_wheel(wheel: Path, sources: Path) -> list[str]:
    """Say what is wrong with the contents of the wheel."""
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    # Also every file of the package that is not Python, whatever it is: those are what builds forget.
    templates = [
        str(path.relative_to(sources))
        for folder in ("templates", "static", "locale")
        for path in (sources / "django_outbox" / folder).rglob("*")
        if path.is_file()
    ]
    wrong = [f"missing from the wheel: {name}" for name in [*WANTED, *templates] if name not in names]
    for name in sorted(names):
        top = name.split("/")[0]
        if top != "django_outbox" and not top.endswith(".dist-info"):
            wrong.append(f"does not belong in the wheel: {name}")
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    relative = re.findall(
        r"(?:<|^\.\. image:: )(?!https?:)([\w./#-]+)(?:>`_|$)", archive.read(metadata).decode(), re.MULTILINE
    )
    return wrong + [f"PyPI cannot follow or show: {link}" for link in relative]


def tracked_files(sources: Path) -> list[str]:
    """The files that git tracks; none if this is not a clone."""
    command = ["git", "ls-files", "-z"]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True) if shutil.which("git") else None
    return done.stdout.split("\0")[:-1] if done else []


def check_sdist(sdist: Path, sources: Path) -> list[str]:
    """Say what is wrong with the contents of the source distribution: it has every file that is tracked."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [*WANTED, "LICENSE", "README.rst", "CHANGELOG.rst", "SECURITY.md", "tox.ini", "tests/conftest.py"]
    wanted += ["contrib/prometheus/alerts.yml", "contrib/grafana/dashboard.json", "docs/index.rst"]
    wanted += ["example_project/manage.py", *tracked_files(sources)]
    wrong = [f"missing from the sdist: {name}" for name in sorted({*wanted} - names)]
    wrong += [f"does not belong in the sdist: {name}" for name in names if name.endswith((".pyc", ".sqlite3"))]
    return wrong


def main(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    run("-m", "twine", "check", "--strict", wheel, sdist)
    if wrong := check_wheel(wheel, Path.cwd()) + check_sdist(sdist, Path.cwd()):
        raise SystemExit("\n".join(wrong))
    run("-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", wheel)
    run("-m", "pip", "install", "--quiet", wheel)
    with tempfile.TemporaryDirectory() as directory:
        run("-I", "-c", SMOKE_TEST, cwd=Path(directory))
    print(f"{wheel.name} and {sdist.name}: metadata, contents and installation as they should be")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
