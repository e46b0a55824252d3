"""Shares of intents, week against week.

A share has shifted if it moved more than five points and days do not explain the move. What the same week of the year before showed,
or what the calendar expects, is no alarm.
"""

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.drift.calendar import Calendar
from mangaassist_assets.lib.drift.daily import WEEK, ByDay, by_day, by_day_and, mondays, whole_weeks
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.statistics import holm

Floats = NDArray[np.float64]

INTENT_SHARE = pa.schema(
    [
        ("week", pa.date32()),
        ("intent", pa.string()),
        ("n", pa.int64()),
        ("share", pa.float64()),
        ("previous_share", pa.float64()),
        ("shift", pa.float64()),
        ("baseline_share", pa.float64()),
        ("p_value", pa.float64()),
        ("alerting", pa.bool_()),
        ("reason", pa.string()),
    ]
)
YEAR = dt.timedelta(52 * WEEK)  # keeps weekdays
DISPERSION_WEEKS = 8  # whose days tell how much days of one week differ
HISTORY_WEEKS = 26  # whose moves tell how much weeks differ
LEAST_HISTORY = 6


def intent_share(traffic: pa.Table, limits: DriftLimits, calendar: Calendar) -> pa.Table:
    """One row per week and intent, columns INTENT_SHARE.

    Args:
        traffic: columns day, intent, n; any number of rows a day.
        limits: `share_shift`, `significance`, `least_messages`.
        calendar: seasons; a shift within what they excuse, in the week or the one before, is no alarm.

    `n` is the messages of the intent; requests that failed have none and count nowhere. A week of which a day is missing is not judged,
    and neither is one after such a week. `p_value` is corrected over the intents of the week (Holm); where the year before has the same
    two weeks, the shift must also exceed the limit against `baseline_share`, the previous share moved as it moved then, and p_value is
    the larger of both.
    """
    answered = traffic.filter(pc.is_valid(traffic["intent"]))
    names, counts = by_day_and(answered, "intent")
    whole = by_day(answered, ())
    full = set(whole_weeks(whole))
    weeks = mondays(whole.days)
    shares = {week: _share(whole, counts, week) for week in weeks}
    moves: list[Floats] = []  # squared standardised moves of the weeks before, (names,) each
    rows = []
    for week in weeks:
        n, share = shares[week]
        before = week - dt.timedelta(WEEK)
        unjudged = _unjudged(week, full, shares, limits)
        if unjudged:
            rows += [_row(week, name, counts_of, share[i], unjudged) for i, (name, counts_of) in enumerate(_named(names, share, n))]
            continue
        previous_n, previous = shares[before]
        dispersion = np.maximum(_within(whole, counts, week, full), _between(moves))
        variance = _binomial(share, previous, n, previous_n)
        shift = share - previous
        p_values = _p_values(shift, dispersion * variance)
        baseline = None
        if {week - YEAR, before - YEAR} <= full and min(shares[w - YEAR][0] for w in (week, before)) >= limits.least_messages:
            (then_n, then), (then_before_n, then_before) = shares[week - YEAR], shares[before - YEAR]
            baseline = np.clip(previous + then - then_before, 0.0, 1.0)
            both = variance + _binomial(then, then_before, then_n, then_before_n)
            p_values = np.maximum(p_values, _p_values(share - baseline, dispersion * both))
        p_values = np.array(holm(p_values.tolist()))
        moves.append(shift**2 / np.maximum(variance, 1e-18))
        season = calendar.between(before, week + dt.timedelta(WEEK - 1))
        for i, (name, of_intent) in enumerate(_named(names, share, n)):
            expected = None if baseline is None else float(baseline[i])
            row = _row(week, name, of_intent, share[i], "")
            row |= {
                "previous_share": float(previous[i]),
                "shift": float(shift[i]),
                "baseline_share": expected,
                "p_value": float(p_values[i]),
            }
            row["alerting"], row["reason"] = _judged(row, limits, season.name if season else "", season.share_shift if season else 0.0)
            rows.append(row)
    return pa.Table.from_pylist(rows, INTENT_SHARE)


def _named(names: tuple[str, ...], share: Floats, n: float) -> list[tuple[str, int]]:
    return [(name, round(float(share[i]) * n)) for i, name in enumerate(names)]


def _row(week: dt.date, intent: str, n: int, share: float, reason: str) -> dict[str, object]:
    measured = share if math.isfinite(share) else None
    return {"week": week, "intent": intent, "n": n if measured is not None else 0, "share": measured, "alerting": False, "reason": reason}


def _share(whole: ByDay, counts: Floats, week: dt.date) -> tuple[float, Floats]:
    """Messages of a week, and each intent's share of them, NaN where there is none."""
    rows = whole.rows(week, WEEK)
    n = float(whole.n[rows].sum())
    return n, counts[rows].sum(0) / n if n else np.full(counts.shape[1], np.nan)


def _unjudged(week: dt.date, full: set[dt.date], shares: dict[dt.date, tuple[float, Floats]], limits: DriftLimits) -> str:
    before = week - dt.timedelta(WEEK)
    if week not in full:
        return "not judged: a day of the week has no messages yet"
    if before not in full:
        return "not judged: no whole week before it"
    if min(shares[week][0], shares[before][0]) < limits.least_messages:
        return f"not judged: fewer than {limits.least_messages} messages"
    return ""


def _binomial(share: Floats, other: Floats, n: float, other_n: float) -> Floats:
    """Variance of the difference of two shares of independent messages under no shift, (names,)."""
    pooled = (share * n + other * other_n + 0.5) / (n + other_n + 1.0)
    variance: Floats = pooled * (1 - pooled) * (1 / n + 1 / other_n)
    return variance


def _within(whole: ByDay, counts: Floats, week: dt.date, full: set[dt.date]) -> Floats:
    """How many times more days of one week differ than independent messages would, (names,); weeks up to `week` are asked."""
    squares, freedom = np.zeros(counts.shape[1]), 0
    for back in range(DISPERSION_WEEKS):
        asked = week - dt.timedelta(WEEK * back)
        if asked in full:
            rows = whole.rows(asked, WEEK)
            n = whole.n[rows][:, None]
            share = (counts[rows].sum(0) + 0.5) / (n.sum() + 1.0)
            squares += ((counts[rows] - share * n) ** 2 / (n * share * (1 - share))).sum(0)
            freedom += WEEK - 1
    return np.maximum(1.0, squares / max(freedom, 1))


def _between(moves: list[Floats]) -> Floats | float:
    """The same from moves of whole weeks; their median, which a few true shifts do not move (0.455 is that of chi-squared with 1)."""
    return np.median(moves[-HISTORY_WEEKS:], axis=0) / 0.455 if len(moves) >= LEAST_HISTORY else 1.0


def _p_values(shift: Floats, variance: Floats) -> Floats:
    """Two-sided, by Student's distribution with the days of both weeks."""
    from scipy.special import stdtr

    p_values: Floats = 2 * stdtr(2 * WEEK - 2, -np.abs(shift) / np.sqrt(variance))
    return p_values


def _judged(row: dict[str, object], limits: DriftLimits, season: str, excused: float) -> tuple[bool, str]:
    share, previous, baseline, p_value = (row[name] for name in ("share", "previous_share", "baseline_share", "p_value"))
    assert isinstance(share, float) and isinstance(previous, float) and isinstance(p_value, float)
    shift = share - previous
    if abs(shift) <= limits.share_shift:
        return False, ""
    moved = f"{100 * previous:.1f}% to {100 * share:.1f}%"
    if isinstance(baseline, float) and abs(share - baseline) <= limits.share_shift:
        return False, f"{moved}, as in the same week of the year before"
    if p_value > limits.significance:
        return False, f"{moved}, but days differ as much (p {p_value:.2g})"
    if season and abs(shift) <= excused:
        return False, f"{moved}, expected in season: {season}"
    return True, f"{moved}, p {p_value:.2g}"
