"""Calibrated confidence of answers, day by day, and how well it is calibrated.

An alarm means that something changed. A mean that lies below the floor as it always did is in the table, with its reason, and alarms
nobody: who reads the same alarm each morning stops reading alarms.
"""

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.drift.daily import WEEK, ByDay, by_day, mains, monday
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.statistics import Z95

Floats = NDArray[np.float64]

CONFIDENCE = pa.schema(
    [
        ("day", pa.date32()),
        ("n", pa.int64()),
        ("mean_confidence", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("expected_calibration_error", pa.float64()),
        ("labelled_n", pa.int64()),
        ("alerting", pa.bool_()),
        ("reason", pa.string()),
    ]
)
LEAST_BASELINE = 7  # days
CALIBRATION_BINS = 15  # of expected_calibration_error


def confidence_by_day(traffic: pa.Table, production_accuracy: pa.Table, limits: DriftLimits) -> pa.Table:
    """One row per day with messages, columns CONFIDENCE.

    Args:
        traffic: columns day, intent, model_digest, n, confidence_sum, confidence_square_sum; requests that failed have no intent and
            do not count.
        production_accuracy: columns week, n, expected_calibration_error, from labels of the control slice; may be empty.
        limits: `mean_confidence`, `confidence_fall`, `calibration_error`, `daily_significance`, `baseline_days`.

    The interval counts messages and the variation between days. A day alarms where its mean is surely below that of the days before it
    that the same model answered, and either fell by `confidence_fall`, or by half of it across the floor. Days that alarm enter the
    baseline only when fewer than a week of others is left in it, and then replace these: a lasting change alarms for about three weeks
    and is the level from then on.
    Calibration is judged once a week, on the first day's row: an error above the limit, beyond what so few labels give by chance, and
    not so in the weeks before.
    """
    answered = traffic.filter(pc.is_valid(traffic["intent"]))
    days, models = by_day(answered, ("confidence_sum", "confidence_square_sum")), dict(mains(answered, "model_digest"))
    known = np.flatnonzero(days.n > 0)
    calibration = _calibration(production_accuracy)
    quiet: set[int] = set()  # rows that the baseline is made of
    rows = []
    for row in known:
        baseline = _baseline(days, models, quiet, int(row), limits)
        entry, alerting, reason = _judged(days, int(row), baseline, limits)
        if not alerting:
            quiet.add(int(row))
        error, labelled, worse = _error_of(calibration, days.days[row], limits)
        first_of_week = row == 0 or monday(days.days[row]) != monday(days.days[row - 1])
        reasons = [reason] if reason else []
        if worse and first_of_week:
            alerting, reasons = True, [*reasons, worse]
        rows.append(
            entry | {"expected_calibration_error": error, "labelled_n": labelled, "alerting": alerting, "reason": "; ".join(reasons)}
        )
    return pa.Table.from_pylist(rows, CONFIDENCE)


def _baseline(days: ByDay, models: dict[dt.date, str], quiet: set[int], row: int, limits: DriftLimits) -> list[int]:
    """Rows of the `baseline_days` days before, of the same model, that did not alarm; where less than a week is left, those that did."""
    same = [r for r in range(max(0, row - limits.baseline_days), row) if models.get(days.days[r]) == models.get(days.days[row])]
    window = [r for r in same if days.n[r] > 0]
    held = [r for r in window if r in quiet]
    alarmed = [r for r in window if r not in quiet]
    if len(held) < LEAST_BASELINE <= len(alarmed):
        quiet.clear()
        quiet.update(alarmed)
        return alarmed
    return held


def _judged(days: ByDay, row: int, baseline: list[int], limits: DriftLimits) -> tuple[dict[str, object], bool, str]:
    """The row of a day, whether it alarms, and why or why not."""
    from scipy.special import stdtr

    n = float(days.n[row])
    mean = float(days.sums["confidence_sum"][row] / n)
    variance = max(float(days.sums["confidence_square_sum"][row] / n) - mean**2, 0.0)
    held = np.array(baseline, np.int64)
    means: Floats = days.sums["confidence_sum"][held] / days.n[held]
    between = _between_days(means, variance / float(np.median(days.n[held]))) if len(held) >= LEAST_BASELINE else 0.0
    half = Z95 * math.sqrt(variance / n + between)
    entry: dict[str, object] = {
        "day": days.days[row],
        "n": int(n),
        "mean_confidence": mean,
        "ci_low": max(0.0, mean - half),
        "ci_high": min(1.0, mean + half),
    }
    low = f"{mean:.3f} is below {limits.mean_confidence:g}" if mean < limits.mean_confidence else ""
    if n < limits.least_messages:
        return entry, False, f"not judged: fewer than {limits.least_messages} messages"
    if len(held) < LEAST_BASELINE:
        return entry, False, f"{low or 'not judged'}: fewer than {LEAST_BASELINE} days before it to compare with"
    usual = float(means.mean())
    error = math.sqrt((variance / n + between) * (1 + 1 / len(held)))
    p_value = float(stdtr(len(held) - 1, (mean - usual) / error)) if error > 0 else float(mean >= usual)
    fell = usual - mean >= limits.confidence_fall
    crossed = mean + half < limits.mean_confidence <= usual and usual - mean >= limits.confidence_fall / 2
    if p_value <= limits.daily_significance and (fell or crossed):
        crossing = f", below {limits.mean_confidence:g}" if mean + half < limits.mean_confidence else ""
        return entry, True, f"{usual:.3f} to {mean:.3f}{crossing}, p {p_value:.2g}"
    return entry, False, f"{low}, as in the days before ({usual:.3f})" if low else ""


def _between_days(means: Floats, within: float) -> float:
    """Variance of daily means beyond what their messages give; from the median step of a day to the next, which no single jump moves."""
    step = 1.4826 * float(np.median(np.abs(np.diff(means))))
    return max(step**2 / 2 - within, 0.0)


def _calibration(accuracy: pa.Table) -> dict[dt.date, tuple[int, float]]:
    """Labelled messages and calibration error by week; of several models in a week, the one with most labels."""
    weeks: dict[dt.date, tuple[int, float]] = {}
    for row in accuracy.select(["week", "n", "expected_calibration_error"]).to_pylist():
        error = row["expected_calibration_error"]
        if error is not None and row["n"] > weeks.get(row["week"], (0, 0.0))[0]:
            weeks[row["week"]] = (row["n"], error)
    return weeks


def _error_of(calibration: dict[dt.date, tuple[int, float]], day: dt.date, limits: DriftLimits) -> tuple[float | None, int, str]:
    """The latest whole week's calibration error before `day`, its labels, and what is wrong with it ("" if nothing)."""
    week = monday(day) - dt.timedelta(WEEK)
    if week not in calibration:
        return None, 0, ""
    n, error = calibration[week]
    earlier = [calibration[w][1] for i in range(1, 9) if (w := week - dt.timedelta(WEEK * i)) in calibration]
    if len(earlier) < 2:
        return error, n, ""
    chance = chance_calibration_error(n)
    if error > limits.calibration_error + chance and error > float(np.median(earlier)) + chance:
        return error, n, f"calibration error {error:.3f} on {n} labels, {float(np.median(earlier)):.3f} in the weeks before"
    return error, n, ""


def chance_calibration_error(n: int) -> float:
    """An upper bound of the calibration error that n labels of a perfectly calibrated model show on average.

    In a bin of m labels |accuracy - confidence| is on average at most sqrt(2 / pi) * 0.5 / sqrt(m); the mean over B bins weighted by m is
    largest for equal bins: sqrt(2 / pi) * 0.5 * sqrt(B / n).
    """
    return math.sqrt(2 / math.pi) * 0.5 * math.sqrt(CALIBRATION_BINS / n)
