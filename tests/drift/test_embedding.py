"""Divergence between months: right against closed forms, quiet where days are alike, loud where messages changed."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift.calendar import Calendar, Season
from mangaassist_assets.lib.drift.embedding import (
    EMBEDDING_DRIFT,
    _Pooled,
    bootstrap_threshold,
    discrepancy,
    embedding_drift,
    gaussian_kl,
    histogram_kl,
    kl_between,
    permutation_p_value,
    shrunk_covariance,
)
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.moments import Moments, day_moments, fit_space

LIMITS = DriftLimits(permutations=199)
START = dt.date(2026, 1, 1)


@pytest.fixture(scope="module")
def space():
    return fit_space(np.random.default_rng(0).normal(size=(3000, 6)).astype(np.float32), 1, dimensions=4, cells=4)


def days_of(space, days, *, seed=1, moved=0.0, from_day=10**9, per_day=300, wobble=0.0, start=START):
    """Days of Gaussian messages; from `from_day` on, a third lies `moved` away; `wobble` moves whole days at random."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(days):
        found = rng.normal(size=(per_day, 6)) + wobble * rng.normal(size=6)
        if number >= from_day:
            found[: per_day // 3, :2] += moved
        rows.append(day_moments(space, found.astype(np.float32), np.ones(per_day), start + dt.timedelta(number)))
    return pa.concat_tables(rows)


def test_the_divergence_of_gaussians_is_that_of_the_closed_form():
    one = gaussian_kl(np.array([1.0]), np.array([[4.0]]), np.array([0.0]), np.array([[1.0]]))
    assert one == pytest.approx(0.5 * (4 + 1 - 1 - np.log(4)))
    rng = np.random.default_rng(1)
    a, b = (np.cov(rng.normal(size=(50, 5)), rowvar=False) for _ in range(2))
    m, k = rng.normal(size=(2, 5))
    slow = 0.5 * (np.trace(np.linalg.inv(b) @ a) + (k - m) @ np.linalg.inv(b) @ (k - m) - 5 + np.log(np.linalg.det(b) / np.linalg.det(a)))
    assert gaussian_kl(m, a, k, b) == pytest.approx(slow)
    assert gaussian_kl(m, a, m, a) == pytest.approx(0, abs=1e-12)


def test_shrinkage_leaves_many_messages_alone_and_makes_few_ones_invertible():
    rng = np.random.default_rng(2)
    many, few = rng.normal(size=(20_000, 6)), rng.normal(size=(3, 6))
    _, covariance = shrunk_covariance(np.array(20_000.0), many.sum(0), many.T @ many)
    assert covariance == pytest.approx(np.cov(many, rowvar=False, ddof=0), abs=1e-3)
    _, small = shrunk_covariance(np.array(3.0), few.sum(0), few.T @ few)
    assert np.linalg.eigvalsh(small).min() > 0.05


def test_divergence_from_days_is_that_of_all_messages_of_both_months(space):
    now, then = Moments.of(days_of(space, 10, seed=1, moved=1.0, from_day=0)), Moments.of(days_of(space, 12, seed=2))
    assert kl_between(now, then) == pytest.approx(_slow_kl(now, then), rel=0.01)


def _slow_kl(now, then):
    """From the sums of each month, one matrix at a time."""
    sides = []
    for month in (now, then):
        n = month.n.sum()
        mean = month.sums.sum(0) / n
        sides.append((mean, month.outer.sum(0) / n - np.outer(mean, mean)))
    (m, a), (k, b) = sides
    return 0.5 * (
        np.trace(np.linalg.inv(b) @ a) + (k - m) @ np.linalg.inv(b) @ (k - m) - len(m) + np.log(np.linalg.det(b) / np.linalg.det(a))
    )


def test_the_discrepancy_from_days_is_that_of_all_pairs_of_messages(space):
    rng = np.random.default_rng(4)
    found = [rng.normal(size=(40, 6)) + move for move in (0.5, 0.0)]
    months = [
        Moments.of(
            pa.concat_tables([day_moments(space, half.astype(np.float32), np.ones(20), START + dt.timedelta(i)) for i, half in parts])
        )
        for parts in (enumerate(np.split(vectors, 2)) for vectors in found)
    ]
    x, y = (vectors - space.mean for vectors in found)
    square = np.mean((np.concatenate([x, y]) @ space.basis) ** 2) * 4

    def kernel(a, b):
        return a @ b.T / square + ((a @ space.basis) @ (b @ space.basis).T) ** 2 / square**2

    slow = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()
    assert discrepancy(*months) == pytest.approx(slow, rel=1e-4)


def test_many_divisions_at_once_are_each_division_alone(space):
    both = Moments.of(days_of(space, 12, moved=1.0, from_day=6))
    pooled = _Pooled(both)
    weights = np.random.default_rng(3).integers(0, 3, size=(300, 12)).astype(float)
    together = pooled.divergences(weights, weights[::-1])
    alone = [pooled.divergences(weights[[i]], weights[::-1][[i]])[0] for i in (0, 7, 299)]
    assert together[[0, 7, 299]] == pytest.approx(alone)


def test_histograms_of_equal_months_do_not_diverge(space):
    now = Moments.of(days_of(space, 10))
    assert histogram_kl(now, now) == 0
    assert histogram_kl(Moments.of(days_of(space, 10, moved=2.0, from_day=0)), now) > 0.05


def test_few_days_are_divided_in_every_way(space):
    now, then = (Moments.of(days_of(space, 4, seed=s, moved=m, from_day=0)) for s, m in ((1, 2.0), (2, 0.0)))
    rng = np.random.default_rng(0)
    assert permutation_p_value(now, then, 199, rng) == pytest.approx(1 / 70)  # of 70 divisions only the observed one


def test_p_values_of_months_without_change_are_uniform(space):
    found = []
    for seed in range(60):
        days = days_of(space, 20, seed=seed, per_day=60, wobble=0.2)
        now, then = Moments.of(days.slice(10)), Moments.of(days.slice(0, 10))
        found.append(permutation_p_value(now, then, 99, np.random.default_rng(seed)))
    assert 0.3 < np.mean(found) < 0.7 and np.mean(np.array(found) <= 0.1) < 0.25


def test_the_threshold_rises_with_the_variation_between_days(space):
    calm, wild = (Moments.of(days_of(space, 20, wobble=w)) for w in (0.0, 0.4))
    thresholds = [bootstrap_threshold(month, 20, 199, np.random.default_rng(0)) for month in (calm, wild)]
    assert thresholds[1] > 3 * thresholds[0]


def test_a_month_of_other_messages_alarms_and_equal_months_do_not(space):
    table = embedding_drift(days_of(space, 90, moved=1.5, from_day=59), LIMITS, 1)
    assert table.schema == EMBEDDING_DRIFT
    january, february, march = table.to_pylist()
    assert january["kl_nats"] is None and "no month before" in january["reason"]
    assert not february["alerting"] and february["kl_nats"] < 0.01
    assert march["alerting"] and march["kl_nats"] > march["threshold_nats"] and march["p_value"] == pytest.approx(1 / 200)


def test_equal_moments_and_seed_give_an_equal_table(space):
    moments = days_of(space, 60)
    assert embedding_drift(moments, LIMITS, 1).equals(embedding_drift(moments, LIMITS, 1))


def test_a_large_difference_that_days_show_anyway_does_not_alarm(space):
    rows = embedding_drift(days_of(space, 59, wobble=1.0, per_day=100), LIMITS, 1).to_pylist()
    assert rows[1]["kl_nats"] > 0.02 and not rows[1]["alerting"]


def test_a_season_excuses_what_it_may_and_no_more(space):
    moments = days_of(space, 59, moved=1.5, from_day=31)
    kl = embedding_drift(moments, LIMITS, 1).to_pylist()[1]["kl_nats"]
    for allowance, alerting in ((2 * kl, False), (kl / 2, True)):
        sale = Season("sale", dt.date(2026, 2, 10), dt.date(2026, 2, 20), 0.1, allowance)
        row = embedding_drift(moments, LIMITS, 1, calendar=Calendar((sale,))).to_pylist()[1]
        assert row["alerting"] is alerting and ("sale" in row["reason"]) is not alerting


def test_months_of_different_spaces_or_with_too_few_days_are_not_judged(space):
    other = fit_space(np.random.default_rng(5).normal(size=(3000, 6)).astype(np.float32), 1, dimensions=4, cells=4)
    changed = pa.concat_tables([days_of(space, 31), days_of(other, 28, start=dt.date(2026, 2, 1))])
    assert "another one" in embedding_drift(changed, LIMITS, 1).to_pylist()[1]["reason"]
    short = embedding_drift(days_of(space, 36), LIMITS, 1).to_pylist()[1]
    assert short["kl_nats"] is None and "fewer than 14 days" in short["reason"]


def test_no_moments_give_an_empty_table(space):
    assert embedding_drift(days_of(space, 1).slice(0, 0), LIMITS, 1).num_rows == 0


def test_a_month_that_rests_on_the_same_days_keeps_its_row_and_any_other_is_judged_anew(space, monkeypatch):
    whole = days_of(space, 118)
    first = embedding_drift(whole.slice(0, 110), LIMITS, 1)
    judged, judge = [], permutation_p_value
    monkeypatch.setattr("mangaassist_assets.lib.drift.embedding.permutation_p_value", lambda *args: judged.append(1) or judge(*args))
    assert embedding_drift(whole, LIMITS, 1, earlier=first).equals(embedding_drift(whole, LIMITS, 1))
    assert len(judged) == 1 + 3  # the month of the new days; and all three for the comparison
    judged.clear()
    embedding_drift(whole, DriftLimits(permutations=99), 1, earlier=first)
    assert len(judged) == 3
    changed = pa.concat_tables([days_of(space, 1, seed=9), whole.slice(1)])  # another first of January
    before = embedding_drift(whole, LIMITS, 1)
    judged.clear()
    embedding_drift(changed, LIMITS, 1, earlier=before)
    assert len(judged) == 1  # February, which is held against January
