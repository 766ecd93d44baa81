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
    """

    name: str
    options: list[str]
    tests: list[str]
    note: str = ""

    @property
    def reported_as(self) -> str:
        """The line of pytest's header that names the exact version."""
        return "broker" if "--kafka" in self.options else "database"


class Steady(NamedTuple):
    """A server that is tested with each change, and the option in ``tox.ini`` that chooses it, if it is not the default."""

    name: str
    option: str
    note: str = ""


POSTGRESQL = ["--database", "postgresql"]
BOTH_CLIENTS = "kafka-python and confluent-kafka"

COMBINATIONS = [
    Combination("PostgreSQL 14", [*POSTGRESQL, "--database-release", "14"], _ALL, "psycopg 3, without Debezium"),
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
        [*POSTGRESQL, "--kafka", "apache", "--kafka-release", "3.9"],
        [*_BROKERS, *_MAIN],
        BOTH_CLIENTS,
    ),
]

WITH_EACH_CHANGE = [
    Steady("PostgreSQL 18", "--database postgresql", "psycopg 3"),
    Steady("MariaDB 10.11", "--database mariadb", "PyMySQL"),
    Steady("SQLite", "", "for development"),
    Steady("Apache Kafka 4.3", "--kafka apache", BOTH_CLIENTS),
    Steady("Tansu, the development broker", "", BOTH_CLIENTS),
]
