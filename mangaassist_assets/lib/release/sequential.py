"""Confidence sequences: intervals that may be looked at after every session, for ever, and still hold.

An ordinary 95% interval holds at one moment that was fixed beforehand. Looked at daily until it says what one hopes for, it errs far
more often. A confidence sequence contains the true value at all moments together with the stated probability (Robbins 1970;
Howard, Ramdas, McAuliffe and Sekhon 2021), so that a canary may be stopped as soon as it decides.

The one used here is Robbins' beta-binomial mixture. For values x in [0, 1] whose mean is p, the product over all values of
(q/p)^x ((1-q)/(1-p))^(1-x) is a non-negative supermartingale from 1 for every q: by convexity each factor is at most
x q/p + (1-x) (1-q)/(1-p), whose mean is 1. So is its mixture over q ~ Beta(a, b),

    M(p) = B(a + s, b + n - s) / (B(a, b) p^s (1-p)^(n-s)),     n values with sum s,

and by Ville's inequality M(p) ever exceeds 1/alpha with probability at most alpha. The sequence is all p where it does not. It is exact
at every n, also for rates near 0 where a normal approximation is not, and depends on the values through n and s alone. The mixing
distribution must be chosen before the values are seen; a bad choice makes the sequence wider, never wrong.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mangaassist_assets.lib.statistics import Estimate, Floats

ALPHA = 0.05
CANARYS_PART = 0.9  # of ALPHA: the champion's arm is so much larger that its interval is narrow at any part
HALVINGS = 45  # of the unit interval: beyond 1e-13


class Mixing(NamedTuple):
    """The mixing distribution Beta(a, b)."""

    a: float
    b: float


JEFFREYS = Mixing(0.5, 0.5)  # where nothing is known beforehand


class Tally(NamedTuple):
    """Values in [0, 1] of independent units: how many, and their sum."""

    n: int
    total: float

    @property
    def rate(self) -> float:
        return self.total / self.n if self.n else math.nan


def mixing(before: Tally, effect: float) -> Mixing:
    """A mixing distribution around the rate `before` the test began, as wide as the effect that the test is after.

    Its standard deviation is `effect`, which makes the sequence narrowest about when it can first tell such an effect from none.
    Nothing before gives JEFFREYS.
    """
    if before.n == 0:
        return JEFFREYS
    rate = min(max(before.rate, effect / 10), 1 - effect / 10)  # a rate never seen is still possible
    weight = max(rate * (1 - rate) / effect**2 - 1, 1.0)
    return Mixing(rate * weight, (1 - rate) * weight)


def bounds(n: ArrayLike, total: ArrayLike, mixed: Mixing = JEFFREYS, *, alpha: float = ALPHA) -> tuple[Floats, Floats]:
    """The confidence sequence at n values with sum `total`, arrays of one shape: all p with M(p) <= 1/alpha; [0, 1] for n = 0."""
    count, sums = np.broadcast_arrays(np.asarray(n, np.float64), np.asarray(total, np.float64))
    centre = np.divide(sums, count, out=np.full(count.shape, 0.5), where=count > 0)
    floor = _log_mixture(count, sums, mixed) - math.log(1 / alpha)

    def edge(outside: float) -> Floats:
        inner, outer = centre.copy(), np.full(count.shape, outside)
        for _ in range(HALVINGS):
            middle = (inner + outer) / 2
            accepted = _log_likelihood(count, sums, middle) >= floor
            inner, outer = np.where(accepted, middle, inner), np.where(accepted, outer, middle)
        return np.where(_log_likelihood(count, sums, np.full(count.shape, outside)) >= floor, outside, outer)

    return edge(0.0), edge(1.0)


def rate(tally: Tally, mixed: Mixing = JEFFREYS, *, alpha: float = ALPHA) -> Estimate:
    """A rate with its confidence sequence; not measured for n = 0."""
    if tally.n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    low, high = bounds(tally.n, tally.total, mixed, alpha=alpha)
    return Estimate(tally.rate, float(low), float(high), tally.n)


def change(champion: Tally, canary: Tally, mixed: Mixing = JEFFREYS, *, alpha: float = ALPHA) -> Estimate:
    """The canary's rate less that of the champion, which answers at the same time; n counts the canary's units.

    Each arm has its own sequence, and both hold together with probability 1 - alpha (Bonferroni). Whatever moves both arms alike, such
    as the time of day, cancels out of the difference, as a hash keeps their shares of traffic constant.
    """
    if min(champion.n, canary.n) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    base = rate(champion, mixed, alpha=alpha * (1 - CANARYS_PART))
    new = rate(canary, mixed, alpha=alpha * CANARYS_PART)
    return Estimate(new.value - base.value, new.ci_low - base.ci_high, new.ci_high - base.ci_low, canary.n)


def quantile(values: ArrayLike, q: float, *, alpha: float = ALPHA) -> Estimate:
    """The q-quantile with a distribution-free confidence sequence from order statistics (Howard and Ramdas 2022, section 3).

    The share of values above the true quantile is 1 - q; the order statistics with which that share lies in its sequence bound it. A bound
    is infinite while there are too few values for any of them to be it.
    """
    ordered: Floats = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    if n == 0 or np.isnan(ordered[-1]):
        return Estimate(math.nan, math.nan, math.nan, n)
    share = 1 - q
    above = np.arange(min(n, int(5 * n * share) + 1000) + 1, dtype=np.float64)
    mixed = Mixing(4 * q, 4 * q * q / share)  # about 1 - q, as wide as half of it
    evidence = _log_mixture(np.full(above.shape, float(n)), above, mixed) - _log_likelihood(
        np.full(above.shape, float(n)), above, np.full(above.shape, share)
    )
    plausible = np.flatnonzero(evidence <= math.log(1 / alpha))
    fewest, most = int(plausible[0]), int(plausible[-1])
    ci_high = float(ordered[n - fewest]) if fewest > 0 else math.inf
    ci_low = float(ordered[n - most - 1]) if most < n else -math.inf
    value = float(np.quantile(ordered, q))
    return Estimate(value, min(ci_low, value), max(ci_high, value), n)


def _log_mixture(n: Floats, total: Floats, mixed: Mixing) -> Floats:
    from scipy.special import betaln

    found: Floats = betaln(mixed.a + total, mixed.b + n - total) - betaln(mixed.a, mixed.b)
    return found


def _log_likelihood(n: Floats, total: Floats, p: Floats) -> Floats:
    from scipy.special import xlog1py, xlogy

    found: Floats = xlogy(total, p) + xlog1py(n - total, -p)
    return found
