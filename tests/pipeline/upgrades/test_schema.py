"""The comparison of schemas sees what a migration can change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.models import CheckConstraint, Index, Q

from django_outbox.models import OutboxMessage
from tests.support.schema import schema
from tests.upgrades.loading import renew_tables

pytestmark = [
    pytest.mark.databases("sqlite", "postgresql", "mariadb"),
    pytest.mark.django_db(transaction=True),
]

# Of equal letters but for the parentheses.
EITHER = (Q(retry_count__gt=0) | Q(publish_count__gt=0)) & Q(delivery_count__gt=0)
OTHER = Q(retry_count__gt=0) | (Q(publish_count__gt=0) & Q(delivery_count__gt=0))

KINDS = {"constraint": "constraints", "index": "indexes"}


@pytest.fixture(autouse=True)
def tables_of_today() -> Iterator[None]:
    yield
    renew_tables()


def with_constraint(condition: Q) -> Any:
    return added("constraint", CheckConstraint(condition=condition, name="a_check"))


def with_index(condition: Q) -> Any:
    return added("index", Index(fields=["created_at"], condition=condition, name="an_index"))


def added(kind: str, part: Any) -> Any:
    """The schema with a part that is there only meanwhile."""
    meta = OutboxMessage._meta  # from which SQLite makes the table again
    with pytest.MonkeyPatch.context() as patch, connection.schema_editor() as editor:
        patch.setattr(meta, KINDS[kind], [*getattr(meta, KINDS[kind]), part])
        getattr(editor, f"add_{kind}")(OutboxMessage, part)
    found = schema()
    with connection.schema_editor() as editor:
        getattr(editor, f"remove_{kind}")(OutboxMessage, part)
    return found


def test_schemas_differ_by_what_a_check_says() -> None:
    before = schema()
    assert with_constraint(EITHER) == with_constraint(EITHER)
    assert with_constraint(EITHER) != with_constraint(OTHER)
    assert with_constraint(Q(retry_count__lt=7)) != with_constraint(Q(retry_count__lt=8))
    assert schema() == before


@pytest.mark.databases("sqlite", "postgresql")  # MariaDB has no partial indexes
def test_schemas_differ_by_the_condition_of_an_index() -> None:
    assert with_index(EITHER) == with_index(EITHER)
    assert with_index(EITHER) != with_index(OTHER)
