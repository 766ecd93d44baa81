"""How calls in a traceback read."""

from __future__ import annotations

from django_outbox.state.failures import Call


def test_a_call_whose_source_is_not_there_is_its_place() -> None:
    code = compile("1", "/nowhere/shop/handlers.py", "exec")
    assert str(Call("shop.handlers", code, 7, "/nowhere/shop/handlers.py")) == (
        '  File "shop/handlers.py", line 7, in <module>'
    )
