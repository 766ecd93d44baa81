"""What tests that look for counterexamples (with Hypothesis) have in common.

``FUZZ`` in the environment multiplies the number of examples. The default, 0.1, suits `make quick`. Up to 1, the full
number, the examples are the same in each run; above it they are random.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = float(os.environ.get("FUZZ", "0.1"))


def examples(count: int) -> Any:
    """Try this many examples, times ``FUZZ``."""
    return settings(
        max_examples=max(10, int(count * FUZZ)),
        derandomize=FUZZ <= 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


any_text = st.text(st.characters(), max_size=20)  # with NUL and halves of surrogate pairs
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e15, 1e15) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
any_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | any_text
    | st.binary(max_size=10)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
    | st.sampled_from([object(), object, len, Exception("s3cret"), ...]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(any_text | st.integers() | st.none() | st.booleans(), inner, max_size=4)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=8,
)
