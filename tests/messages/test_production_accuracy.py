"""Accuracy in production, estimated from what was drawn at random."""

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.messages.production_accuracy import PRODUCTION_ACCURACY, production_accuracy, weighted_share
from mangaassist_assets.lib.messages.queue_state import QUEUE
from mangaassist_assets.lib.messages.sampling import SAMPLE
from mangaassist_assets.lib.statistics import proportion

WEEK = dt.date(2026, 11, 16)


def drawn(n, *, week=WEEK, model="m1", stratum="control", first=0):
    return [
        {"week": week, "request_id": f"r{i}", "message_id": f"t{i}", "text": f"text {i}", "language": "en", "intent": "faq"}
        | {"confidence": 0.9, "model_digest": model, "stratum": stratum, "inclusion_probability": 0.1, "cluster": None, "represents": 1}
        for i in range(first, first + n)
    ]


def labelled(n, *, wrong=0, state="labelled", first=0):
    empty = dict.fromkeys(QUEUE.names)
    return [
        empty | {"message_id": f"t{i}", "state": state, "intent": "promotion" if i < first + wrong else "faq"}
        for i in range(first, first + n)
    ]


def measure(sample, queue):
    return production_accuracy(pa.Table.from_pylist(sample, SAMPLE), pa.Table.from_pylist(queue, QUEUE)).to_pylist()


def test_equal_odds_give_the_plain_share_with_wilsons_interval():
    right = [True] * 91 + [False] * 9
    found, plain = weighted_share(right, [0.02] * 100), proportion(91, 100)
    assert (found.value, found.ci_low, found.ci_high, found.n) == pytest.approx((plain.value, plain.ci_low, plain.ci_high, plain.n))


def test_unequal_odds_are_undone_and_the_interval_covers_the_truth():
    rng = np.random.default_rng(1)
    hard = rng.uniform(size=5_000) < 0.3
    right = np.where(hard, rng.uniform(size=5_000) < 0.6, rng.uniform(size=5_000) < 0.97)
    probability = np.where(hard, 0.08, 0.02)  # the hard ones are drawn four times as often
    naive, values, covered = [], [], 0
    for _ in range(400):
        taken = rng.uniform(size=5_000) < probability
        found = weighted_share(right[taken], probability[taken])
        values.append(found.value)
        naive.append(right[taken].mean())
        covered += found.ci_low <= right.mean() <= found.ci_high
    assert abs(np.mean(values) - right.mean()) < 0.005 < 0.05 < abs(np.mean(naive) - right.mean())
    assert 0.93 <= covered / 400


def test_nothing_labelled_is_not_measured_and_never_zero():
    assert not weighted_share([], []).is_measured and math.isnan(weighted_share([], []).value)
    assert measure(drawn(5), labelled(5, state="conflict")) == []
    assert measure([], []) == []


def test_an_item_without_known_odds_is_refused():
    with pytest.raises(ValueError, match="inclusion probability"):
        weighted_share([True], [0.0])


def test_a_row_for_each_week_and_model_from_the_control_slice_alone():
    sample = drawn(100) + drawn(20, model="m2", first=100) + drawn(50, week=dt.date(2026, 11, 23), first=200)
    sample += drawn(80, stratum="uncertain", first=400)
    queue = labelled(100, wrong=10) + labelled(10, first=100) + labelled(50, wrong=5, first=200, state="adjudicated")
    queue += labelled(80, wrong=80, first=400)
    rows = measure(sample, queue)
    assert [(r["week"].day, r["model_digest"], r["n"], round(r["accuracy"], 3)) for r in rows] == [
        (16, "m1", 100, 0.9),
        (16, "m2", 10, 1.0),
        (23, "m1", 50, 0.9),
    ]
    assert rows[0]["expected_calibration_error"] == pytest.approx(0.0, abs=1e-6)
    assert list(rows[0]) == PRODUCTION_ACCURACY.names
    assert rows[1]["ci_low"] < 0.75 and rows[1]["ci_high"] == 1.0  # ten right answers prove little


def test_a_text_that_was_asked_twice_counts_twice_by_one_label():
    twice = drawn(2)
    twice[1]["message_id"] = "t0"
    assert measure(twice, labelled(1))[0]["n"] == 2
