"""What must hold of labeled_messages before anything downstream reads it, as a Great Expectations suite.

All expectations are validated in one call over one batch. Their names are claims; an asset check carries each name.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mangaassist_assets.lib.messages.labelling import message_id
from mangaassist_assets.lib.messages.reading import MAX_CHARS, SPLITS

if TYPE_CHECKING:
    import pandas as pd

# Plain forms on purpose: a check that shared the redaction's own patterns would share its blind spots.
EMAIL_LEFT = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z]{2,}"
CARD_LEFT = r"(?<![\d-])(?<!\d )(?:\d{15,16}|\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{4})(?![ -]?\d)"
LISTED_ROWS = 20


@dataclass(frozen=True)
class ExpectationResult:
    """How one expectation fared.

    Attributes:
        name: the claim, as an identifier.
        passed: whether it holds.
        observed: what was seen, without any message text.
        unexpected_rows: message ids of rows that break it, at most LISTED_ROWS; empty for claims about the whole table.
    """

    name: str
    passed: bool
    observed: str
    unexpected_rows: list[str]


@dataclass(frozen=True)
class _Facts:
    intents: list[str]
    max_chars: int


_CLAIMS: dict[str, tuple[str, Callable[[_Facts], dict[str, Any]]]] = {
    "table_has_rows": ("ExpectTableRowCountToBeBetween", lambda _: {"min_value": 1}),
    "message_id_is_unique": ("ExpectColumnValuesToBeUnique", lambda _: {"column": "message_id"}),
    "message_id_is_sixteen_hex_digits": ("ExpectColumnValuesToMatchRegex", lambda _: {"column": "message_id", "regex": "^[0-9a-f]{16}$"}),
    "message_id_is_the_hash_of_the_text": ("ExpectColumnValuesToBeInSet", lambda _: {"column": "id_is_hash", "value_set": [True]}),
    "text_is_never_null": ("ExpectColumnValuesToNotBeNull", lambda _: {"column": "text"}),
    "text_length_is_in_bounds": (
        "ExpectColumnValueLengthsToBeBetween",
        lambda facts: {"column": "text", "min_value": 1, "max_value": facts.max_chars},
    ),
    "text_holds_no_email_address": ("ExpectColumnValuesToNotMatchRegex", lambda _: {"column": "text", "regex": EMAIL_LEFT}),
    "text_holds_no_card_number": ("ExpectColumnValuesToNotMatchRegex", lambda _: {"column": "text", "regex": CARD_LEFT}),
    "intent_is_never_null": ("ExpectColumnValuesToNotBeNull", lambda _: {"column": "intent"}),
    "intent_is_known": ("ExpectColumnValuesToBeInSet", lambda facts: {"column": "intent", "value_set": facts.intents}),
    "secondary_intent_is_known": ("ExpectColumnValuesToBeInSet", lambda facts: {"column": "secondary_intent", "value_set": facts.intents}),
    "secondary_intent_differs_from_intent": (
        "ExpectSelectColumnValuesToBeUniqueWithinRecord",
        lambda _: {"column_list": ["intent", "secondary_intent"], "ignore_row_if": "any_value_is_missing"},
    ),
    "split_is_known": ("ExpectColumnValuesToBeInSet", lambda _: {"column": "split", "value_set": list(SPLITS)}),
    "train_validation_and_test_have_messages": (
        "ExpectColumnDistinctValuesToContainSet",
        lambda _: {"column": "split", "value_set": ["train", "validation", "test"]},
    ),
    "near_duplicates_share_a_split": ("ExpectColumnValuesToBeInSet", lambda _: {"column": "splits_of_group", "value_set": [1]}),
    "language_is_known": ("ExpectColumnValuesToBeInSet", lambda _: {"column": "language", "value_set": ["en", "ja", "mixed"]}),
    "provenance_is_complete": ("ExpectColumnValuesToBeInSet", lambda _: {"column": "missing_provenance", "value_set": [0]}),
    "source_row_is_positive": ("ExpectColumnValuesToBeBetween", lambda _: {"column": "source_row", "min_value": 1}),
}


def expectation_names() -> list[str]:
    """The claims that `check_labeled_messages` reports on, in its order; cheap, for declaring checks."""
    return list(_CLAIMS)


def check_labeled_messages(
    frame: "pd.DataFrame", *, out_of_scope: str | None = None, max_chars: int = MAX_CHARS
) -> list[ExpectationResult]:
    """Validates the table of labelled messages; a known intent is one that train holds, or the out-of-scope label.

    Args:
        frame: LABELLED_SCHEMA as pandas; not changed.
        out_of_scope: a label that train may be without.
        max_chars: longest text.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns about its own imports and about pandas; neither is ours to act on
        return _validated(frame, _Facts(_known_intents(frame, out_of_scope), max_chars))


def _known_intents(frame: "pd.DataFrame", out_of_scope: str | None) -> list[str]:
    trained: set[str | None] = set(frame.loc[frame["split"] == "train", "intent"].dropna())
    return sorted(intent for intent in trained | {out_of_scope} if intent is not None)


def _validated(frame: "pd.DataFrame", facts: _Facts) -> list[ExpectationResult]:
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("labeled_messages")
    claims = [getattr(gxe, kind)(**arguments(facts), meta={"name": name}) for name, (kind, arguments) in _CLAIMS.items()]
    suite = context.suites.add(gx.ExpectationSuite("labeled_messages", expectations=claims))
    validation = gx.ValidationDefinition(name="labeled_messages", data=asset.add_batch_definition_whole_dataframe("all"), suite=suite)
    outcome = context.validation_definitions.add(validation).run(
        batch_parameters={"dataframe": _with_derived_columns(frame)},
        result_format={
            "result_format": "SUMMARY",
            "partial_unexpected_count": LISTED_ROWS,
            "unexpected_index_column_names": ["message_id"],
        },
    )
    by_name = {result.expectation_config.meta["name"]: result for result in outcome.results}
    return [_result(name, by_name[name]) for name in _CLAIMS]


def _with_derived_columns(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Claims over several columns as columns of their own; every column as Python objects, which Arrow's types are not."""
    provenance = ["source", "source_file", "source_row", "licence", "synthetic", "group_id"]
    return frame.assign(
        secondary_intent=frame["secondary_intent"].astype(object).where(frame["secondary_intent"].notna(), None),
        id_is_hash=[
            isinstance(text, str) and message_id(text) == given for text, given in zip(frame["text"], frame["message_id"], strict=True)
        ],
        splits_of_group=frame.groupby("group_id", dropna=False)["split"].transform("nunique").astype(int),
        missing_provenance=frame[provenance].isna().sum(axis=1).astype(int),
    )


def _result(name: str, outcome: Any) -> ExpectationResult:
    seen = dict(outcome.result)
    rows = [str(row["message_id"]) for row in seen.get("partial_unexpected_index_list") or []]
    if "unexpected_count" in seen:
        observed = f"{seen['unexpected_count']:,} of {seen['element_count']:,} rows unexpected"
    elif seen.get("partial_missing_list"):
        observed = f"missing: {', '.join(map(str, seen['partial_missing_list']))}"
    elif seen:
        observed = "nothing missing" if seen.get("observed_value") is None else f"{seen['observed_value']}"
    else:
        messages = [info["exception_message"] for info in outcome.exception_info.values() if isinstance(info, dict)]
        observed = f"could not be evaluated: {messages[0] if messages else outcome.exception_info}"
    return ExpectationResult(name, bool(outcome.success), observed, rows[:LISTED_ROWS])
