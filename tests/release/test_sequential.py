"""Confidence sequences hold at every look together, near zero too, and are as narrow as such a promise allows."""

import math

import numpy as np
import pytest

from mangaassist_assets.lib.release.sequential import JEFFREYS, Tally, bounds, change, mixing, quantile, rate
from mangaassist_assets.lib.statistics import Z95, proportion


def looks(p, *, runs=600, n=6000, every=20, seed=1):
    """Sums at every look of each run; looks of shape (n / every,)."""
    draws = np.random.default_rng(seed).random((runs, n)) < p
    return np.arange(every, n + 1, every), draws.cumsum(1)[:, every - 1 :: every]


@pytest.mark.parametrize("p", [0.002, 0.08, 0.7])
@pytest.mark.parametrize("before", [Tally(0, 0), Tally(10_000, 800), Tally(10_000, 7000), Tally(10_000, 0)])
def test_looking_all_the_time_misses_the_truth_in_at_most_a_twentieth_of_runs(p, before):
    n, total = looks(p, runs=300, n=3000)
    low, high = bounds(n, total, mixing(before, 0.02))
    missed = ((low > p) | (high < p)).any(1)
    assert proportion(int(missed.sum()), len(missed)).ci_low <= 0.05


def test_an_ordinary_interval_looked_at_all_the_time_misses_far_more_often():
    n, total = looks(0.3)
    centre = total / n
    half = Z95 * np.sqrt(centre * (1 - centre) / n)
    assert (np.abs(centre - 0.3) > half).any(1).mean() > 0.25
    low, high = bounds(n, total, mixing(Tally(1000, 300), 0.02))
    assert ((low > 0.3) | (high < 0.3)).any(1).mean() < 0.07


def test_two_equal_arms_are_told_apart_in_at_most_a_twentieth_of_runs_though_both_follow_the_time_of_day():
    rng, runs, hours = np.random.default_rng(3), 300, 200
    p = 0.1 + 0.05 * np.sin(np.arange(hours) / 24 * 2 * math.pi)
    old, new = rng.binomial(900, p, (runs, hours)).cumsum(1), rng.binomial(100, p, (runs, hours)).cumsum(1)
    mixed = mixing(Tally(10_000, 1000), 0.02)
    n = np.arange(1, hours + 1)
    low_old, high_old = bounds(900 * n, old, mixed, alpha=0.005)
    low_new, high_new = bounds(100 * n, new, mixed, alpha=0.045)
    apart = ((low_new > high_old) | (high_new < low_old)).any(1)
    assert apart.mean() <= 0.05


def test_values_between_zero_and_one_are_covered_as_well_as_events():
    values = np.random.default_rng(4).beta(0.5, 2.0, (400, 2000)).cumsum(1)[:, 19::20]
    n = np.arange(20, 2001, 20)
    low, high = bounds(n, values, mixing(Tally(100, 20), 0.02))
    assert ((low > 0.2) | (high < 0.2)).any(1).mean() <= 0.05


def test_a_sequence_is_within_twice_the_width_of_an_interval_at_the_size_that_it_is_mixed_for():
    fixed = proportion(800, 10_000)
    found = rate(Tally(10_000, 800), mixing(Tally(50_000, 4000), 0.01))
    assert 1.0 < (found.ci_high - found.ci_low) / (fixed.ci_high - fixed.ci_low) < 1.7
    jeffreys = rate(Tally(10_000, 800))
    assert jeffreys.ci_high - jeffreys.ci_low > found.ci_high - found.ci_low


@pytest.mark.parametrize(("n", "total"), [(0, 0), (1, 0), (1, 1), (50, 0), (50, 50), (10**7, 3)])
def test_bounds_are_ordered_and_lie_in_zero_to_one_at_the_edges(n, total):
    low, high = bounds(n, total)
    assert 0 <= low <= (total / n if n else 0.5) <= high <= 1
    assert (low == 0) == (total == 0) and (high == 1) == (total == n)


def test_never_seen_is_not_impossible():
    assert 0.0005 < rate(Tally(1000, 0), mixing(Tally(100_000, 0), 0.005)).ci_high < 0.005


def test_what_was_not_measured_has_no_interval():
    assert not rate(Tally(0, 0)).is_measured
    assert not change(Tally(10, 1), Tally(0, 0)).is_measured
    assert mixing(Tally(0, 0), 0.01) == JEFFREYS


def test_a_change_counts_the_canarys_units_and_is_the_difference_of_the_rates():
    found = change(Tally(100_000, 8000), Tally(1000, 90))
    assert found.n == 1000 and found.value == pytest.approx(0.01) and found.ci_low < 0.01 < found.ci_high


def test_the_99th_percentile_is_held_at_every_look():
    truth, missed, runs = 8 * math.exp(0.3 * 2.3263478740408408), 0, 120
    for seed in range(runs):
        values = np.random.default_rng(seed).lognormal(math.log(8), 0.3, 4000)
        found = [quantile(values[:n], 0.99) for n in range(200, 4001, 400)]
        missed += any(not f.ci_low <= truth <= f.ci_high for f in found)
    assert proportion(missed, runs).ci_low <= 0.05


def test_few_values_have_no_upper_bound_of_their_99th_percentile():
    assert quantile(np.arange(300.0), 0.99).ci_high == math.inf
    assert quantile(np.arange(3000.0), 0.99).ci_high < 2999
    assert not quantile([], 0.99).is_measured and not quantile([1.0, math.nan], 0.99).is_measured
