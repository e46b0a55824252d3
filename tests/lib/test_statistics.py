"""Intervals cover what they say, fail closed where nothing was measured, and agree with the reference implementations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mangaassist_assets.lib import statistics


@given(n=st.integers(1, 5000), share=st.floats(0, 1))
def test_a_proportion_lies_inside_its_interval_and_inside_zero_and_one(n, share):
    estimate = statistics.proportion(round(share * n), n)
    assert 0 <= estimate.ci_low <= estimate.value <= estimate.ci_high <= 1


def test_the_wilson_interval_is_scipys():
    from scipy.stats import binomtest

    expected = binomtest(37, 50).proportion_ci(method="wilson")
    estimate = statistics.proportion(37, 50)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_proportion_of_nothing_is_not_measured():
    assert not statistics.proportion(0, 0).is_measured


def test_three_right_answers_of_three_do_not_prove_ninety_percent():
    assert statistics.proportion(3, 3).ci_low < 0.9


def test_a_paired_difference_of_misaligned_scores_is_refused_instead_of_broadcast():
    with pytest.raises(ValueError, match="align"):
        statistics.paired_difference([1.0], [0.0, 1.0, 1.0], seed=1)
    with pytest.raises(ValueError, match="align"):
        statistics.mcnemar_p_value([True], [False, True])


def test_a_paired_difference_covers_the_truth_about_nineteen_times_in_twenty():
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        before = rng.random(150) < 0.8
        after = np.where(rng.random(150) < 0.1, ~before, before)  # expectation of after - before: 0.1 * (1 - 2 * 0.8) = -0.06
        estimate = statistics.paired_difference(before, after, seed=trial, resamples=400)
        covered += estimate.ci_low <= -0.06 <= estimate.ci_high
    assert 178 <= covered <= 200


def test_the_same_seed_gives_the_same_interval():
    scores = np.random.default_rng(1).random((2, 90))
    assert statistics.paired_difference(*scores, seed=3) == statistics.paired_difference(*scores, seed=3)
    assert statistics.paired_difference(*scores, seed=3) != statistics.paired_difference(*scores, seed=4)


def test_a_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(2).normal(5, 2, 400)
    estimate = statistics.bootstrap(400, lambda rows: float(values[rows].mean()), seed=5)
    half = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


def test_a_mean_of_repeats_has_students_interval():
    from scipy import stats

    values = [9.0, 11.0, 10.0, 12.5]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    estimate = statistics.mean(values)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx(expected)
    assert statistics.mean([5.0]) == statistics.Estimate(5.0, -math.inf, math.inf, 1)
    assert not statistics.mean([]).is_measured


def test_a_table_stores_null_for_what_is_not_finite():
    assert [statistics.finite_or_none(x) for x in (1.5, math.inf, -math.inf, math.nan)] == [1.5, None, None, None]


def test_two_classifiers_that_never_disagree_have_a_mcnemar_p_value_of_one():
    assert statistics.mcnemar_p_value([True, False], [True, False]) == 1.0


def test_mcnemar_is_the_exact_binomial_test_on_discordant_pairs():
    before = [True] * 9 + [False] * 2 + [True] * 30
    after = [False] * 9 + [True] * 2 + [True] * 30
    assert statistics.mcnemar_p_value(before, after) == pytest.approx(0.0654296875)  # 2 * P(Bin(11, 1/2) <= 2)


def test_holm_multiplies_stepwise_and_never_lets_a_larger_p_value_pass_below_a_smaller():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_order_and_only_raises(p_values):
    adjusted = statistics.holm(p_values)
    assert all(raw <= new <= 1 for raw, new in zip(p_values, adjusted, strict=True))
    by_raw = [new for _, new in sorted(zip(p_values, adjusted, strict=True))]
    assert by_raw == sorted(by_raw)


def test_a_p99_of_a_hundred_values_has_no_upper_bound_and_of_four_hundred_has_one():
    assert statistics.quantile(np.arange(100), 0.99).ci_high == math.inf
    assert statistics.quantile(np.arange(367), 0.99).ci_high == math.inf
    assert statistics.quantile(np.arange(368), 0.99).ci_high == 367.0
    assert statistics.quantile(np.arange(3), 0.5).ci_low == -math.inf


def test_a_quantile_of_values_with_a_nan_is_not_measured():
    assert not statistics.quantile([1.0, math.nan, 2.0], 0.5).is_measured
    assert not statistics.quantile([], 0.5).is_measured


def test_a_quantile_interval_covers_the_truth_about_nineteen_times_in_twenty():
    rng = np.random.default_rng(3)
    truth = -math.log(0.01)
    estimates = [statistics.quantile(rng.exponential(size=600), 0.99) for _ in range(300)]
    assert sum(e.ci_low <= truth <= e.ci_high for e in estimates) >= 279


def test_calibration_error_is_the_gap_where_all_confidences_are_alike():
    assert statistics.expected_calibration_error([0.9] * 10, [True] * 7 + [False] * 3) == pytest.approx(0.2)
    assert math.isnan(statistics.expected_calibration_error([], []))
