"""Failures: each is a row that says what, where and by whom, written with the count of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import transaction

from django_outbox import Reject, publish
from django_outbox.exceptions import Retry, name_handlers
from django_outbox.models import MessageFailure
from django_outbox.state import failures
from django_outbox.state import outbox as state
from django_outbox.state.backoff import backoff
from django_outbox.state.transitions import mark_dead, mark_failed
from tests.support.app.models import Effect
from tests.support.outbox import Pipeline, Status, make_due, make_message, row
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def raised(function: Any) -> Exception:
    """The error of a function, with this one left out of its traceback."""
    try:
        function()
    except Exception as error:
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    raise AssertionError("nothing was raised")


def defined(module: str, file: str, source: str, **names: Any) -> Any:
    """The function of that source, as if it were in that file."""
    namespace = {"__name__": module, **names}
    before = set(namespace)
    exec(compile(source, file, "exec"), namespace)  # noqa: S102
    return next(value for name, value in namespace.items() if name not in before and callable(value))


def only_failure() -> MessageFailure:
    return MessageFailure.objects.get()


# Rows


def test_failure_of_a_handler_is_kept_with_its_publication() -> None:
    message = make_message(Status.PUBLISHED, publish_count=3, partition=2, offset=7)
    mark_failed(state.in_delivery(message.id, 3, using="default"), ValueError("boom"))
    failure = only_failure()
    assert failure.message_id == message.id
    assert (failure.stage, failure.attempt, failure.partition, failure.offset) == ("handle", 3, 2, 7)
    assert (failure.error, failure.final) == ("ValueError: boom", False)
    assert failure.worker == f"{failures.host()}:{os.getpid()}"
    assert abs((failure.occurred_at - row(message).updated_at).total_seconds()) < 60


def test_failure_to_send_is_that_of_the_next_publication() -> None:
    message = make_message(publish_count=1, partition=2, offset=7)
    mark_failed(state.to_send(message.id, 2, using="default"), "too busy")
    failure = only_failure()
    assert (failure.stage, failure.attempt, failure.partition, failure.offset) == ("send", 2, None, None)


def test_last_failure_is_final() -> None:
    message = make_message(Status.PUBLISHED, retry_count=19, max_retry=20)
    mark_failed(state.in_delivery(message.id, 1, using="default"), "boom")
    assert only_failure().final


@pytest.mark.parametrize("max_retry", [0, 1])
@pytest.mark.parametrize("own", [False, True], ids=["of the settings", "of the message"])
def test_without_retries_the_first_failure_is_final(
    max_retry: int, own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", lambda event: json.loads("{"))
    with outbox_settings(**({} if own else {"MAX_RETRY": max_retry})):
        message = publish("order.created", 1, max_retry=max_retry if own else None)
        pipeline.turn()
    assert (row(message).status, row(message).retry_count, only_failure().final) == ("dead", 1, True)
    assert "failed (1 of 1) and is dead" in caplog.text


@pytest.mark.parametrize(
    ("status", "rows", "attempt", "stage"),
    [("pending", state.to_send, 2, "send"), ("published", state.in_delivery, 1, "handle")],
)
def test_giving_up_is_a_final_failure(status: str, rows: Any, attempt: int, stage: str) -> None:
    message = make_message(status, publish_count=1)
    assert mark_dead(rows(message.id, attempt, using="default"), "never")
    assert (only_failure().final, only_failure().stage, row(message).fingerprint) == (True, stage, "never")


def test_no_failure_is_kept_of_what_was_not_counted() -> None:
    message = make_message(Status.PUBLISHED, publish_count=2)
    mark_failed(state.in_delivery(message.id, 1, using="default"), "late")
    mark_dead(state.in_delivery(message.id, 1, using="default"), "late")
    mark_dead(state.to_send(message.id, 1, using="default"), "late")
    assert not MessageFailure.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_failure_and_its_count_are_one_transaction() -> None:
    message = make_message(Status.PUBLISHED)
    with transaction.atomic():
        mark_failed(state.in_delivery(message.id, 1, using="default"), "boom")
        transaction.set_rollback(True)
    assert row(message).retry_count == 0
    assert not MessageFailure.objects.exists()


def test_message_has_the_fingerprint_of_its_last_failure() -> None:
    message = make_message(Status.PUBLISHED)
    mark_failed(state.in_delivery(message.id, 1, using="default"), ValueError("boom"))
    assert row(message).fingerprint == only_failure().fingerprint == "ValueError"


def test_each_try_of_a_handler_is_a_failure_of_its_own() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", lambda event: json.loads("{"))
    message = make_message(max_retry=3)
    for _ in range(3):
        pipeline.turn()
        make_due(message)
    found = list(MessageFailure.objects.order_by("id").values_list("attempt", "final", "partition"))
    assert found == [(1, False, 0), (2, False, 0), (3, True, 0)]


# Texts


def test_error_text_names_class_text_and_place() -> None:
    try:
        raise LookupError("no price for 'tent'")
    except LookupError as error:
        text = failures.error_text(error)

    assert text.startswith("LookupError: no price for 'tent'\n")
    assert 'test_failures.py", line ' in text
    assert len(text) <= 2000


def test_error_text_leaves_out_the_frames_of_the_outbox() -> None:
    with pytest.raises(TypeError) as caught:
        backoff(None)  # type: ignore[arg-type]

    assert "test_failures.py" in failures.error_text(caught.value)
    assert "/backoff.py" not in failures.error_text(caught.value)


def saves_nothing(event: Any) -> None:
    Effect.objects.create(name=None)


def test_error_text_has_the_project_s_own_line_however_deep_the_error_arose() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", saves_nothing)
    message = make_message()
    pipeline.turn()
    error = row(message).last_error
    place = f'  File "tests/pipeline/state/test_failures.py", line {saves_nothing.__code__.co_firstlineno + 1}, in saves_nothing\n'
    assert error.count(f"{place}    Effect.objects.create(name=None)\n") == 1
    assert '\n  File "' in error.partition(place)[2]


@pytest.mark.parametrize("length", [100, 1900, 1_000_000])
def test_a_long_error_is_cut_and_its_place_is_kept(length: int) -> None:
    def tells_much() -> None:
        raise LookupError("x" * length)

    text = failures.error_text(raised(tells_much))
    assert text.startswith("LookupError: xxx")
    assert f'", line {tells_much.__code__.co_firstlineno + 1}, in tells_much\n' in text
    assert text.endswith('\n    raise LookupError("x" * length)')
    assert len(text) <= 2000


def test_a_place_with_endless_names_leaves_room_for_the_error() -> None:
    source = f"def {'f' * 3000}(deep=3): return {'f' * 3000}(deep - 1) if deep else json.loads('{{')"
    text = failures.error_text(raised(defined("shop", f"/srv/{'d' * 3000}.py", source, json=json)))
    assert text.startswith("json.decoder.JSONDecodeError: Expecting property name")
    assert f'dd.py", line 1, in {"f" * 100}' in text
    assert len(text) <= 2000


# Fingerprints


@pytest.mark.parametrize("module", ["calendar.handlers", "django.handlers"])
def test_an_app_may_have_the_name_of_a_module_of_python_or_of_django(module: str) -> None:
    file = module.replace(".", "/") + ".py"
    source = "def handle(): driver()"
    driver = defined("driver", "/srv/.venv/site-packages/driver.py", "def query(): raise OSError('away')")
    error = raised(defined(module, f"/srv/shop/{file}", source, driver=driver))
    assert failures.fingerprint(error) == f"OSError in {module}.handle"
    assert f'  File "{file}", line 1, in handle\n' in failures.error_text(error)


@pytest.mark.parametrize("directory", ["site-packages", "dist-packages"])
def test_a_decorator_of_an_installed_package_is_not_the_project_s_code(directory: str) -> None:
    handle = defined("shop.handlers", "/srv/shop/handlers.py", "def handle(): json.loads('{')", json=json)
    file = f"/srv/.venv/lib/{directory}/retrying/core.py"
    error = raised(defined("retrying.core", file, "def wrapper(): function()", function=handle))
    assert failures.fingerprint(error) == "json.decoder.JSONDecodeError in shop.handlers.handle"


@pytest.mark.parametrize("file", ["/srv/.venv/lib/site-packages/driver/core.py", "<generated>"])
def test_without_a_line_of_the_project_the_place_is_in_the_installed_package(file: str) -> None:
    source = "def connect(): raise OSError('away')"
    error = raised(defined("driver.core", file, source, __file__="/srv/shop/core.py"))
    assert failures.fingerprint(error) == "OSError in driver.core.connect"
    assert failures.place_of(error) == ""


def test_of_installed_packages_the_first_other_than_django_is_the_place() -> None:
    """The one that the project uses: what it calls in turn says less, and Django or Python nothing."""
    packages = "/srv/.venv/lib/site-packages"
    socket = defined("socket", f"{packages}/socket.py", "def send(): raise OSError('away')")
    pool = defined("pool.core", f"{packages}/pool/core.py", "def get(): send()", send=socket)
    client = defined("driver.http.client", f"{packages}/driver/http/client.py", "def ask(): get()", get=pool)
    driver = defined("driver.core", f"{packages}/driver/core.py", "def query(): ask()", ask=client)
    error = raised(defined("django.db.utils", f"{packages}/django/db/utils.py", "def execute(): query()", query=driver))
    assert failures.fingerprint(error) == "OSError in driver.http.client.ask"


def test_a_function_without_a_module_has_a_place_too() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def handle(): raise OSError('away')", "/srv/shop/rules.py", "exec"), namespace)  # noqa: S102
    del namespace["__builtins__"]
    error = raised(namespace["handle"])
    assert failures.place_of(error) == '"rules.py", line 1, in handle'
    assert failures.fingerprint(error) == "OSError in .handle"


@pytest.mark.parametrize("error", ["no", Reject("no"), Retry()])
def test_a_handlers_own_words_have_no_place(error: Any) -> None:
    assert failures.place_of(error) == ""


def test_an_error_with_notes_is_kept_as_python_prints_it() -> None:
    def fails() -> None:
        error = LookupError("no such order")
        error.add_note("It may have been archived.")
        raise error

    text = failures.error_text(raised(fails))
    assert text.startswith("LookupError: no such order\nIt may have been archived.\n\n  File ")


@pytest.mark.parametrize(("directory", "is_own"), [("/srv/.venv/lib/site-packages", False), ("/srv/shop", True)])
def test_a_compiled_module_belongs_to_where_it_is_installed(directory: str, is_own: bool) -> None:
    extension = f"{directory}/driver/core.so"
    error = raised(
        defined("driver.core", "driver/core.pyx", "def connect(): raise OSError('away')", __file__=extension)
    )
    assert failures.place_of(error) == ('"driver/core.pyx", line 1, in connect' if is_own else "")


class Sealed(Exception):
    """Refuses to be asked for, or given, anything that it does not know."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError

    def __setattr__(self, name: str, value: Any) -> None:
        raise ZeroDivisionError


def test_handlers_are_noted_on_any_error_and_the_first_note_stays() -> None:
    error = Sealed("no")
    name_handlers(error, ["shop.handlers.ship"])
    name_handlers(error, ["shop.handlers.ship", "shop.handlers.bill"])
    assert failures.fingerprint(error) == "tests.pipeline.state.test_failures.Sealed in shop.handlers.ship"


@dataclass
class Order:
    id: int


def ship(order: Order) -> None: ...


def bill(order: Order) -> None: ...


def test_payloads_that_do_not_fit_are_told_apart_by_their_handlers() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", ship)
    pipeline.on("order.paid", bill)
    messages = [make_message(event_type=event_type) for event_type in ("order.created", "order.paid")]
    pipeline.run()
    mismatch = "django_outbox.exceptions.PayloadMismatch"
    assert [row(message).fingerprint for message in messages] == [
        f"{mismatch} in tests.pipeline.state.test_failures.ship",
        f"{mismatch} in tests.pipeline.state.test_failures.bill",
    ]
    assert row(messages[0]).last_error == (
        f"{mismatch}: The payload is not a valid Order: id: Field required\n\nHandler: tests.pipeline.state.test_failures.ship"
    )


def for_nobody(event: Any) -> None:
    LogEntry.objects.create(user_id=10**6, action_flag=1)


@pytest.mark.databases("sqlite", "postgresql")  # the others check at each statement
@pytest.mark.django_db(transaction=True)
def test_failure_at_the_commit_names_the_handlers() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", for_nobody)
    message = make_message()
    pipeline.turn()
    assert row(message).fingerprint == "django.db.utils.IntegrityError in tests.pipeline.state.test_failures.for_nobody"
    assert row(message).last_error.endswith("\nHandler: tests.pipeline.state.test_failures.for_nobody")


class Shop:
    def ship(self, item: Any) -> None:
        raise LookupError(f"no weight for {item}")


def test_fingerprint_is_the_class_and_the_place() -> None:
    first, second = (raised(lambda item=item: Shop().ship(item)) for item in ("piano", "aquarium"))  # type: ignore[misc]
    assert failures.fingerprint(first) == "LookupError in tests.pipeline.state.test_failures.Shop.ship"
    assert failures.fingerprint(second) == failures.fingerprint(first)


def test_place_is_in_the_handlers_own_code_not_in_what_it_calls() -> None:
    error = raised(lambda: json.loads("{"))
    assert failures.fingerprint(error) == (
        "json.decoder.JSONDecodeError in "
        "tests.pipeline.state.test_failures.test_place_is_in_the_handlers_own_code_not_in_what_it_calls.<locals>.<lambda>"
    )


def test_place_of_a_coroutine_is_the_coroutine() -> None:
    async def handler(event: Any) -> None:
        raise OSError("away")

    pipeline = Pipeline()
    pipeline.on("order.created", handler)
    message = make_message()
    pipeline.turn()
    assert row(message).fingerprint.startswith(
        "OSError in tests.pipeline.state.test_failures.test_place_of_a_coroutine"
    )


@pytest.mark.parametrize("error", [Reject("we do not ship to Atlantis"), Retry(reason="out of stock")])
def test_handlers_own_words_are_the_error_and_its_place_the_fingerprint(error: Exception) -> None:
    def handler(event: Any) -> None:
        raise error

    pipeline = Pipeline()
    pipeline.on("order.created", handler)
    message = make_message()
    pipeline.turn()
    assert row(message).last_error == str(error)
    name = type(error).__name__
    assert row(message).fingerprint.startswith(
        f"django_outbox.exceptions.{name} in tests.pipeline.state.test_failures."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The record has 1048600 bytes; 1000000 are allowed", "The record has # bytes; # are allowed"),
        ("No handler is registered for 'order.paid'\nat all", "No handler is registered for '…'"),
        ("", ""),
        ("\0\ud800", "?"),
    ],
)
def test_fingerprint_of_a_text_leaves_out_what_differs_each_time(text: str, expected: str) -> None:
    assert failures.fingerprint(text) == expected


def test_fingerprint_fits() -> None:
    assert len(failures.fingerprint("x" * 1000)) == 200
