"""What must hold of a day's interactions before anything counts them, as a Great Expectations suite over every row of the day.

The names of the expectations are claims; an asset check carries each name. A call takes 0.2 s whatever the rows, so small days share one:
where every claim holds of all their rows it holds of each day, and where one does not, each day is asked by itself.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

ROWS_AT_ONCE = 100_000  # of days that share a call

_Claim = tuple[str, Callable[["Day"], dict[str, Any]]]


@dataclass(frozen=True)
class Day:
    """What was read of a day.

    Attributes:
        day: which.
        interactions: INTERACTIONS.
        quarantined: lines that could not be read.
        searches: rows of RETRIEVALS; a day that has some needs no answer.
    """

    day: dt.date
    interactions: pa.Table
    quarantined: int = 0
    searches: int = 0


def _is_true(column: str, mostly: float = 1.0) -> _Claim:
    return "ExpectColumnValuesToBeInSet", lambda _: {"column": column, "value_set": [True], "mostly": mostly}


_CLAIMS: dict[str, _Claim] = {
    "table_has_rows": ("ExpectTableRowCountToBeBetween", lambda day: {"min_value": 0 if day.searches else 1}),
    "quarantined_lines_are_few": (
        "ExpectTableRowCountToBeBetween",
        lambda day: {"min_value": LINES_PER_QUARANTINED * day.quarantined - day.searches},
    ),
    "request_id_is_unique": ("ExpectColumnValuesToBeUnique", lambda _: {"column": "request_id"}),
    "request_id_names_the_day": _is_true("names_the_day"),
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


def check_day(day: Day) -> list[ExpectationResult]:
    """Validates a day's interactions; unexpected rows are request ids."""
    claims = {name: (kind, arguments(day)) for name, (kind, arguments) in _CLAIMS.items()}
    return validated(_frame(day), claims, table="interactions", key="request_id")


class DailyChecks:
    """Takes up days as they are read, and knows what is broken in which."""

    def __init__(self) -> None:
        self._waiting: list[Day] = []
        self._broken: dict[str, list[str]] = {name: [] for name in _CLAIMS}

    def add(self, day: Day) -> None:
        """Takes up another day."""
        self._waiting.append(day)
        if sum(day.interactions.num_rows for day in self._waiting) >= ROWS_AT_ONCE:
            self._check()

    def broken(self) -> dict[str, list[str]]:
        """By claim the days that break it, with what was seen."""
        self._check()
        return self._broken

    def _check(self) -> None:
        days, self._waiting = self._waiting, []
        together = [day for day in days if day.interactions.num_rows and not day.quarantined]
        if len(together) > 1 and _hold_together(together):
            days = [day for day in days if day.quarantined or not day.interactions.num_rows]
        for day in days:
            for result in check_day(day):
                if not result.passed:
                    self._broken[result.name].append(f"{day.day}: {result.observed}")


def _hold_together(days: Sequence[Day]) -> bool:
    """Whether every claim holds of every row, without exception even where a few are allowed."""
    import pandas as pd

    claims = {name: (kind, arguments(days[0]) | {"mostly": 1.0}) for name, (kind, arguments) in _CLAIMS.items() if "Table" not in kind}
    frame = pd.concat([_frame(day) for day in days], ignore_index=True)
    return all(result.passed for result in validated(frame, claims, table="interactions", key="request_id"))


def _frame(day: Day) -> "pd.DataFrame":
    """The columns that are looked at, and claims over several columns as columns of their own."""
    interactions = day.interactions

    def given(name: str) -> pa.ChunkedArray:
        return pc.is_valid(interactions[name])

    told = pc.or_(pc.or_(given("thumbs_up"), given("escalated")), given("converted"))
    shadowed = pc.and_(given("shadow_digest"), given("shadow_confidence"))
    frame: pd.DataFrame = (
        interactions.select(_COLUMNS)
        .append_column("names_the_day", pc.starts_with(interactions["request_id"], f"{day.day:%Y%m%d}-"))
        .append_column(
            "is_on_the_day", pc.equal(interactions["occurred_at"].cast(pa.timestamp("us")).cast(pa.date32(), safe=False), day.day)
        )
        .append_column("is_answered", pc.or_(pc.and_(given("intent"), given("confidence")), given("error")))
        .append_column("is_timed", pc.or_(pc.invert(told), given("feedback_at")))
        .append_column("is_whole", pc.or_(pc.invert(given("shadow_intent")), shadowed))
        .to_pandas()
    )
    return frame
