"""Confidence of days: an alarm is a change, not a level; calibration is judged beyond what few labels give by chance."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift.confidence import CONFIDENCE, chance_calibration_error, confidence_by_day
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.statistics import expected_calibration_error

LIMITS = DriftLimits()
MONDAY = dt.date(2026, 3, 2)
NO_LABELS = pa.schema([("week", pa.date32()), ("n", pa.int64()), ("expected_calibration_error", pa.float64())]).empty_table()


def traffic(mean_of, days, *, n=5000, between=0.003, seed=0, model_of=lambda _: "a"):
    """Counts of days whose mean confidence is `mean_of(number)`, moved at random by `between` a day."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(days):
        found = np.clip(rng.normal(mean_of(number) + between * rng.normal(), 0.15, n), 0, 1.2)
        for half in np.split(found, [n // 2]):  # two rows a day, as several intents give
            rows.append((MONDAY + dt.timedelta(number), "faq", model_of(number), len(half), half.sum(), (half**2).sum()))
    names = ("day", "intent", "model_digest", "n", "confidence_sum", "confidence_square_sum")
    return pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})


def labels(errors, *, n=200):
    weeks = [MONDAY + dt.timedelta(7 * i) for i in range(len(errors))]
    return pa.table({"week": weeks, "n": [n] * len(errors), "expected_calibration_error": errors})


def alarms(table):
    return [(row["day"] - MONDAY).days for row in table.to_pylist() if row["alerting"]]


def test_the_mean_of_a_day_has_an_interval_that_counts_messages_and_days():
    found = confidence_by_day(traffic(lambda _: 0.8, 40, between=0.02), NO_LABELS, LIMITS)
    assert found.schema == CONFIDENCE
    first, last = found.to_pylist()[0], found.to_pylist()[-1]
    assert first["ci_high"] - first["ci_low"] == pytest.approx(2 * 1.96 * 0.15 / 5000**0.5, rel=0.1)  # nothing is known of days yet
    assert last["ci_high"] - last["ci_low"] == pytest.approx(2 * 1.96 * 0.02, rel=0.5)


def test_a_steady_model_alarms_at_most_once_in_a_year():
    for level in (0.95, 0.86, 0.851, 0.849):
        assert sum(len(alarms(confidence_by_day(traffic(lambda _, m=level: m, 365, seed=s), NO_LABELS, LIMITS))) for s in range(3)) <= 1


def test_a_model_that_always_sits_below_the_floor_is_named_and_does_not_alarm():
    table = confidence_by_day(traffic(lambda _: 0.80, 60), NO_LABELS, LIMITS)
    assert not alarms(table)
    assert "below 0.85, as in the days before" in table.to_pylist()[-1]["reason"]


def test_a_fall_alarms_at_once_and_until_it_is_the_level():
    found = alarms(confidence_by_day(traffic(lambda day: 0.93 if day < 40 else 0.88, 120), NO_LABELS, LIMITS))
    assert found[0] == 40 and 14 <= len(found) <= 30 and found[-1] < 75


def test_a_small_fall_alarms_only_where_it_crosses_the_floor():
    def falls(high, low):
        return alarms(confidence_by_day(traffic(lambda day: high if day < 40 else low, 60, between=0.001), NO_LABELS, LIMITS))

    assert not falls(0.90, 0.888)
    assert falls(0.856, 0.841)


def test_a_rise_is_no_alarm():
    assert not alarms(confidence_by_day(traffic(lambda day: 0.86 if day < 40 else 0.95, 60), NO_LABELS, LIMITS))


def test_days_that_differ_much_alarm_less():
    wild = confidence_by_day(traffic(lambda day: 0.93 if day < 40 else 0.90, 60, between=0.03), NO_LABELS, LIMITS)
    calm = confidence_by_day(traffic(lambda day: 0.93 if day < 40 else 0.90, 60, between=0.003), NO_LABELS, LIMITS)
    assert len(alarms(wild)) <= 2 < 10 < len(alarms(calm))


def test_requests_that_failed_do_not_lower_the_mean():
    good = traffic(lambda _: 0.9, 3)
    failed = pa.table(
        {
            "day": good["day"],
            "intent": pa.nulls(6, pa.string()),
            "model_digest": good["model_digest"],
            "n": good["n"],
            "confidence_sum": [0.0] * 6,
            "confidence_square_sum": [0.0] * 6,
        }
    )
    assert confidence_by_day(pa.concat_tables([good, failed]), NO_LABELS, LIMITS).equals(confidence_by_day(good, NO_LABELS, LIMITS))


def test_days_with_few_messages_and_first_days_are_not_judged():
    assert "fewer than 200" in confidence_by_day(traffic(lambda _: 0.5, 20, n=50), NO_LABELS, LIMITS).to_pylist()[-1]["reason"]
    assert "fewer than 7 days" in confidence_by_day(traffic(lambda _: 0.9, 5), NO_LABELS, LIMITS).to_pylist()[-1]["reason"]


def test_calibration_that_gets_worse_alarms_once_a_week():
    table = confidence_by_day(traffic(lambda _: 0.9, 56), labels([0.05] * 4 + [0.3] * 2), LIMITS)
    assert alarms(table) == [35, 42]
    assert "calibration error 0.300 on 200 labels" in table.to_pylist()[35]["reason"]


def test_calibration_that_was_always_so_or_is_chance_does_not_alarm():
    always = confidence_by_day(traffic(lambda _: 0.9, 56), labels([0.3] * 7), LIMITS)
    chance = confidence_by_day(traffic(lambda _: 0.9, 56), labels([0.05] * 4 + [0.2] * 3, n=30), LIMITS)
    assert not alarms(always) and not alarms(chance)
    assert always.to_pylist()[20]["expected_calibration_error"] == 0.3 and always.to_pylist()[20]["labelled_n"] == 200


def test_without_labels_there_is_no_calibration_error():
    row = confidence_by_day(traffic(lambda _: 0.9, 3), NO_LABELS, LIMITS).to_pylist()[-1]
    assert row["expected_calibration_error"] is None and row["labelled_n"] == 0


@pytest.mark.parametrize("n", [30, 100, 400])
def test_the_error_of_a_calibrated_model_stays_below_the_chance_bound_on_average(n):
    rng = np.random.default_rng(n)
    errors = []
    for _ in range(200):
        sure = rng.uniform(0, 1, n)
        errors.append(expected_calibration_error(sure, rng.random(n) < sure))
    assert 0.5 * chance_calibration_error(n) < np.mean(errors) < chance_calibration_error(n)


def test_a_fall_is_seen_though_a_model_that_was_less_sure_answered_shortly_before():
    def mean_of(day):
        return 0.80 if day < 30 else 0.95 if day < 42 else 0.91

    def model_of(day):
        return "old" if day < 30 else "new"

    found = confidence_by_day(traffic(mean_of, 50, model_of=model_of), NO_LABELS, LIMITS)
    assert alarms(found)[0] == 42
    assert "fewer than 7 days" in found.to_pylist()[33]["reason"]


def test_a_less_sure_model_is_not_a_fall():
    assert not alarms(confidence_by_day(traffic(lambda d: 0.95 if d < 30 else 0.87, 60, model_of=lambda d: str(d < 30)), NO_LABELS, LIMITS))
