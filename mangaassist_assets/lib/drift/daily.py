"""Traffic by day as arrays, and the comparison of two groups of days.

Messages of one day are not independent: a campaign, an outage or a busy customer moves many of them together. A comparison therefore
asks how much days of the same group differ, and widens what independent messages would give by that factor, never below 1
(quasi-likelihood: Wedderburn 1974; McCullagh and Nelder 1989, section 4.5).
"""

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
WEEK = 7


@dataclass(frozen=True)
class Change:
    """A rate in some days against the same rate in others.

    Attributes:
        before, after: the rates.
        change: after - before, with its 95% interval.
        p_value: two-sided; 1 where nothing can be said.
        n: items in the later days.
    """

    before: float
    after: float
    change: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int


NO_CHANGE = Change(math.nan, math.nan, math.nan, -math.inf, math.inf, 1.0, 0)


@dataclass(frozen=True)
class ByDay:
    """Sums of traffic by day, in order of days; days without messages are rows of zeros.

    Attributes:
        days: the first to the last day, none left out.
        sums: column -> (T,).
    """

    days: tuple[dt.date, ...]
    sums: dict[str, Floats]

    @property
    def n(self) -> Floats:
        return self.sums["n"]

    def rows(self, first: dt.date, days: int) -> slice:
        """The rows of `days` days from `first`, cut to those that there are."""
        start = (first - self.days[0]).days
        return slice(max(start, 0), max(start + days, 0))


def by_day(traffic: pa.Table, columns: Sequence[str]) -> ByDay:
    """Adds up `columns` (with n) of a table that has `day`; null counts nothing."""
    offsets, days = _offsets(traffic)
    sums = {
        name: np.bincount(offsets, np.nan_to_num(traffic[name].to_numpy().astype(np.float64)), len(days)).astype(np.float64)
        for name in dict.fromkeys(("n", *columns))
    }
    return ByDay(days, sums)


def by_day_and(traffic: pa.Table, key: str, *, value: str = "n") -> tuple[tuple[str, ...], Floats]:
    """Names of `key` in order, and the sums of `value` by day and name (T, names); rows without a name are left out."""
    offsets, days = _offsets(traffic)
    encoded = traffic[key].combine_chunks().dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.fill_null(len(encoded.dictionary)).to_numpy().astype(np.int64)
    width = len(names) + 1
    values = np.nan_to_num(traffic[value].to_numpy().astype(np.float64))
    sums = np.bincount(offsets * width + codes, values, len(days) * width).reshape(len(days), width)[:, :-1]
    order = np.argsort(np.array(names, object).astype(str)) if names else np.zeros(0, np.int64)
    return tuple(str(names[i]) for i in order), sums[:, order].astype(np.float64)


def mains(traffic: pa.Table, key: str) -> list[tuple[dt.date, str]]:
    """By day the commonest value of `key`, in order; days without one are left out."""
    names, sums = by_day_and(traffic, key)
    if not names:
        return []
    days = by_day(traffic, ()).days
    return [(day, names[int(row.argmax())]) for day, row in zip(days, sums, strict=True) if row.any()]


def _offsets(traffic: pa.Table) -> tuple[Ints, tuple[dt.date, ...]]:
    if traffic.num_rows == 0:
        return np.zeros(0, np.int64), ()
    numbers = traffic["day"].combine_chunks().cast(pa.int32()).to_numpy().astype(np.int64)
    first = dt.date(1970, 1, 1) + dt.timedelta(int(numbers.min()))
    span = int(numbers.max() - numbers.min()) + 1
    return numbers - numbers.min(), tuple(first + dt.timedelta(i) for i in range(span))


def monday(day: dt.date) -> dt.date:
    """The first day of the week that holds `day`."""
    return day - dt.timedelta(day.weekday())


def mondays(days: Sequence[dt.date]) -> list[dt.date]:
    """The weeks that `days`, in order, touch."""
    if not days:
        return []
    first, last = monday(days[0]), monday(days[-1])
    return [first + dt.timedelta(i) for i in range(0, (last - first).days + 1, WEEK)]


def whole_weeks(traffic: ByDay) -> list[dt.date]:
    """Mondays of the weeks in which every day has messages."""
    return [
        week for week in mondays(traffic.days) if week >= traffic.days[0] and int((traffic.n[traffic.rows(week, WEEK)] > 0).sum()) == WEEK
    ]


def compare_rates(events: Floats, n: Floats, after: Mask, before: Mask, *, least_dispersion: float = 1.0) -> Change:
    """Share events / n in the days `after` against the days `before`, all of shape (T,).

    The variance of a share is binomial times the dispersion that days show within both groups, with Student's interval on their number.
    """
    rate = (events[after | before].sum() + 0.5) / (n[after | before].sum() + 1.0)
    return compare_means(events, n, np.full(len(n), rate * (1 - rate)), after, before, least_dispersion=least_dispersion)


def compare_means(sums: Floats, n: Floats, variance: Floats, after: Mask, before: Mask, *, least_dispersion: float = 1.0) -> Change:
    """Mean sums / n in the days `after` against the days `before`.

    Args:
        sums: (T,), of the items of each day.
        n: (T,), items of each day.
        variance: (T,), of one item within a day.
        after: (T,), the later days.
        before: (T,), the earlier ones.
        least_dispersion: 1 where each day has its own items; less where the same items come every day, and only their answers can differ.
    """
    from scipy.special import stdtr, stdtrit

    after, before = after & (n > 0), before & (n > 0)
    freedom = int(after.sum() + before.sum()) - 2
    if not after.any() or not before.any() or freedom < 1:
        return NO_CHANGE
    value = {}
    squares = 0.0
    for name, days in (("after", after), ("before", before)):
        value[name] = float(sums[days].sum() / n[days].sum())
        squares += float(((sums[days] - value[name] * n[days]) ** 2 / (n[days] * np.maximum(variance[days], 1e-12))).sum())
    dispersion = max(least_dispersion, squares / freedom)
    within = sum(float((variance[days] * n[days]).sum()) / float(n[days].sum()) ** 2 for days in (after, before))
    error = math.sqrt(dispersion * within)
    change = value["after"] - value["before"]
    if error == 0:
        return NO_CHANGE
    half = float(stdtrit(freedom, 0.975)) * error
    p_value = float(2 * stdtr(freedom, -abs(change) / error))
    return Change(value["before"], value["after"], change, change - half, change + half, p_value, int(n[after].sum()))
