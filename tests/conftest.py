"""Which database and which broker a run uses, and the fixtures through which tests reach them."""

from __future__ import annotations

import gc
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import django_outbox.brokers.kafka  # noqa: F401  # before tests import kafka themselves, which would warn
from tests.support.clock import Clock
from tests.support.processes import Command
from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.base import Service, ServiceError
from tests.support.servers.mariadb import MariaDB
from tests.support.servers.mysql import MySQL
from tests.support.servers.pgbouncer import PgBouncer
from tests.support.servers.postgres import PostgreSQL
from tests.support.servers.process import make_directory, remove_directory
from tests.support.servers.secured_kafka import SecuredKafka
from tests.support.servers.tansu import Tansu

ROOT = Path(__file__).parent

DATABASES: dict[str, type[Service] | None] = {
    "sqlite": None,
    "postgresql": PostgreSQL,
    "mariadb": MariaDB,
    "mysql": MySQL,
}
BROKERS: dict[str, type[Service]] = {"tansu": Tansu, "apache": ApacheKafka}

database_key = pytest.StashKey[Service]()
directory_key = pytest.StashKey[Path]()
header_key = pytest.StashKey[str]()
broker_key = pytest.StashKey[Service]()
skipped_key = pytest.StashKey[list[str]]()


# Choosing


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("services", "servers that the tests run against")
    group.addoption("--database", choices=sorted(DATABASES), default="sqlite", help="default: %(default)s")
    group.addoption("--kafka", choices=sorted(BROKERS), default="tansu", help="default: %(default)s")
    group.addoption("--database-release", metavar="RELEASE", help="another release of the database, such as 14")
    group.addoption("--kafka-release", metavar="RELEASE", help="another release of the broker, such as 3.9")
    group.addoption("--pgbouncer", action="store_true", help="real commands reach PostgreSQL through PgBouncer")
    group.addoption("--database-tests-only", action="store_true", help="leave out tests that use no database")
    group.addoption("--concurrency", default=1, type=int, help="of consumers in processes of their own (default: 1)")
    group.addoption("--database-url", metavar="URL", help="use this server (of the kind of --database), start none")
    group.addoption(
        "--screenshots", metavar="DIR", help="keep the documentation's pictures of tests/services/browser there"
    )
    group.addoption("--all-screenshots", metavar="DIR", help="keep all pictures of tests/services/browser there")
    group.addoption(
        "--axe", metavar="FILE", help="use this axe.min.js, as of npm's axe-core, in tests/services/browser"
    )
    group.addoption(
        "--record-steps",
        action="store_true",
        help="write the steps of tests/services/crashes to its table, and no more",
    )
    group.addoption("--kafka-url", metavar="URL", help="use this broker (of the kind of --kafka), start none")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "databases(*names, since=None): run on these databases only (names as in --database), and on no older release",
    )
    config.addinivalue_line("markers", "brokers(*names): run on these brokers only (names as in --kafka)")
    config.stash[skipped_key] = []
    config.pluginmanager.register(Skips(config.stash[skipped_key]))
    # A shell that starts this in the background lets it ignore Ctrl-C, and what it starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.help:
        return
    _choose_releases(config)
    _require_a_database_that_can_be_pooled(config)
    if _is_worker(config):
        # It has inherited DATABASE_URL and the settings' name from the process that started the servers.
        config.stash[header_key] = config.workerinput["database"]  # type: ignore[attr-defined]
        config.option.kafka_url = config.workerinput["kafka_url"]  # type: ignore[attr-defined]
        return

    from django.conf import settings

    if settings.configured:
        raise pytest.UsageError(
            "Django is set up before the test database is started: unset DJANGO_SETTINGS_MODULE, "
            "and import models in fixtures and tests, not at the head of a conftest.py"
        )
    try:
        os.environ["DATABASE_URL"] = _start_database(config)
        _start_shared_broker(config)
    except ServiceError as error:
        raise pytest.UsageError(str(error)) from None
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.support.settings"
    settings._setup()  # pytest-django, next in turn, takes settings that are already loaded


def _choose_releases(config: pytest.Config) -> None:
    """Let all servers of the chosen kinds be of the chosen releases, also those that tests start themselves."""
    database, broker = DATABASES[config.option.database], BROKERS[config.option.kafka]
    try:
        if config.option.database_release:
            if database is None:
                raise ServiceError("SQLite is the one that Python brings: it has no --database-release")
            database.choose(config.option.database_release)
        if config.option.kafka_release:
            broker.choose(config.option.kafka_release)
    except ServiceError as error:
        raise pytest.UsageError(str(error)) from None


def _require_a_database_that_can_be_pooled(config: pytest.Config) -> None:
    if config.option.pgbouncer and (config.option.database != "postgresql" or config.option.database_url):
        raise pytest.UsageError("--pgbouncer needs --database postgresql, and no --database-url")


def _start_database(config: pytest.Config) -> str:
    """Start the chosen database and return its URL."""
    if config.option.database_url:
        config.stash[header_key] = f"{config.option.database}, not started by this run"
        return str(config.option.database_url)
    kind = DATABASES[config.option.database]
    if kind is None:
        import sqlite3

        directory = config.stash[directory_key] = make_directory("test-sqlite")
        config.stash[header_key] = f"SQLite {sqlite3.sqlite_version}"
        return f"sqlite:///{directory / 'db.sqlite3'}"
    service = config.stash[database_key] = kind().start()
    pooler = f" behind {PgBouncer(0).version()}" if config.option.pgbouncer else ""
    config.stash[header_key] = service.version() + pooler
    return service.url


def _start_shared_broker(config: pytest.Config) -> None:
    """Start one Apache Kafka for all processes of a run. The development broker is so small that each starts its own."""
    if config.option.kafka == "apache" and not config.option.kafka_url and getattr(config.option, "numprocesses", 0):
        service = config.stash[broker_key] = ApacheKafka().start()
        config.option.kafka_url = service.url


def _is_worker(config: pytest.Config) -> bool:
    """Tell whether this is one of several processes that pytest-xdist has started."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each process of the run what the servers are."""
    node.workerinput["database"] = node.config.stash[header_key]
    node.workerinput["kafka_url"] = node.config.option.kafka_url


def pytest_unconfigure(config: pytest.Config) -> None:
    for key in (broker_key, database_key):
        if key in config.stash:
            config.stash[key].close()
    if directory_key in config.stash:
        remove_directory(config.stash[directory_key])


def pytest_report_header(config: pytest.Config) -> list[str]:
    if config.option.kafka_url:
        broker = f"{config.option.kafka}, not started by this run"
    else:
        broker = BROKERS[config.option.kafka]().version()
    return [f"database: {config.stash[header_key]}", f"broker: {broker}"]


# Neither browsers nor Java are everywhere: these tests run when they are asked for by name.


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    by_name = (ROOT / "services" / "browser", ROOT / "specification")
    is_named = any(collection_path.name in argument for argument in config.args)
    return (collection_path in by_name and not is_named) or None


# Nothing is skipped silently: what a service cannot do is said by a marker, and any other skip fails the run.


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = {"databases": config.option.database, "brokers": config.option.kafka}

    def applies(item: pytest.Item) -> bool:
        if config.option.database_tests_only and not _uses_database(item):
            return False
        marks = [(mark, name) for kind, name in chosen.items() for mark in item.iter_markers(kind)]
        release = float(config.option.database_release or "inf")
        return all(name in mark.args and release >= mark.kwargs.get("since", 0) for mark, name in marks)

    unit = [item for item in items if item.path.is_relative_to(ROOT / "unit")]
    if misplaced := [item.nodeid for item in unit if _uses_database(item) or _uses_broker(item)]:
        raise pytest.UsageError("tests/unit is for tests without database and broker: " + ", ".join(misplaced))
    for item in items:
        if "secured_kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("secured_kafka"))  # one server for all of them
    if others := [item for item in items if not applies(item)]:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if applies(item)]


def _uses_database(item: pytest.Item) -> bool:
    """Tell whether the test's outcome can depend on the database: pytest-django keeps it from all other tests."""
    fixtures = {"db", "transactional_db", "django_db_reset_sequences", "django_db_serialized_rollback"}
    return item.get_closest_marker("django_db") is not None or not fixtures.isdisjoint(
        getattr(item, "fixturenames", ())
    )


def _uses_broker(item: pytest.Item) -> bool:
    return not {"kafka_url", "secured_kafka"}.isdisjoint(getattr(item, "fixturenames", ()))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from visiting the tests themselves again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class Skips:
    """Notes what is skipped, where the run's reports come together."""

    def __init__(self, skipped: list[str]) -> None:
        self.skipped = skipped

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.stash[skipped_key] and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if skipped := config.stash[skipped_key]:
        terminalreporter.section("skipped tests fail the run", red=True)
        terminalreporter.line("Mark them with databases(...) or brokers(...) where they apply to some services only:")
        for nodeid in skipped:
            terminalreporter.line(f"  {nodeid}")


# The database


@pytest.fixture(scope="session", autouse=True)
def _quick_flush() -> Iterator[None]:
    """Keep content types and permissions after a transactional test: Django would delete all and create them again."""
    from django.core.management.color import no_style
    from django.db import connections
    from django.test import TransactionTestCase

    kept = {"django_content_type", "auth_permission"}

    def flush(test: Any) -> None:
        for alias in test._databases_names(include_mirrors=False):
            connection = connections[alias]
            tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
            connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), sorted({*tables} - kept)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", flush)
        yield


# The broker


@pytest.fixture(scope="session")
def kafka_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of a running broker, which all tests of the run share."""
    if pytestconfig.option.kafka_url:
        yield pytestconfig.option.kafka_url
        return
    with BROKERS[pytestconfig.option.kafka]() as broker:
        yield broker.url


@pytest.fixture(scope="session")
def secured_kafka() -> Iterator[SecuredKafka]:
    """An Apache Kafka that demands TLS, logins and permissions. For tests marked with `brokers("apache")`."""
    with SecuredKafka() as kafka:
        yield kafka


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """The name of a topic that no other test uses. It does not exist yet."""
    test = re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name)[:80]
    return f"{test}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def kafka_outbox(settings: Any, kafka_url: str, topic: str) -> dict[str, Any]:
    """Make this process use the real broker, with topic and consumer group of this test's own; return `OUTBOX`."""
    settings.OUTBOX = {
        **settings.OUTBOX,
        "BROKER": {
            **settings.OUTBOX["BROKER"],
            "BACKEND": "django_outbox.brokers.kafka.KafkaBroker",
            "URL": kafka_url,
        },
        "TOPIC": topic,
        # Shared groups would wait for the last test's killed members to time out.
        "CONSUMER_GROUP": topic,
    }
    return dict(settings.OUTBOX)


# Real commands


@pytest.fixture(scope="session")
def command_database(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of the database server for real commands: with --pgbouncer that of a pooler in front of it."""
    url = os.environ["DATABASE_URL"]
    if not pytestconfig.option.pgbouncer:
        yield url
        return
    with PgBouncer(int(url.rpartition("/")[0].rpartition(":")[2])) as pooler:
        yield pooler.url
        assert pooler.transactions(), "no command has reached the database through PgBouncer"


@pytest.fixture
def subprocess_env(transactional_db: None, kafka_outbox: Mapping[str, Any], command_database: str) -> dict[str, str]:
    """The environment of real commands: this test's database, broker, topic and consumer group.

    On `transactional_db`, since another process sees only what is committed; so commands are also ended
    before the tables are emptied.
    """
    from django.db import connection

    name = connection.settings_dict["NAME"]
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.support.settings",
        "DATABASE_URL": f"sqlite:///{name}"
        if connection.vendor == "sqlite"
        else f"{command_database.rpartition('/')[0]}/{name}",
        "OUTBOX_BACKEND": kafka_outbox["BROKER"]["BACKEND"],
        "KAFKA_URL": kafka_outbox["BROKER"]["URL"],
        "OUTBOX_TOPIC": kafka_outbox["TOPIC"],
        "OUTBOX_CONSUMER_GROUP": kafka_outbox["CONSUMER_GROUP"],
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def manage(subprocess_env: dict[str, str]) -> Iterator[Callable[..., Command]]:
    """Start a Django command in a process of its own: `manage("outbox_relay", "--drain", env={"NAME": "value"})`.

    Whatever still runs at the end of the test is killed; what the commands printed is part of a failure's report.
    """
    commands: list[Command] = []

    def start(name: str, *arguments: object, env: Mapping[str, str] | None = None) -> Command:
        command = Command(name, *arguments, env={**subprocess_env, **(env or {})})
        commands.append(command)
        return command

    yield start
    for command in commands:
        command.close()
        print(f"--- {command.name} (exit code {command.returncode})\n{command.output}")


@pytest.fixture
def clock() -> Clock:
    """For whatever takes one; it stands still until the test moves it."""
    return Clock(1000.0)


@pytest.fixture
def worker_state(clock: Clock) -> Any:
    """That of a relay, by this test's clock."""
    from django_outbox.worker.state import WorkerState

    return WorkerState("relay", clock)


@pytest.fixture
def stop() -> Iterator[Any]:
    """A request to end, for the loops of relay and consumer; made at the end of the test at the latest."""
    from django_outbox.worker.stop import Stop

    stop = Stop()
    yield stop
    stop.request()
    stop.close()


@pytest.fixture(autouse=True)
def no_repeats() -> Iterator[None]:
    """Let failures of one test not count as repeated in the next."""
    yield
    from django_outbox.observability.logging import repeats

    repeats.sum_up(now=True)
