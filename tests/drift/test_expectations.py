import datetime as dt

import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift.expectations import check_interactions, expectation_names
from mangaassist_assets.lib.drift.interactions import INTERACTIONS

DAY = dt.date(2026, 11, 24)


def a_day(n=150, **changed):
    """A sound day; `changed` are values of its first row."""
    rows = [
        {
            "request_id": f"20261124-a-{i}", "occurred_at": dt.datetime(2026, 11, 24, 23, 59, tzinfo=dt.UTC), "session": "ab" * 8,
            "text": "hello", "language": "en", "intent": "chitchat",
            "confidence": 0.5, "route": "rules", "model_digest": "a" * 64, "arm": "champion",
            "latency_ms": 0.5, "sampling_probability": 1.0, "flags": [], "retrieved": [],
        }
        for i in range(n)
    ]  # fmt: skip
    rows[0] |= changed
    return pa.Table.from_pylist(rows, INTERACTIONS)


def failing(table, quarantined=0):
    return {result.name: result for result in check_interactions(table, DAY, quarantined=quarantined) if not result.passed}


def test_a_sound_day_meets_every_expectation():
    results = check_interactions(a_day(), DAY, quarantined=1)
    assert [result.name for result in results] == expectation_names()
    assert [result for result in results if not result.passed] == []


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"request_id": "20261124-a-1"}, "request_id_is_unique"),
        ({"request_id": "20261123-a-0"}, "request_id_names_the_day"),
        ({"session": "mika"}, "session_is_sixteen_hex_digits"),
        ({"text": None}, "text_is_never_null"),
        ({"text": ""}, "text_length_is_in_bounds"),
        ({"text": "write to mika@example.com"}, "text_holds_no_email_address"),
        ({"text": "card 4111 1111 1111 1111"}, "text_holds_no_card_number"),
        ({"language": "fr"}, "language_is_known"),
        ({"route": "oracle"}, "route_is_known"),
        ({"arm": "left"}, "arm_is_known"),
        ({"model_digest": "v2"}, "model_digest_is_a_digest"),
        ({"confidence": 1.5}, "confidence_is_a_ratio"),
        ({"latency_ms": -1.0}, "latency_is_in_bounds"),
        ({"sampling_probability": 0.0}, "sampling_probability_is_above_zero"),
        ({"intent": None}, "answer_has_an_intent_or_an_error"),
        ({"thumbs_up": True}, "feedback_has_its_time"),
        ({"shadow_intent": "faq"}, "shadow_result_is_whole"),
    ],
)
def test_each_expectation_notices_what_it_is_about(changed, claim):
    found = failing(a_day(**changed))
    assert list(found) == [claim]
    assert set(found[claim].unexpected_rows) <= {"20261124-a-0", "20261124-a-1", "20261123-a-0"}
    assert found[claim].unexpected_rows


def test_a_clock_that_jumped_once_is_borne_and_one_that_is_wrong_is_not():
    yesterday = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
    assert failing(a_day(occurred_at=yesterday)) == {}
    assert list(failing(a_day(n=50, occurred_at=yesterday))) == ["occurred_at_is_on_the_day"]


def test_a_day_of_which_much_cannot_be_read_is_noticed():
    found = failing(a_day(), quarantined=2)
    assert list(found) == ["quarantined_lines_are_few"]


def test_an_empty_day_has_no_rows():
    assert "table_has_rows" in failing(INTERACTIONS.empty_table())
