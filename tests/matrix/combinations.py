"""Which servers are tested, and by which tests."""

from __future__ import annotations

from typing import NamedTuple

_MAIN = ["tests/services/processes/test_pipeline.py", "tests/services/processes/test_kills.py"]
_PIPELINE = [f"tests/pipeline/{name}" for name in ("relay", "consumer", "state", "upgrades")]
_ALL = ["tests/pipeline", "tests/services/databases"]
_BROKERS = ["tests/services/brokers/test_contract.py", "tests/services/brokers/test_pausing.py"]


class Combination(NamedTuple):
    """A server that a run of the matrix tests.

    Attributes:
        name: of the server, with its release; the row of the table.
        options: how pytest chooses it.
        tests: that run on it.
        note: what else a reader of the table should know.
        django: the release of Django that it is tested with.
        reported_as: the line of pytest's header that names the exact version.
    """

    name: str
    options: list[str]
    tests: list[str]
    note: str = ""
    django: str = "6.1"
    reported_as: str = "database"


class Steady(NamedTuple):
    """A server that is tested with each change.

    Attributes:
        name: of the server; the row of the table.
        environments: of ``tox.ini`` that test it.
        option: with which they choose it; empty if it is the default.
        tests: a folder that they run.
        note: what else a reader of the table should know.
        django: the releases of Django that these environments install.
    """

    name: str
    environments: list[str]
    option: str
    tests: str
    note: str
    django: str = "6.1"


POSTGRESQL = ["--database", "postgresql"]
APACHE = ["--kafka", "apache"]
BOTH_CLIENTS = "kafka-python and confluent-kafka"

COMBINATIONS = [
    Combination(
        # Later releases of Django refuse it.
        "PostgreSQL 14",
        [*POSTGRESQL, "--database-release", "14"],
        _ALL,
        "psycopg 3, without Debezium",
        django="5.2",
    ),
    Combination(
        "PostgreSQL 15",
        [*POSTGRESQL, "--database-release", "15", *APACHE],
        [*_ALL, "tests/services/debezium"],
        "psycopg 3, Debezium",
    ),
    Combination(
        "PostgreSQL 18 behind PgBouncer", [*POSTGRESQL, "--pgbouncer"], _MAIN, "transaction mode, nothing prepared"
    ),
    Combination(
        "MariaDB 11.4",
        ["--database", "mariadb", "--database-release", "11.4", "--database-tests-only"],
        ["tests/pipeline"],
        "PyMySQL",
    ),
    Combination("MySQL", ["--database", "mysql", "--database-tests-only"], [*_PIPELINE, *_MAIN], "PyMySQL"),
    Combination(
        "Apache Kafka 3.9",
        [*POSTGRESQL, *APACHE, "--kafka-release", "3.9"],
        [*_BROKERS, *_MAIN],
        BOTH_CLIENTS,
        reported_as="broker",
    ),
]

WITH_EACH_CHANGE = [
    Steady(
        "PostgreSQL 18",
        ["py311-django52-postgresql", "py313-django61-postgresql"],
        "--database postgresql",
        "tests/pipeline",
        "psycopg 3",
        django="5.2, 6.1",
    ),
    Steady("MariaDB, the system's package", ["mariadb"], "--database mariadb", "tests/pipeline", "PyMySQL"),
    Steady("SQLite", ["py312-django60"], "", "tests/pipeline", "for development", django="6.0"),
    Steady("Apache Kafka 4.3", ["services"], "--kafka apache", "tests/services/brokers", BOTH_CLIENTS),
    Steady(
        "Tansu, the development broker",
        ["py313-django61-postgresql"],
        "",
        "tests/services/brokers",
        BOTH_CLIENTS,
    ),
]
