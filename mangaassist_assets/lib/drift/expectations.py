"""What must hold of a day's interactions before anything counts them, as a Great Expectations suite over every row of the day.

The names of the expectations are claims; an asset check carries each name.
"""

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.expectations import ExpectationResult, validated
from mangaassist_assets.lib.messages.expectations import CARD_LEFT, EMAIL_LEFT

if TYPE_CHECKING:
    import pandas as pd

MAX_CHARS = 10_000  # the service takes 4,000; compatibility forms and placeholders may lengthen them
MAX_LATENCY_MS = 600_000.0
ON_THE_DAY = 0.99  # share of answers: a clock may jump
LINES_PER_QUARANTINED = 99  # so that at most 1% of lines cannot be read

_Facts = tuple[dt.date, int]
_Claim = tuple[str, Callable[[_Facts], dict[str, Any]]]


def _is_true(column: str, mostly: float = 1.0) -> _Claim:
    return "ExpectColumnValuesToBeInSet", lambda _: {"column": column, "value_set": [True], "mostly": mostly}


_CLAIMS: dict[str, _Claim] = {
    "table_has_rows": ("ExpectTableRowCountToBeBetween", lambda _: {"min_value": 1}),
    "quarantined_lines_are_few": (
        "ExpectTableRowCountToBeBetween",
        lambda facts: {"min_value": LINES_PER_QUARANTINED * facts[1]},
    ),
    "request_id_is_unique": ("ExpectColumnValuesToBeUnique", lambda _: {"column": "request_id"}),
    "request_id_names_the_day": (
        "ExpectColumnValuesToMatchRegex",
        lambda facts: {"column": "request_id", "regex": f"^{facts[0]:%Y%m%d}-"},
    ),
    "occurred_at_is_on_the_day": _is_true("is_on_the_day", ON_THE_DAY),
    "session_is_sixteen_hex_digits": ("ExpectColumnValuesToMatchRegex", lambda _: {"column": "session", "regex": "^[0-9a-f]{16}$"}),
    "text_is_never_null": ("ExpectColumnValuesToNotBeNull", lambda _: {"column": "text"}),
    "text_length_is_in_bounds": (
        "ExpectColumnValueLengthsToBeBetween",
        lambda _: {"column": "text", "min_value": 1, "max_value": MAX_CHARS},
    ),
    "text_holds_no_email_address": ("ExpectColumnValuesToNotMatchRegex", lambda _: {"column": "text", "regex": EMAIL_LEFT}),
    "text_holds_no_card_number": ("ExpectColumnValuesToNotMatchRegex", lambda _: {"column": "text", "regex": CARD_LEFT}),
    "language_is_known": ("ExpectColumnValuesToBeInSet", lambda _: {"column": "language", "value_set": ["en", "ja", "mixed"]}),
    "route_is_known": ("ExpectColumnValuesToBeInSet", lambda _: {"column": "route", "value_set": ["rules", "student", "classifier"]}),
    "arm_is_known": ("ExpectColumnValuesToBeInSet", lambda _: {"column": "arm", "value_set": ["champion", "canary"]}),
    "model_digest_is_a_digest": ("ExpectColumnValuesToMatchRegex", lambda _: {"column": "model_digest", "regex": "^[0-9a-f]{64}$"}),
    "confidence_is_a_ratio": ("ExpectColumnValuesToBeBetween", lambda _: {"column": "confidence", "min_value": 0, "max_value": 1}),
    "latency_is_in_bounds": (
        "ExpectColumnValuesToBeBetween",
        lambda _: {"column": "latency_ms", "min_value": 0, "max_value": MAX_LATENCY_MS},
    ),
    "sampling_probability_is_above_zero": (
        "ExpectColumnValuesToBeBetween",
        lambda _: {"column": "sampling_probability", "min_value": 0, "strict_min": True, "max_value": 1},
    ),
    "answer_has_an_intent_or_an_error": _is_true("is_answered"),
    "feedback_has_its_time": _is_true("is_timed"),
    "shadow_result_is_whole": _is_true("is_whole"),
}
_COLUMNS = ("request_id", "session", "text", "language", "route", "arm", "model_digest", "confidence", "latency_ms", "sampling_probability")


def expectation_names() -> list[str]:
    """The claims that `check_interactions` reports on, in its order; cheap, for declaring checks."""
    return list(_CLAIMS)


def check_interactions(interactions: pa.Table, day: dt.date, *, quarantined: int) -> list[ExpectationResult]:
    """Validates a day's interactions; unexpected rows are request ids.

    Args:
        interactions: INTERACTIONS.
        day: their day.
        quarantined: lines of the day that could not be read.
    """
    claims = {name: (kind, arguments((day, quarantined))) for name, (kind, arguments) in _CLAIMS.items()}
    return validated(_frame(interactions, day), claims, table="interactions", key="request_id")


def _frame(interactions: pa.Table, day: dt.date) -> "pd.DataFrame":
    """The columns that are looked at, and claims over several columns as columns of their own."""

    def given(name: str) -> pa.ChunkedArray:
        return pc.is_valid(interactions[name])

    told = pc.or_(pc.or_(given("thumbs_up"), given("escalated")), given("converted"))
    shadowed = pc.and_(given("shadow_digest"), given("shadow_confidence"))
    frame: pd.DataFrame = (
        interactions.select(_COLUMNS)
        .append_column("is_on_the_day", pc.equal(interactions["occurred_at"].cast(pa.timestamp("us")).cast(pa.date32(), safe=False), day))
        .append_column("is_answered", pc.or_(pc.and_(given("intent"), given("confidence")), given("error")))
        .append_column("is_timed", pc.or_(pc.invert(told), given("feedback_at")))
        .append_column("is_whole", pc.or_(pc.invert(given("shadow_intent")), shadowed))
        .to_pandas()
    )
    return frame
