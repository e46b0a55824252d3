"""Estimates with intervals, and the paired tests that compare two models on the same items.

All intervals are 95% and two-sided unless a caller says otherwise. Resampling is seeded by the caller.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95% interval and the number of items behind it."""

    value: float
    ci_low: float
    ci_high: float
    n: int

    @property
    def is_measured(self) -> bool:
        """False where nothing was measured: no items, a value that is not finite, or a NaN bound."""
        return self.n > 0 and math.isfinite(self.value) and not math.isnan(self.ci_low) and not math.isnan(self.ci_high)


def finite_or_none(value: float) -> float | None:
    """What a table stores: null for a figure that is not measured and for a bound that the data cannot give."""
    return value if math.isfinite(value) else None


def mean(values: ArrayLike) -> Estimate:
    """Mean of independent repeats with Student's interval; unbounded for a single repeat, NaN for none."""
    from scipy.stats import t

    repeats: Floats = np.asarray(values, np.float64)
    n = len(repeats)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    centre = float(repeats.mean())
    half = float(t.ppf(0.975, n - 1) * repeats.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    return Estimate(centre, centre - half, centre + half, n)


def proportion(successes: int, n: int) -> Estimate:
    """Share of successes with Wilson's score interval (Wilson 1927); NaN everywhere for n = 0."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    p, shrink = successes / n, 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / shrink
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)) / shrink
    return Estimate(p, min(max(0.0, centre - half), p), max(min(1.0, centre + half), p), n)


def bootstrap(n: int, statistic: Callable[[NDArray[np.int64]], float], *, seed: int, resamples: int = 1000) -> Estimate:
    """Percentile bootstrap of `statistic(indices)` over n items (Efron 1979)."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.nanquantile(values, (0.025, 0.975)) if np.isfinite(values).any() else (math.nan, math.nan)
    return Estimate(float(statistic(np.arange(n))), float(low), float(high), n)


def paired_difference(before: ArrayLike, after: ArrayLike, *, seed: int, resamples: int = 2000) -> Estimate:
    """Mean of after - before over the same items, by paired bootstrap; both are scores of shape (n,), aligned item by item."""
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired scores must align item by item, got shapes {first.shape} and {second.shape}")
    change: Floats = second - first
    n = len(change)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    means = [float(change[rng.integers(0, n, n)].mean()) for _ in range(resamples)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(change.mean()), float(low), float(high), n)


def mcnemar_p_value(before_right: ArrayLike, after_right: ArrayLike) -> float:
    """Exact two-sided McNemar test that two classifiers err equally often on the same items (McNemar 1947)."""
    from scipy.stats import binomtest

    before, after = np.asarray(before_right, bool), np.asarray(after_right, bool)
    if before.shape != after.shape:
        raise ValueError(f"paired answers must align item by item, got shapes {before.shape} and {after.shape}")
    only_before, only_after = int((before & ~after).sum()), int((~before & after).sum())
    if only_before + only_after == 0:
        return 1.0
    return float(binomtest(only_before, only_before + only_after, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order, adjusted, running = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def quantile(values: ArrayLike, q: float) -> Estimate:
    """The q-quantile with a distribution-free interval from order statistics (Conover 1999, section 3.2).

    A bound is infinite where n is too small for any observation to be it: the largest of 100 values is no upper limit of their P99,
    which takes 368. An infinite bound makes a gate INCONCLUSIVE; a bound clipped to the largest value would let it pass.
    """
    from scipy.stats import binom

    ordered: Floats = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    if n == 0 or np.isnan(ordered[-1]):  # NaN sorts last
        return Estimate(math.nan, math.nan, math.nan, n)
    value = float(np.quantile(ordered, q))
    low, high = int(binom.ppf(0.025, n, q)) - 1, int(binom.ppf(0.975, n, q))
    ci_low = float(ordered[low]) if low >= 0 else -math.inf
    ci_high = float(ordered[high]) if high < n else math.inf
    return Estimate(value, min(ci_low, value), max(ci_high, value), n)


def expected_calibration_error(confidence: ArrayLike, right: ArrayLike, *, bins: int = 15) -> float:
    """Mean |accuracy - confidence| over equal-width bins, weighted by count (Guo et al. 2017, eq. 3)."""
    conf, hit = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if len(conf) == 0:
        return math.nan
    which = np.minimum((conf * bins).astype(int), bins - 1)
    weight = np.bincount(which, minlength=bins)
    gap = np.abs(np.bincount(which, conf, bins) - np.bincount(which, hit, bins))
    return float(gap.sum() / weight.sum())
