"""False alarms a year, from weeks of the steady past drawn again; and the pictures of drift."""

import datetime as dt

import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift.backtest import BACKTEST, _ByWeek, alarm_beginnings, backtest, rate_per_year, steady_weeks
from mangaassist_assets.lib.drift.confidence import CONFIDENCE
from mangaassist_assets.lib.drift.embedding import EMBEDDING_DRIFT
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.moments import MOMENTS
from mangaassist_assets.lib.drift.plots import confidence_plot, divergence_plot, shares_plot
from mangaassist_assets.lib.drift.shares import INTENT_SHARE
from mangaassist_assets.lib.drift.triage import DRIFT_TRIAGE

MONDAY = dt.date(2026, 3, 2)
WEEKS = [MONDAY + dt.timedelta(7 * i) for i in range(8)]
PNG = b"\x89PNG\r\n\x1a\n"


def past(*, wild=0.0):
    """Eight weeks of counts, in which every other week has `wild` more of one intent."""
    rows, days = [], []
    for number in range(56):
        more = int(1000 * wild) if (number // 7) % 2 else 0
        for intent, n in (("faq", 600 + more + number % 7), ("promotion", 400 - more)):
            rows.append(
                {"day": MONDAY + dt.timedelta(number), "intent": intent, "language": "en", "arm": "champion", "n": n}
                | {"model_digest": f"{number // 21}", "generator": "g1", "confidence_sum": 0.9 * n, "confidence_square_sum": 0.83 * n}
                | {"thumbs_up": 20, "thumbs_down": 5, "escalated": 30, "errors": 0}
            )
        days.append({"day": MONDAY + dt.timedelta(number), "probes": 100, "probes_right": 90})
    accuracy = [
        {"week": week, "n": 100, "accuracy": 0.9, "ci_low": 0.83, "ci_high": 0.95, "expected_calibration_error": 0.05} for week in WEEKS
    ]
    tables = {"traffic": rows, "days": days, "accuracy": accuracy}
    return {name: pa.Table.from_pylist(found) for name, found in tables.items()} | {"moments": MOMENTS.empty_table()}


def test_a_steady_past_gives_no_false_alarm_with_an_interval_of_that():
    table = backtest(**past(), steady=WEEKS, limits=DriftLimits(), seed=1, years=2)
    assert table.schema == BACKTEST
    rows = {row["signal"]: row for row in table.to_pylist()}
    assert {"share", "confidence", "golden_probes", "verdict"} <= set(rows)
    assert all(row["alarms"] == 0 and row["ci_low"] == 0 and row["ci_high"] == pytest.approx(3.689 / 2, abs=1e-3) for row in rows.values())


def test_a_past_that_moves_alarms_where_it_moves():
    rows = {row["signal"]: row for row in backtest(**past(wild=0.2), steady=WEEKS, limits=DriftLimits(), seed=1, years=1).to_pylist()}
    assert rows["share"]["alarms_per_year"] > 1 and rows["golden_probes"]["alarms"] == 0


def test_equal_seeds_draw_equal_years():
    tables = [backtest(**past(wild=0.1), steady=WEEKS, limits=DriftLimits(), seed=3, years=1) for _ in range(2)]
    assert tables[0].equals(tables[1])


def test_too_short_a_past_is_said_so_and_has_no_rate():
    row = backtest(**past(), steady=WEEKS[:3], limits=DriftLimits(), seed=1).to_pylist()[0]
    assert row["alarms_per_year"] is None and "4 are needed" in row["reason"]


def test_drawn_weeks_keep_their_days_together_and_in_order():
    table = pa.table({"day": [MONDAY + dt.timedelta(i) for i in range(21)], "x": list(range(21))})
    drawn = _ByWeek(table, "day").drawn([WEEKS[2], WEEKS[0], WEEKS[2]])
    assert drawn["x"].to_pylist() == [*range(14, 21), *range(7), *range(14, 21)]
    assert drawn["day"].to_pylist() == [dt.date(2001, 1, 1) + dt.timedelta(i) for i in range(21)]


def test_an_alarm_that_lasts_begins_once():
    def row(week, cause):
        return {"period": WEEKS[week], "signal": "share", "cause": cause}

    story = [row(0, "none"), row(1, "data"), row(2, "data"), row(3, "none"), row(4, "data"), row(5, "seasonal")]
    assert alarm_beginnings(pa.Table.from_pylist(story, DRIFT_TRIAGE)) == {"share": 2}


def test_steady_weeks_are_those_with_a_verdict_of_none_since_the_model_that_answers_now_came_in():
    traffic = past()["traffic"]
    models = sorted({row["model_digest"]: row["day"] for row in traffic.to_pylist()}.items(), key=lambda item: item[1])
    last = {row["day"] for row in traffic.to_pylist() if row["model_digest"] == models[-1][0]}
    of_last = [week for week in WEEKS if all(week + dt.timedelta(i) in last for i in range(7))]
    rows = [{"period": week, "signal": "verdict", "cause": "none"} for week in WEEKS]
    assert 1 < len(of_last) < len(WEEKS) and steady_weeks(pa.Table.from_pylist(rows, DRIFT_TRIAGE), traffic) == of_last
    rows[WEEKS.index(of_last[0])]["cause"] = "data"
    rows[WEEKS.index(of_last[1])]["signal"] = "share"
    assert steady_weeks(pa.Table.from_pylist(rows, DRIFT_TRIAGE), traffic) == of_last[2:]


def test_rates_have_the_exact_interval_of_a_poisson_count():
    rate = rate_per_year(4, 2)
    assert (rate.value, rate.ci_low, rate.ci_high) == (2, pytest.approx(1.0899 / 2, abs=1e-3), pytest.approx(10.2416 / 2, abs=1e-3))


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pictures_are_drawn_of_full_and_of_empty_tables():
    shares = [{"week": week, "intent": f"intent {i}", "n": 100 + i, "share": 0.1, "alerting": i == 2} for week in WEEKS for i in range(10)]
    days = [
        {"day": MONDAY + dt.timedelta(i), "n": 9, "mean_confidence": 0.9, "ci_low": 0.88, "ci_high": 0.92, "alerting": i > 5}
        for i in range(9)
    ]
    months = [
        {"month": dt.date(2026, m, 1), "n": 9, "kl_nats": None if m == 1 else 0.01 * m, "threshold_nats": 0.02, "alerting": m == 3}
        for m in (1, 2, 3)
    ]
    limits = DriftLimits()
    for rows in ((shares, days, months), ([], [], [])):
        assert shares_plot(pa.Table.from_pylist(rows[0], INTENT_SHARE)).startswith(PNG)
        assert confidence_plot(pa.Table.from_pylist(rows[1], CONFIDENCE), limits).startswith(PNG)
        assert divergence_plot(pa.Table.from_pylist(rows[2], EMBEDDING_DRIFT)).startswith(PNG)
