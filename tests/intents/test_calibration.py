"""Probabilities mean what they say, second intents are claimed where that pays, and false alarms stay within their share."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.intents.calibration import LEAST_POSITIVES, Presence, fit_out_of_scope_shift, fit_presence, fit_scales, fused
from mangaassist_assets.lib.intents.prediction import sigmoid, softmax


def drawn(n, k, rng, sharpness=2.0):
    """Logits, and classes drawn from exactly the probabilities those logits stand for."""
    logits = (sharpness * rng.normal(size=(n, k))).astype(np.float32)
    return logits, (softmax(logits).cumsum(1) > rng.random((n, 1))).argmax(1)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0, 8.0])
def test_a_known_temperature_is_recovered(temperature):
    logits, primary = drawn(6000, 5, np.random.default_rng(0))
    (scale,) = fit_scales([logits * temperature], primary)
    assert scale * temperature == pytest.approx(1, rel=0.06)


def test_two_experts_recover_the_weights_they_were_mixed_with():
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(20000, 4)).astype(np.float32) for _ in range(2))
    primary = (softmax(1.5 * a + 0.7 * b).cumsum(1) > rng.random((20000, 1))).argmax(1)
    assert fit_scales([a, b], primary) == pytest.approx([1.5, 0.7], rel=0.08)


def test_an_expert_that_knows_nothing_gets_next_to_no_weight():
    rng = np.random.default_rng(2)
    logits, primary = drawn(4000, 4, rng)
    useful, useless = fit_scales([logits, rng.normal(size=(4000, 4)).astype(np.float32)], primary)
    assert useful == pytest.approx(1, rel=0.1)
    assert useless < 0.1


def test_scales_stay_finite_on_perfectly_separated_messages():
    primary = np.arange(30) % 3
    (scale,) = fit_scales([np.eye(3, dtype=np.float32)[primary]], primary)
    assert 0 < scale < 100


def test_calibrated_confidence_is_the_share_that_is_right():
    logits, primary = drawn(8000, 5, np.random.default_rng(3))
    (scale,) = fit_scales([4 * logits], primary)
    found = fused([4 * logits], [scale])
    right = found.argmax(1) == primary
    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 0.95)):
        inside = (found.max(1) >= low) & (found.max(1) < high)
        assert right[inside].mean() == pytest.approx(found.max(1)[inside].mean(), abs=0.04)


@given(st.lists(st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3), min_size=1, max_size=5), st.floats(0, 50))
def test_fused_rows_sum_to_one_and_leave_the_experts_alone(rows, scale):
    logits = np.array(rows, np.float32)
    before = logits.copy()
    np.testing.assert_allclose(fused([logits, logits], [scale, 1.0], 0, 2.5).sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(logits, before)


def second_intents(rng, n=3000, k=4, share=0.3):
    """Presence logits that show the second intent clearly but for noise."""
    first = rng.integers(0, k, n)
    second = np.where(rng.random(n) < share, (first + rng.integers(1, k, n)) % k, -1)
    logits = rng.normal(-3, 1.5, (n, k)).astype(np.float32)
    logits[np.arange(n), first] += 6
    rows = np.flatnonzero(second >= 0)
    logits[rows, second[rows]] += 4
    return logits, np.eye(k, dtype=np.float32)[first] * 0.9 + 0.025, first, second


def f1(found, second):
    return 2 * ((found == second) & (second >= 0)).sum() / ((found >= 0).sum() + (second >= 0).sum())


def test_presence_thresholds_find_second_intents_nearly_as_well_as_any_would():
    logits, primary, first, second = second_intents(np.random.default_rng(4))
    presence = fit_presence(logits, primary, second)
    probabilities = presence.probabilities(logits)
    found = f1(presence.second(probabilities, first), second)
    best = max(f1(Presence(1, 0, (t,) * 4).second(probabilities, first), second) for t in np.linspace(0.05, 0.95, 91))
    assert found > 0.7
    assert found >= best - 0.01
    assert all(0.1 <= t <= 0.9 for t in presence.thresholds)


def test_presence_probabilities_are_calibrated():
    logits, primary, first, second = second_intents(np.random.default_rng(5), n=8000)
    probabilities = fit_presence(logits, primary, second).probabilities(logits)
    others = np.arange(4)[None] != first[:, None]
    truth = second[:, None] == np.arange(4)[None]
    for low, high in ((0.1, 0.3), (0.3, 0.6), (0.6, 0.9)):
        inside = others & (probabilities >= low) & (probabilities < high)
        assert truth[inside].mean() == pytest.approx(probabilities[inside].mean(), abs=0.06)


def test_a_label_with_few_second_intents_takes_the_pooled_threshold():
    logits, primary, first, second = second_intents(np.random.default_rng(6))
    rare = np.flatnonzero(second == 0)[LEAST_POSITIVES - 1 :]
    keep = np.setdiff1d(np.arange(len(second)), rare)
    thresholds = fit_presence(logits[keep], primary[keep], second[keep]).thresholds
    all_rare = fit_presence(logits[:60], primary[:60], second[:60]).thresholds
    assert len(set(all_rare)) == 1
    assert len(set(thresholds)) > 1


def test_without_second_intents_on_validation_none_is_ever_claimed():
    logits, primary, first, _ = second_intents(np.random.default_rng(7), n=200)
    presence = fit_presence(logits, primary, np.full(200, -1))
    certain = np.full_like(logits, 80)
    assert (presence.second(presence.probabilities(certain), first) == -1).all()


def test_the_first_intent_is_never_its_own_second():
    presence = Presence(1.0, 0.0, (0.5, 0.5, 0.5))
    found = presence.second(np.array([[0.9, 0.2, 0.1], [0.9, 0.6, 0.7], [0.9, 0.5, 0.4]], np.float32), np.array([0, 0, 0]))
    assert found.tolist() == [-1, 2, 1]


def test_each_label_has_its_own_threshold():
    presence = Presence(1.0, 0.0, (0.5, 0.9, 0.3))
    assert presence.second(np.array([[0.9, 0.8, 0.4]], np.float32), np.array([0])).tolist() == [2]


def test_presence_survives_json():
    presence = Presence(1.25, -0.5, (0.3, 1.01))
    assert Presence.from_json(presence.to_json()) == presence


@settings(deadline=None)
@given(seed=st.integers(0, 500), n=st.integers(1, 400), share=st.sampled_from([0.0, 0.005, 0.03, 0.2]), column=st.integers(0, 3))
def test_the_shift_keeps_false_alarms_within_the_stated_share(seed, n, share, column):
    rng = np.random.default_rng(seed)
    logits, primary = drawn(n, 4, rng)
    shift = fit_out_of_scope_shift(logits, primary, column, share)
    inside = primary != column
    alarms = (fused([logits], [1.0], column, shift).argmax(1) == column) & inside
    assert alarms.sum() <= share * max(1, inside.sum())


def test_the_shift_uses_the_share_that_it_is_given():
    rng = np.random.default_rng(8)
    logits, primary = drawn(5000, 4, rng)
    inside = primary != 2
    for share in (0.01, 0.1):
        shift = fit_out_of_scope_shift(logits, primary, 2, share)
        alarms = (fused([logits], [1.0], 2, shift).argmax(1) == 2) & inside
        assert alarms.sum() / inside.sum() == pytest.approx(share, abs=0.001)


def test_without_a_message_in_scope_nothing_is_shifted():
    assert fit_out_of_scope_shift(np.zeros((3, 2), np.float32), np.array([1, 1, 1]), 1, 0.01) == 0


@given(st.floats(-1e4, 1e4, width=32))
def test_sigmoid_does_not_overflow(value):
    assert 0 <= sigmoid(np.array([value], np.float32))[0] <= 1
