import random
from collections.abc import Callable

import pandas as pd
import pytest

from mangaassist_assets.lib.expectations import ExpectationResult
from mangaassist_assets.lib.messages.expectations import check_labeled_messages, expectation_names
from mangaassist_assets.lib.messages.labelling import LABELLED_SCHEMA, message_id

WORDS = "parcel refund cover spine coupon volume".split()


def a_frame() -> pd.DataFrame:
    rng = random.Random(0)
    rows = []
    for i in range(24):
        text = f"message {i} about {rng.choice(WORDS)} and {rng.choice(WORDS)}"
        identifier = message_id(text)
        rows.append(
            {
                "message_id": identifier,
                "text": text,
                "intent": ("faq", "chitchat")[i % 2],
                "secondary_intent": "faq" if i == 1 else None,
                "slices": ["slang"],
                "split": ("train", "train", "train", "train", "validation", "test", "golden", "golden")[i % 8],
                "source": "a",
                "source_file": "a.csv",
                "source_row": i + 2,
                "licence": "CC0-1.0",
                "synthetic": True,
                "group_id": identifier,
                "language": "en",
            }
        )
    return pd.DataFrame(rows, columns=LABELLED_SCHEMA.names)


def failing(frame: pd.DataFrame, **options: object) -> dict[str, ExpectationResult]:
    return {result.name: result for result in check_labeled_messages(frame, **options) if not result.passed}  # type: ignore[arg-type]


def test_a_sound_table_meets_every_expectation() -> None:
    results = check_labeled_messages(a_frame())
    assert [result.name for result in results] == expectation_names()
    assert {result.name for result in results if not result.passed} == set()


def set_cell(column: str, value: object) -> Callable[[pd.DataFrame], None]:
    def change(frame: pd.DataFrame) -> None:
        frame[column] = frame[column].astype(object)
        frame.at[0, column] = value

    return change


def drop_split(frame: pd.DataFrame) -> None:
    frame.loc[frame["split"] == "validation", "split"] = "train"


def rename_an_intent_of_test(frame: pd.DataFrame) -> None:
    frame.loc[frame["split"] == "test", "intent"] = "unheard_of"


def share_a_group(frame: pd.DataFrame) -> None:
    frame.loc[frame["split"].isin(["golden", "test"]), "group_id"] = "same"


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        ("message_id_is_unique", lambda frame: set_cell("message_id", frame.at[1, "message_id"])(frame)),
        ("message_id_is_sixteen_hex_digits", set_cell("message_id", "XYZ")),
        ("message_id_is_the_hash_of_the_text", set_cell("text", "altered")),
        ("text_is_never_null", set_cell("text", None)),
        ("text_length_is_in_bounds", set_cell("text", "x" * 4001)),
        ("text_holds_no_email_address", set_cell("text", "mail foo@bar.com")),
        ("text_holds_no_card_number", set_cell("text", "card 4111 1111 1111 1111")),
        ("intent_is_never_null", set_cell("intent", None)),
        ("intent_is_known", rename_an_intent_of_test),
        ("secondary_intent_is_known", set_cell("secondary_intent", "unheard_of")),
        ("secondary_intent_differs_from_intent", set_cell("secondary_intent", "faq")),
        ("split_is_known", set_cell("split", "holdout")),
        ("train_validation_and_test_have_messages", drop_split),
        ("near_duplicates_share_a_split", share_a_group),
        ("language_is_known", set_cell("language", "fr")),
        ("provenance_is_complete", set_cell("licence", None)),
        ("source_row_is_positive", set_cell("source_row", 0)),
    ],
)
def test_a_broken_claim_is_reported_by_name(claim: str, change: Callable[[pd.DataFrame], None]) -> None:
    frame = a_frame()
    change(frame)
    found = failing(frame)
    assert claim in found
    assert "foo@bar" not in found[claim].observed and "message 0" not in found[claim].observed


def test_the_rows_that_break_a_claim_are_listed_by_id() -> None:
    frame = a_frame()
    set_cell("language", "fr")(frame)
    result = failing(frame)["language_is_known"]
    assert result.unexpected_rows == [frame.at[0, "message_id"]]
    assert result.observed == "1 of 24 rows unexpected"


def test_an_empty_table_fails() -> None:
    assert {"table_has_rows", "train_validation_and_test_have_messages"} <= failing(a_frame().head(0)).keys()


def test_the_out_of_scope_label_may_be_missing_from_train() -> None:
    frame = a_frame()
    frame.loc[frame["split"] == "test", "intent"] = "oos"
    assert "intent_is_known" in failing(frame)
    assert failing(frame, out_of_scope="oos") == {}


def test_the_frame_is_left_as_it_was() -> None:
    frame = a_frame()
    before = frame.copy()
    check_labeled_messages(frame)
    pd.testing.assert_frame_equal(frame, before)
