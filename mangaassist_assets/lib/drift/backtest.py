"""How often each signal would alarm in a year in which nothing happens: weeks of the steady past, drawn again and again.

Whole weeks are drawn, with replacement, so that weekdays keep their places and messages of a day stay together (block bootstrap:
Kuensch 1989). What is counted is what people would see: the beginning of an alarm, not each week that it lasts.
"""

import dataclasses
import datetime as dt
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.drift.calendar import NO_SEASONS
from mangaassist_assets.lib.drift.confidence import confidence_by_day
from mangaassist_assets.lib.drift.daily import WEEK, mains, monday
from mangaassist_assets.lib.drift.embedding import embedding_drift
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.shares import intent_share
from mangaassist_assets.lib.drift.triage import EVENTS, triage
from mangaassist_assets.lib.statistics import Estimate

BACKTEST = pa.schema(
    [
        ("signal", pa.string()),
        ("years", pa.float64()),
        ("alarms", pa.int64()),
        ("alarms_per_year", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("steady_weeks", pa.int64()),
        ("reason", pa.string()),
    ]
)
START = dt.date(2001, 1, 1)  # a Monday; resampled years begin here, where no season is
WEEKS_A_YEAR = 52
LEAST_WEEKS = 4  # fewer are no past to draw a year from
PERMUTATIONS = 199


def backtest(
    *,
    traffic: pa.Table,
    days: pa.Table,
    moments: pa.Table,
    accuracy: pa.Table,
    steady: Sequence[dt.date],
    limits: DriftLimits,
    seed: int,
    years: int = 5,
) -> pa.Table:
    """One row per signal of triage, and one for its verdict, columns BACKTEST.

    Args:
        traffic: columns COUNTS.
        days: columns day, probes, probes_right.
        moments: columns MOMENTS.
        accuracy: columns week, n, accuracy, ci_low, ci_high, expected_calibration_error.
        steady: Mondays of whole weeks in which nothing happened, as `steady_weeks` finds them.
        limits: under test.
        seed: of the draw.
        years: how many are drawn, each of 52 weeks.

    Who answered is left out of the draw: a release that came in is no false alarm. The interval is Garwood's exact one of a Poisson
    rate; it tells how well the drawn years fix the rate, not how well few weeks stand for all that steady traffic can do.
    """
    signals: dict[str, int] = {}
    if len(steady) >= LEAST_WEEKS:
        limits = dataclasses.replace(limits, permutations=max(PERMUTATIONS, round(1 / limits.significance)))
        tables = [_ByWeek(_anonymous(traffic), "day"), _ByWeek(days, "day"), _ByWeek(moments, "day"), _ByWeek(accuracy, "week")]
        rng = np.random.default_rng(seed)
        for _ in range(years):
            drawn = [steady[i] for i in rng.integers(0, len(steady), WEEKS_A_YEAR)]
            for signal, alarms in _alarms_of(*(table.drawn(drawn) for table in tables), limits=limits, seed=seed).items():
                signals[signal] = signals.get(signal, 0) + alarms
    rows = [_row(signal, alarms, years, len(steady)) for signal, alarms in signals.items()]
    if not rows:
        reason = f"{len(steady)} steady weeks, {LEAST_WEEKS} are needed"
        rows = [{"signal": "verdict", "years": 0.0, "steady_weeks": len(steady), "reason": reason}]
    return pa.Table.from_pylist(rows, BACKTEST)


def steady_weeks(drift_triage: pa.Table, traffic: pa.Table) -> list[dt.date]:
    """Mondays of the weeks in which nothing happened: by their verdict, and answered on every day by the model that answers now.

    Args:
        drift_triage: columns DRIFT_TRIAGE.
        traffic: columns COUNTS. Weeks of two models, drawn beside each other, would alarm for a change that was none of the traffic's.
    """
    models = dict(mains(traffic, "model_digest"))
    now = models[max(models)] if models else ""
    quiet = [row["period"] for row in drift_triage.to_pylist() if row["signal"] == "verdict" and row["cause"] == "none"]
    return [week for week in quiet if {models.get(week + dt.timedelta(i)) for i in range(WEEK)} == {now}]


def rate_per_year(alarms: int, years: float) -> Estimate:
    """Alarms a year with Garwood's exact 95% interval of a Poisson rate (Garwood 1936)."""
    from scipy.stats import chi2

    low = float(chi2.ppf(0.025, 2 * alarms)) / 2 if alarms else 0.0
    high = float(chi2.ppf(0.975, 2 * alarms + 2)) / 2
    return Estimate(alarms / years, low / years, high / years, alarms)


def _row(signal: str, alarms: int, years: int, weeks: int) -> dict[str, object]:
    rate = rate_per_year(alarms, years)
    row = {"signal": signal, "years": float(years), "alarms": alarms, "steady_weeks": weeks, "reason": ""}
    return row | {"alarms_per_year": rate.value, "ci_low": rate.ci_low, "ci_high": rate.ci_high}


def _alarms_of(
    traffic: pa.Table, days: pa.Table, moments: pa.Table, accuracy: pa.Table, *, limits: DriftLimits, seed: int
) -> dict[str, int]:
    """Beginnings of alarms in one year by signal."""
    found = triage(
        traffic=traffic,
        days=days,
        shares=intent_share(traffic, limits, NO_SEASONS),
        confidence=confidence_by_day(traffic, accuracy, limits),
        embedding=embedding_drift(moments, limits, seed),
        moments=moments,
        accuracy=accuracy,
        events=EVENTS.empty_table(),
        calendar=NO_SEASONS,
        limits=limits,
    )
    return alarm_beginnings(found)


def alarm_beginnings(drift_triage: pa.Table) -> dict[str, int]:
    """By signal, the weeks in which it alarms and did not in the week before; columns DRIFT_TRIAGE."""
    counts: dict[str, int] = {}
    last: dict[str, dt.date] = {}
    for row in drift_triage.to_pylist():
        signal, alarms = row["signal"], row["cause"] not in ("none", "seasonal")
        begins = alarms and last.get(signal) != row["period"] - dt.timedelta(WEEK)
        counts[signal] = counts.get(signal, 0) + begins
        if alarms:
            last[signal] = row["period"]
    return counts


def _anonymous(traffic: pa.Table) -> pa.Table:
    """Traffic as if one model and one generator had answered all of it."""
    for name in ("model_digest", "generator"):
        traffic = traffic.set_column(traffic.column_names.index(name), name, pa.array(["one"] * traffic.num_rows, pa.string()))
    return traffic


class _ByWeek:
    """Rows of a table by the week of its column `key`, to be drawn in another order."""

    def __init__(self, table: pa.Table, key: str) -> None:
        self.table, self.key = table.combine_chunks(), key
        self.rows: dict[dt.date, list[int]] = {}
        self.offsets = np.zeros(table.num_rows, np.int64)
        for row, day in enumerate(table[key].to_pylist()):
            self.rows.setdefault(monday(day), []).append(row)
            self.offsets[row] = day.weekday()

    def drawn(self, weeks: Sequence[dt.date]) -> pa.Table:
        """The rows of `weeks`, dated from START on as if they had followed each other."""
        chosen = [np.array(self.rows.get(week, []), np.int64) for week in weeks]
        rows: NDArray[np.int64] = np.concatenate(chosen)
        begins = np.repeat(np.arange(len(weeks)) * WEEK, [len(part) for part in chosen])
        numbers = (START - dt.date(1970, 1, 1)).days + begins + self.offsets[rows]
        dates = pa.array(numbers.astype(np.int32), pa.int32()).cast(pa.date32())
        return self.table.take(pa.array(rows)).set_column(self.table.column_names.index(self.key), self.key, dates)
