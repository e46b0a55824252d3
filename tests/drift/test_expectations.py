import datetime as dt

import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift import expectations
from mangaassist_assets.lib.drift.expectations import DailyChecks, Day, check_day, expectation_names
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
    return {result.name: result for result in check_day(Day(DAY, table, quarantined)) if not result.passed}


def test_a_sound_day_meets_every_expectation():
    results = check_day(Day(DAY, a_day(), quarantined=1))
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


def test_a_day_of_searches_alone_is_a_day():
    empty = INTERACTIONS.empty_table()
    assert [result for result in check_day(Day(DAY, empty, searches=3)) if not result.passed] == []


@pytest.fixture
def calls(monkeypatch):
    """How many suites were run."""
    made, run = [], expectations.validated
    monkeypatch.setattr(expectations, "validated", lambda *args, **kwargs: made.append(1) or run(*args, **kwargs))
    return made


def the_day_after(table):
    ids = [name.replace("20261124", "20261125") for name in table["request_id"].to_pylist()]
    moments = [moment + dt.timedelta(days=1) for moment in table["occurred_at"].to_pylist()]
    columns = {"request_id": pa.array(ids), "occurred_at": pa.array(moments, INTERACTIONS.field("occurred_at").type)}
    return pa.table([columns.get(name, table[name]) for name in table.column_names], schema=INTERACTIONS)


def test_sound_days_share_one_call(calls):
    checks = DailyChecks()
    checks.add(Day(DAY, a_day()))
    checks.add(Day(DAY + dt.timedelta(1), the_day_after(a_day())))
    assert set(map(tuple, checks.broken().values())) == {()} and len(calls) == 1


@pytest.mark.parametrize(
    ("second", "quarantined"),
    [(a_day(confidence=1.5), 0), (a_day(session="mika"), 0), (a_day(), 2), (INTERACTIONS.empty_table(), 0), (a_day(), 1)],
    ids=["confidence", "session", "quarantine", "empty", "bearable"],
)
def test_days_together_are_judged_as_each_by_itself(second, quarantined, calls):
    days = [Day(DAY, a_day()), Day(DAY + dt.timedelta(1), the_day_after(second), quarantined), Day(DAY, a_day(n=120))]
    checks, alone = DailyChecks(), {name: [] for name in expectation_names()}
    for day in days:
        checks.add(day)
        for result in check_day(day):
            if not result.passed:
                alone[result.name].append(f"{day.day}: {result.observed}")
    assert checks.broken() == alone


def test_a_clock_that_jumped_once_is_borne_among_other_days_too():
    yesterday = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
    checks = DailyChecks()
    for day in (Day(DAY, a_day(occurred_at=yesterday)), Day(DAY + dt.timedelta(1), the_day_after(a_day()))):
        checks.add(day)
    assert set(map(tuple, checks.broken().values())) == {()}
