"""How far the messages of a month lie from those of the month before, from the moments of days alone.

How far is a KL divergence in nats. Whether it is chance is asked of it and of the maximum mean discrepancy (Gretton et al. 2012), which
sees small moves along many components better. Days are the blocks that may be exchanged: messages of one day belong together. A p-value
divides the days of both months anew many times; a threshold draws two months from the days of the earlier one. Neither reads a message
again.
"""

import datetime as dt
import itertools
import math

import numpy as np
import pyarrow as pa

from mangaassist_assets.lib.artifacts import digest_of, digest_of_table
from mangaassist_assets.lib.drift.calendar import NO_SEASONS, Calendar
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.moments import Floats, Moments
from mangaassist_assets.lib.statistics import finite_or_none

EMBEDDING_DRIFT = pa.schema(
    [
        ("month", pa.date32()),
        ("n", pa.int64()),
        ("kl_nats", pa.float64()),
        ("histogram_kl_nats", pa.float64()),
        ("p_value", pa.float64()),
        ("threshold_nats", pa.float64()),
        ("alerting", pa.bool_()),
        ("reason", pa.string()),
        ("made_from", pa.string()),
    ]
)
PSEUDO_COUNT = 0.5  # added to each bin: Krichevsky and Trofimov 1981
THRESHOLD_QUANTILE = 0.99
BATCH = 256  # divisions of days that are computed together


def embedding_drift(
    moments: pa.Table, limits: DriftLimits, seed: int, *, calendar: Calendar = NO_SEASONS, earlier: pa.Table | None = None
) -> pa.Table:
    """One row per month, columns EMBEDDING_DRIFT, each against the month before.

    Args:
        moments: columns MOMENTS, one row a day and space.
        limits: `kl_nats`, `significance`, `least_days`, `least_messages`, `permutations`.
        seed: of divisions and resamples.
        calendar: in a season, or in the month after one, messages may differ by as much as it excuses.
        earlier: what this returned before. A month that would be judged on the same moments in the same way keeps its row.

    A month alarms where `kl_nats` exceeds `threshold_nats`, the larger of the agreed limit and the 0.99 quantile of the divergence
    between two months drawn from the days of the reference, and where at most `significance` of the divisions of all days give as much.
    `histogram_kl_nats` adds up the divergences along each component without assuming a Gaussian; it is reported, and alarms nothing.
    """
    kept = {} if earlier is None else {row["made_from"]: row for row in earlier.to_pylist()}
    months = _by_month(moments)
    rows: list[dict[str, object]] = []
    for month, own in months.items():
        reference = months.get(_earlier(month))
        made_from = digest_of([str(month), *(digest_of_table(m) for m in (own, reference) if m), repr(limits), repr(calendar), seed])
        row = kept.get(made_from) or _row(month, own, reference, limits, seed, calendar)
        rows.append(row | {"made_from": made_from})
    return pa.Table.from_pylist(rows, EMBEDDING_DRIFT)


def _row(
    month: dt.date, own: pa.Table, reference: pa.Table | None, limits: DriftLimits, seed: int, calendar: Calendar
) -> dict[str, object]:
    row: dict[str, object] = {"month": month, "n": sum(own["n"].to_pylist()), "alerting": False}
    if reference is None:
        return row | {"reason": "not judged: no month before it"}
    spaces, others = _by_space(own), _by_space(reference)
    shared = [digest for digest in spaces if digest in others]
    if not shared:
        return row | {"reason": "not judged: the drift space is another one since"}
    digest = max(shared, key=lambda d: int(spaces[d].n.sum()))
    now, then = spaces[digest], others[digest]
    row["n"] = int(now.n.sum())
    short = _short(now, then, limits)
    return row | ({"reason": short} if short else _judged(month, now, then, limits, seed, calendar))


def _by_month(moments: pa.Table) -> dict[dt.date, pa.Table]:
    """The rows of each month, in order of months."""
    groups: dict[dt.date, list[int]] = {}
    for row, day in enumerate(moments["day"].to_pylist()):
        groups.setdefault(day.replace(day=1), []).append(row)
    return {month: moments.take(pa.array(rows)) for month, rows in sorted(groups.items())}


def _by_space(month: pa.Table) -> dict[str, Moments]:
    """A month's moments by the digest of their space."""
    rows: dict[str, list[int]] = {}
    for row, digest in enumerate(month["space_digest"].to_pylist()):
        rows.setdefault(digest, []).append(row)
    return {digest: Moments.of(month.take(pa.array(found))) for digest, found in sorted(rows.items())}


def _earlier(month: dt.date) -> dt.date:
    return (month - dt.timedelta(1)).replace(day=1)


def _short(now: Moments, then: Moments, limits: DriftLimits) -> str:
    for name, month in (("it", now), ("the month before", then)):
        if int((month.n > 0).sum()) < limits.least_days:
            return f"not judged: {name} has fewer than {limits.least_days} days"
        if int(month.n.sum()) < limits.least_messages:
            return f"not judged: {name} has fewer than {limits.least_messages} messages"
    return ""


def _judged(month: dt.date, now: Moments, then: Moments, limits: DriftLimits, seed: int, calendar: Calendar) -> dict[str, object]:
    rng = np.random.default_rng([seed, month.toordinal()])
    kl = kl_between(now, then)
    p_value = permutation_p_value(now, then, limits.permutations, rng)
    threshold = max(limits.kl_nats, bootstrap_threshold(then, len(now.n), limits.permutations, rng))
    season = calendar.between(_earlier(month), now.days[-1])
    excused = season is not None and kl <= season.kl_nats
    sure = p_value <= limits.significance
    if kl <= threshold:
        reason = ""
    elif not sure:
        reason = f"{kl:.3g} nats, but days differ as much (p {p_value:.2g})"
    elif excused and season is not None:
        reason = f"{kl:.3g} nats, expected in season: {season.name}"
    else:
        reason = f"{kl:.3g} nats, limit {threshold:.3g}, p {p_value:.2g}"
    return {
        "kl_nats": finite_or_none(kl),
        "histogram_kl_nats": histogram_kl(now, then),
        "p_value": p_value,
        "threshold_nats": threshold,
        "alerting": kl > threshold and sure and not excused,
        "reason": reason,
    }


# ── divergences ─────────────────────────────────────────────────────────────────────────────────────────────────────


def gaussian_kl(mean: Floats, covariance: Floats, other_mean: Floats, other_covariance: Floats) -> Floats:
    """KL(N(mean, covariance) || N(other)) in nats (Kullback 1959, chapter 9), for means (..., d) and covariances (..., d, d)."""
    root, other_root = np.linalg.cholesky(covariance), np.linalg.cholesky(other_covariance)
    whitened = np.linalg.solve(other_root, np.concatenate([root, (mean - other_mean)[..., None]], axis=-1))
    log_determinants = 2 * (np.log(np.diagonal(other_root, axis1=-2, axis2=-1)) - np.log(np.diagonal(root, axis1=-2, axis2=-1))).sum(-1)
    nats: Floats = 0.5 * ((whitened**2).sum((-2, -1)) - mean.shape[-1] + log_determinants)
    return nats


def shrunk_covariance(n: Floats, sums: Floats, outer: Floats) -> tuple[Floats, Floats]:
    """Means (..., d) and covariances (..., d, d) of components that have variance 1 over all days.

    The covariance is that of the messages and d more with the identity: the posterior mean under an inverse Wishart prior (Haff 1980),
    invertible for any n, and for a month's thousands of messages as good as their own.
    """
    d = sums.shape[-1]
    mean = sums / n[..., None]
    covariance = outer / n[..., None, None] - mean[..., :, None] * mean[..., None, :]
    weight = (n / (n + d))[..., None, None]
    return mean, weight * covariance + (1 - weight) * np.eye(d)


def kl_between(now: Moments, then: Moments) -> float:
    """KL divergence in nats of all messages of `now` from all of `then`, both taken as Gaussian."""
    pooled = _Pooled(now, then)
    after = np.arange(len(pooled.n)) < len(now.n)
    return float(pooled.divergences(after[None].astype(np.float64), (~after)[None].astype(np.float64))[0])


def histogram_kl(now: Moments, then: Moments) -> float:
    """Sum over components of the KL divergence of histograms on shared bins, in nats."""
    after, before = (month.histograms.sum(0) + PSEUDO_COUNT for month in (now, then))
    p, q = after / after.sum(1, keepdims=True), before / before.sum(1, keepdims=True)
    return float((p * np.log(p / q)).sum())


class _Pooled:
    """Days of one or two months, on scales that give each component variance 1 over all of them."""

    def __init__(self, *months: Moments) -> None:
        self.n = np.concatenate([m.n for m in months]).astype(np.float64)
        sums, outer = np.concatenate([m.sums for m in months]), np.concatenate([m.outer for m in months])
        total = self.n.sum()
        mean = sums.sum(0) / total
        scale = np.sqrt(np.maximum(np.diagonal(outer.sum(0)) / total - mean**2, 1e-12))
        centred = outer - sums[:, :, None] * mean - mean[:, None] * sums[:, None, :] + self.n[:, None, None] * np.outer(mean, mean)
        self.sums = (sums - self.n[:, None] * mean) / scale
        self.outer = (centred / np.outer(scale, scale)).reshape(len(self.n), -1)

    def divergences(self, after: Floats, before: Floats) -> Floats:
        """KL in nats of days weighted `after` from days weighted `before`, each (P, T) -> (P,)."""
        d = self.sums.shape[1]
        parts = []
        for start in range(0, len(after), BATCH):
            sides: list[Floats] = []
            for weights in (after[start : start + BATCH], before[start : start + BATCH]):
                sides += shrunk_covariance(weights @ self.n, weights @ self.sums, (weights @ self.outer).reshape(-1, d, d))
            parts.append(gaussian_kl(*sides))
        return np.concatenate(parts)


def discrepancy(now: Moments, then: Moments) -> float:
    """Squared maximum mean discrepancy of all messages of `now` and of `then`.

    The kernel is x.y / s^2 over all components of the vectors plus (x.y)^2 / s^4 over the principal ones, centred, with s^2 their mean
    square: the means and second moments of both months give what all pairs of messages would.
    """
    features, n = _features(now, then)
    after = np.arange(len(n)) < len(now.n)
    return float(_discrepancies(features, n, after[None].astype(np.float64))[0])


def _features(*months: Moments) -> tuple[Floats, Floats]:
    """Sums of what the kernel compares by day (T, D + d^2), and messages by day (T,)."""
    n = np.concatenate([m.n for m in months]).astype(np.float64)
    outer = np.concatenate([m.outer for m in months])
    square = np.trace(outer.sum(0)) / n.sum()
    linear = np.concatenate([m.vector_sums for m in months]) / np.sqrt(square)
    return np.concatenate([linear, outer.reshape(len(n), -1) / square], axis=1), n


def _discrepancies(features: Floats, n: Floats, after: Floats) -> Floats:
    """Of days weighted `after` (P, T), each 0 or 1, from all other days -> (P,)."""
    before = 1 - after
    values: Floats = np.empty(len(after))
    for start in range(0, len(after), BATCH):
        rows = slice(start, start + BATCH)
        means = [(side[rows] @ features) / (side[rows] @ n)[:, None] for side in (after, before)]
        values[rows] = ((means[0] - means[1]) ** 2).sum(1)
    return values


def permutation_p_value(now: Moments, then: Moments, permutations: int, rng: np.random.Generator) -> float:
    """Share of divisions of all days into two such months that differ at least as much (Phipson and Smyth 2010).

    Divergence and discrepancy, each on its scale over the divisions, are added up, so that either may show the difference. Every
    division is tried where there are no more than `permutations` of them.
    """
    features, n = _features(now, then)
    total, size = len(n), len(now.n)
    if math.comb(total, size) <= permutations:
        after = np.zeros((math.comb(total, size), total))
        for row, chosen in enumerate(itertools.combinations(range(total), size)):
            after[row, list(chosen)] = 1.0
    else:
        observed = (np.arange(total) < size).astype(np.float64)
        after = np.stack([observed, *(rng.permuted(observed) for _ in range(permutations))])
    values = (_discrepancies(features, n, after), _Pooled(now, then).divergences(after, 1 - after))
    score = sum((found - found.mean()) / max(float(found.std()), 1e-300) for found in values)
    return float((score >= score[0] - 1e-9).mean())  # the first division is the observed one


def bootstrap_threshold(then: Moments, days: int, resamples: int, rng: np.random.Generator) -> float:
    """The 0.99 quantile of the divergence between a month of `days` and one as long as `then`, both drawn from its days, in nats."""
    pooled = _Pooled(then)
    size = len(pooled.n)
    after, before = (rng.multinomial(drawn, np.full(size, 1 / size), size=resamples).astype(np.float64) for drawn in (days, size))
    return float(np.quantile(pooled.divergences(after, before), THRESHOLD_QUANTILE))
