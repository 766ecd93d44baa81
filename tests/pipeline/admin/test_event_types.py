"""The page of event types: schema, handlers, counts and when each was last seen, without reading whole tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from django_outbox import RawBytes, event_type
from django_outbox.operations import event_catalogue
from django_outbox.operations.event_catalogue import KnownType
from tests.support.declaring import handler_of, only_handlers, own_event_types
from tests.support.inbox import make_received
from tests.support.outbox import make_message, row
from tests.support.overrides import outbox_settings
from tests.support.pages import SCRIPT, act, content, make_dead, url

pytestmark = pytest.mark.django_db

PAGE = "eventcatalogue"

Login = Callable[..., Client]


@dataclass
class Order:
    id: int


@dataclass
class Failing:
    id: int

    def __post_init__(self) -> None:
        raise KeyError(self.id)


@dataclass
class Unmatched:
    id: Annotated[str, pydantic.Field(pattern="(")]


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    handlers = [handler_of("order.created"), handler_of("order.created", group="books"), handler_of("stock.changed")]
    with own_event_types(), only_handlers(*handlers):
        event_type("order.created", version="v2")(Order)
        event_type("image.made", source="images")(RawBytes)
        yield


def types(client: Client) -> dict[str, KnownType]:
    response = client.get(url(PAGE))
    assert response.status_code == 200
    return {f"{each.name} {each.version}".strip(): each for each in response.context["types"]}


def test_declared_handled_and_seen_types_are_listed(admin_client: Client) -> None:
    last = [make_message("consumed", event_version="v2") for _ in range(3)][-1]
    make_message(event_type="order.paid")
    received = make_received("dead", event_type="parcel.sent", event_version="v7")
    make_received("dead", event_type="", source="")  # a record that could not be read

    found = types(admin_client)

    assert list(found) == ["image.made v1", "order.created v2", "order.paid v1", "parcel.sent v7", "stock.changed"]
    order = found["order.created v2"]
    assert (order.type_name, order.source) == ("Order", "tests")
    assert '"required": [\n    "id"\n  ]' in order.schema
    assert order.handlers == [("tests.support.declaring.handle", "tests"), ("tests.support.declaring.handle", "books")]
    assert order.written == (3, last.created_at)
    assert order.received == (0, None)
    assert found["parcel.sent v7"].received == (1, received.created_at)
    assert (found["image.made v1"].schema, found["image.made v1"].source) == ("", "images")


def test_the_page_shows_them(admin_client: Client) -> None:
    make_message(event_type=SCRIPT)
    make_message(event_version="v2")

    shown = " ".join(content(admin_client, url(PAGE)).split())

    assert SCRIPT not in shown
    assert 'aria-label="JSON Schema of order.created v2"' in shown
    assert "&quot;required&quot;" in shown
    assert "not declared" in shown
    assert "(books)" in shown
    assert "published by images" in shown


def test_a_type_that_cannot_be_used_says_why(admin_client: Client) -> None:
    event_type("order.paid")(type("Other", (), {}))
    event_type("order.cancelled")(Unmatched)

    shown = content(admin_client, url(PAGE))
    assert "The event type order.paid v1 is declared as Other" in shown
    assert "The event type order.cancelled v1 is declared as Unmatched" in shown


def test_the_same_type_of_two_services_has_two_rows(admin_client: Client) -> None:
    event_type("order.created", version="v2", source="shop2")(RawBytes)
    make_message("consumed", event_version="v2")
    for source in ("shop2", "shop3"):
        make_received("dead", event_type="order.created", event_version="v2", source=source)

    found = [each for each in admin_client.get(url(PAGE)).context["types"] if each.name == "order.created"]

    assert [(each.source, each.type_name, each.written.messages, each.received.messages) for each in found] == [
        ("shop2", "RawBytes", 0, 1),
        ("shop3", "", 0, 1),
        ("tests", "Order", 1, 0),
    ]


def test_versions_are_in_the_order_of_their_numbers(admin_client: Client) -> None:
    event_type("order.created", version="v10")(Order)

    assert [each for each in types(admin_client) if "order" in each] == ["order.created v2", "order.created v10"]


def test_messages_of_other_services_in_the_table_are_not_counted(admin_client: Client) -> None:
    make_message(event_type="other.type", source="other")

    assert "other.type v1" not in types(admin_client)


def test_only_the_newest_messages_are_read(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_catalogue, "RECENT", 2)
    for name in ("old.type", "new.type", "new.type"):
        make_message(event_type=name)

    with CaptureQueriesContext(connection) as queries:
        found = types(admin_client)

    assert "old.type v1" not in found
    assert found["new.type v1"].written.messages == 2
    read = [each["sql"] for each in queries.captured_queries if "GROUP BY" in each["sql"]]
    assert len(read) == 2
    assert all('"id" >' in each.replace("`", '"') for each in read)


def test_viewers_of_messages_see_it_and_others_do_not(login: Login, client: Client, django_user_model: Any) -> None:
    make_received("dead", event_type="parcel.sent")
    viewer = login()
    shown = content(viewer, url(PAGE))
    assert "order.created" in shown
    assert "parcel.sent" not in shown  # the inbox needs a permission of its own
    assert "Received by the inbox" not in shown

    client.force_login(django_user_model.objects.create_user("other", is_staff=True))
    assert client.get(url(PAGE)).status_code == 403
    assert url(PAGE) not in content(client, "/admin/")


def test_the_index_leads_to_it(login: Login) -> None:
    assert f'href="{url(PAGE)}"' in content(login(), "/admin/django_outbox/")


# Editing


def test_an_edited_payload_must_fit_its_declared_type(login: Login) -> None:
    message, other = make_dead(event_version="v2"), make_dead(event_version="v1")
    client = login("edit", "see_payload")

    errors = act(client, "edit", message, payload='{"id": "7"}').context["form"].errors

    assert errors["payload"] == [
        "Not a valid payload: payload.id: it does not fit Order: Input should be a valid integer, found str"
    ]
    act(client, "edit", message, payload='{"id": 7}')
    act(client, "edit", other, payload='{"id": "7"}')  # this version is not declared
    assert [(row(each).status, row(each).payload) for each in (message, other)] == [
        ("pending", {"id": 7}),
        ("pending", {"id": "7"}),
    ]


def test_copies_of_dead_letters_and_messages_of_other_services_need_not_fit(login: Login) -> None:
    messages = make_dead(event_version="v2", topic="dead"), make_dead(event_version="v2", source="shop2")
    client = login("edit", "see_payload")

    with outbox_settings(DEAD_LETTER_TOPIC="dead"):
        for each in messages:
            act(client, "edit", each, payload='{"id": "7"}')

    assert [row(each).payload for each in messages] == [{"id": "7"}] * 2


def test_an_exception_of_the_class_is_an_error_of_the_form(login: Login) -> None:
    message = make_dead(event_type="order.failing")
    event_type("order.failing")(Failing)

    errors = act(login("edit", "see_payload"), "edit", message, payload='{"id": 7}').context["form"].errors

    assert errors["payload"] == ["Not a valid payload: payload: it does not fit Failing: its class raised KeyError"]


def test_tasks_are_no_events(admin_client: Client) -> None:
    make_message(event_type="task:shop.tasks.total")
    with only_handlers(handler_of("task:shop.tasks.total"), handler_of("order.created")):
        names = set(types(admin_client))
    assert "order.created v2" in names
    assert not any(name.startswith("task:") for name in names)
