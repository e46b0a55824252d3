"""What must hold of labeled_messages before anything downstream reads it, as a Great Expectations suite.

All expectations are validated in one call over one batch. Their names are claims; an asset check carries each name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mangaassist_assets.lib.expectations import ExpectationResult, validated
from mangaassist_assets.lib.messages.labelling import message_id
from mangaassist_assets.lib.messages.reading import MAX_CHARS, SPLITS

if TYPE_CHECKING:
    import pandas as pd

# Plain forms on purpose: a check that shared the redaction's own patterns would share its blind spots.
EMAIL_LEFT = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z]{2,}"
CARD_LEFT = r"(?<![\d-])(?<!\d )(?:\d{15,16}|\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{4})(?![ -]?\d)"


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
    facts = _Facts(_known_intents(frame, out_of_scope), max_chars)
    claims = {name: (kind, arguments(facts)) for name, (kind, arguments) in _CLAIMS.items()}
    return validated(_with_derived_columns(frame), claims, table="labeled_messages", key="message_id")


def _known_intents(frame: "pd.DataFrame", out_of_scope: str | None) -> list[str]:
    trained: set[str | None] = set(frame.loc[frame["split"] == "train", "intent"].dropna())
    return sorted(intent for intent in trained | {out_of_scope} if intent is not None)


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
