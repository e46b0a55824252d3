"""Figures agree with scikit-learn, intervals cover, and what was not measured is null or refused, never zero."""

import math
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.intents import evaluation
from mangaassist_assets.lib.intents.evaluation import evaluate, f1_drop, f1_estimate, macro_f1

SLICES = ["slang", "manga_term", "multi_intent", "typo", "emoji", "japanese_mixed"]


def predictions(n=600, classes=5, *, seed=0, probabilities=True, skill=2.5):
    rng = np.random.default_rng(seed)
    labels = [f"intent_{k:03d}" for k in range(classes)]
    true = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), true] += skill
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = scores.argmax(1)
    two = rng.random(n) < 0.1
    columns = {
        "message_id": [f"{i:016x}" for i in range(n)],
        "split": np.where(rng.random(n) < 0.3, "golden", "test"),
        "intent": [labels[k] for k in true],
        "predicted": [labels[k] for k in given],
        "confidence": scores.max(1),
        "secondary_intent": [labels[k - 1] if t else None for k, t in zip(true, two, strict=True)],
        "predicted_secondary": [labels[k - 1] if r < 0.5 else None for k, r in zip(true, rng.random(n), strict=True)],
        "route": rng.choice(["rules", "student", "classifier"], n),
        "slices": [sorted(rng.choice(SLICES, rng.integers(0, 3), replace=False)) for _ in range(n)],
        "language": rng.choice(["en", "ja", "mixed"], n),
    }
    if probabilities:
        columns["probabilities"] = pa.array(list(scores.astype(np.float32)), pa.list_(pa.float32()))
    return labels, pa.table(columns)


def measured(table, labels, **options):
    return evaluate(table, model_digest="d", labels=labels, seed=1, **{"resamples": 200, **options})


def row(found, **where):
    rows = [r for r in found.metrics.to_pylist() if all(r[k] == v for k, v in where.items())]
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize(
    ("scope", "name", "mask"),
    [
        ("cascade", "all", lambda t: [True] * t.num_rows),
        ("cascade", "split:golden", lambda t: pc.equal(t["split"], "golden").to_pylist()),
        ("cascade", "language:ja", lambda t: pc.equal(t["language"], "ja").to_pylist()),
        ("cascade", "slang", lambda t: ["slang" in s for s in t["slices"].to_pylist()]),
        ("residual", "all", lambda t: pc.equal(t["route"], "classifier").to_pylist()),
        (
            "residual",
            "typo",
            lambda t: [r == "classifier" and "typo" in s for r, s in zip(t["route"].to_pylist(), t["slices"].to_pylist(), strict=True)],
        ),
    ],
)
def test_every_figure_is_scikit_learns(scope, name, mask):
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

    labels, table = predictions()
    found = measured(table, labels)
    part = table.filter(pa.array(mask(table)))
    true, given = part["intent"].to_pylist(), part["predicted"].to_pylist()
    scores = np.array(part["probabilities"].to_pylist())
    precision, recall, f1, support = precision_recall_fscore_support(true, given, labels=labels, zero_division=0)
    whole = row(found, scope=scope, slice=name, intent="all")
    assert whole["n"] == len(true)
    assert whole["accuracy"] == pytest.approx(accuracy_score(true, given))
    assert (whole["precision"], whole["recall"], whole["f1"]) == pytest.approx((precision.mean(), recall.mean(), f1.mean()))
    assert whole["auc_roc"] == pytest.approx(
        roc_auc_score(true, scores / scores.sum(1, keepdims=True), multi_class="ovr", labels=labels), abs=1e-6
    )
    for k, label in enumerate(labels):
        one = row(found, scope=scope, slice=name, intent=label)
        assert (one["n"], one["precision"], one["recall"], one["f1"]) == pytest.approx((support[k], precision[k], recall[k], f1[k]))
        assert one["auc_roc"] == pytest.approx(roc_auc_score(np.array(true) == label, scores[:, k]), abs=1e-6)


def test_confusion_counts_are_scikit_learns():
    from sklearn.metrics import confusion_matrix

    labels, table = predictions(classes=4)
    rows = measured(table, labels).confusion.to_pylist()
    expected = confusion_matrix(table["intent"].to_pylist(), table["predicted"].to_pylist(), labels=labels)
    assert {(r["intent"], r["predicted"]): r["n"] for r in rows} == {
        (labels[i], labels[j]): expected[i, j] for i in range(4) for j in range(4) if expected[i, j]
    }


def test_the_interval_of_all_belongs_to_accuracy_and_that_of_a_class_to_f1():
    labels, table = predictions()
    for r in measured(table, labels).metrics.to_pylist():
        about = r["accuracy"] if r["intent"] == "all" else r["f1"]
        assert r["ci_low"] <= about <= r["ci_high"]
        assert r["f1_ci_low"] <= r["f1"] <= r["f1_ci_high"]


def test_no_interval_is_nan_or_missing_and_no_row_is_empty_even_in_tiny_slices():
    labels, table = predictions(n=25, classes=8)
    metrics = measured(table, labels).metrics
    assert pc.min(metrics["n"]).as_py() > 0
    for name in ("ci_low", "ci_high", "f1_ci_low", "f1_ci_high", "recall", "f1", "accuracy"):
        assert metrics[name].null_count == 0 and not np.isnan(metrics[name].to_numpy()).any()
    for name in ("precision", "auc_roc"):
        assert not np.isnan([x for x in metrics[name].to_pylist() if x is not None]).any()


def test_a_class_never_predicted_has_no_precision_and_an_f1_of_zero():
    _, table = predictions(classes=2)
    table = table.set_column(table.column_names.index("predicted"), "predicted", pa.array(["intent_000"] * table.num_rows))
    one = row(measured(table, ["intent_000", "intent_001"]), scope="cascade", slice="all", intent="intent_001")
    assert (one["precision"], one["recall"], one["f1"]) == (None, 0.0, 0.0)


def test_auc_is_null_where_a_slice_has_only_one_class():
    labels, table = predictions(classes=2)
    only = table.filter(pc.equal(table["intent"], "intent_000"))
    found = measured(only, labels)
    assert row(found, scope="cascade", slice="all", intent="all")["auc_roc"] is None


def test_without_probabilities_auc_rests_on_the_confidence_that_the_service_returns():
    labels, table = predictions(probabilities=False)
    aucs = {
        r["intent"]: r["auc_roc"] for r in measured(table, labels).metrics.to_pylist() if (r["scope"], r["slice"]) == ("cascade", "all")
    }
    assert all(0.5 < a < 1 for a in aucs.values())


def test_messages_without_probabilities_stand_beside_those_with():
    labels, table = predictions(n=300)
    partly = [p if i % 3 else None for i, p in enumerate(table["probabilities"].to_pylist())]
    table = table.set_column(table.column_names.index("probabilities"), "probabilities", pa.array(partly, pa.list_(pa.float32())))
    assert 0.5 < row(measured(table, labels), scope="cascade", slice="all", intent="all")["auc_roc"] < 1


def test_training_and_validation_messages_are_never_measured():
    labels, table = predictions()
    split = pa.array(["train"] * 200 + ["validation"] * 200 + ["test"] * (table.num_rows - 400))
    table = table.set_column(table.column_names.index("split"), "split", split)
    assert row(measured(table, labels), scope="cascade", slice="all", intent="all")["n"] == table.num_rows - 400


def test_a_label_that_only_the_data_knows_is_measured_too():
    labels, table = predictions(classes=3)
    found = measured(table.drop_columns("probabilities"), labels[:2])
    assert row(found, scope="cascade", slice="all", intent="intent_002")["n"] > 0


def test_messages_out_of_scope_have_a_slice_without_them():
    labels, table = predictions(classes=3)
    found = measured(table, labels, out_of_scope_label="intent_002")
    in_scope = row(found, scope="cascade", slice="in_scope", intent="all")
    assert in_scope["n"] == sum(i != "intent_002" for i in table["intent"].to_pylist())


def test_without_routes_there_is_no_residual_scope():
    labels, table = predictions(n=100)
    found = measured(table.drop_columns(["route", "language"]), labels)
    assert set(found.metrics["scope"].to_pylist()) == {"cascade"}
    assert not found.residual.is_measured


def test_the_residual_share_counts_messages_that_reach_the_classifier():
    labels, table = predictions()
    assert measured(table, labels).residual.value == pytest.approx(np.mean([r == "classifier" for r in table["route"].to_pylist()]))


@pytest.mark.parametrize("change", ["empty", "no answer", "no confidence", "nan confidence"])
def test_missing_answers_are_refused(change):
    labels, table = predictions(n=20)
    columns = table.to_pydict()
    if change == "empty":
        columns["split"] = ["train"] * 20
    elif change == "no answer":
        columns["predicted"][3] = None
    else:
        columns["confidence"][3] = math.nan if change == "nan confidence" else None
    with pytest.raises(MissingEvidence):
        measured(pa.table(columns, table.schema), labels)


def test_both_intents_count_in_either_order_and_only_where_there_are_two():
    table = pa.table(
        {
            "intent": ["a", "a", "a", "a"],
            "secondary_intent": ["b", "b", "b", None],
            "predicted": ["a", "b", "a", "c"],
            "predicted_secondary": ["b", "a", None, None],
        }
    )
    assert (evaluation.both_intents(table).value, evaluation.both_intents(table).n) == (pytest.approx(2 / 3), 3)
    assert evaluation.both_intents(table.slice(3)).n == 0


def test_the_same_seed_gives_the_same_tables():
    labels, table = predictions(n=200)
    one, other = measured(table, labels), measured(table, labels)
    assert one.metrics.equals(other.metrics) and one.calibration_error == other.calibration_error


@pytest.mark.parametrize("classes", [10, 150])
def test_three_thousand_predictions_take_seconds(classes):
    labels, table = predictions(n=3000, classes=classes)
    evaluate(table.slice(0, 50), model_digest="d", labels=labels, seed=1, resamples=10)
    start = time.perf_counter()
    evaluate(table, model_digest="d", labels=labels, seed=1)
    assert time.perf_counter() - start < 5


# ── intervals ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_fast_bootstrap_of_macro_f1_agrees_with_resampling_messages_one_by_one():
    from sklearn.metrics import f1_score

    labels, table = predictions(n=300, classes=4)
    true, given = (np.array([labels.index(x) for x in table[c].to_pylist()]) for c in ("intent", "predicted"))
    fast = macro_f1(evaluation.confusion_matrix(true, given, 4), seed=2, resamples=4000)
    rng = np.random.default_rng(3)
    slow = [f1_score(true[i], given[i], average="macro") for i in rng.integers(0, 300, (400, 300))]
    assert fast.value == pytest.approx(f1_score(true, given, average="macro"))
    assert (fast.ci_low, fast.ci_high) == pytest.approx(tuple(np.quantile(slow, (0.025, 0.975))), abs=0.012)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_f1_lies_inside_its_interval_and_is_never_certain(right, wrongly_given, missed):
    estimate = f1_estimate(right, wrongly_given, missed)
    if right + wrongly_given + missed == 0:
        assert not estimate.is_measured
        return
    assert estimate.value == pytest.approx(2 * right / (2 * right + wrongly_given + missed))
    assert 0 <= estimate.ci_low <= estimate.value <= estimate.ci_high <= 1
    assert estimate.ci_low < estimate.ci_high


def test_three_right_of_three_do_not_prove_an_f1_of_85():
    assert f1_estimate(3, 0, 0).ci_low < 0.85


def test_the_f1_interval_covers_about_nineteen_times_in_twenty():
    rng = np.random.default_rng(4)
    n, recall, extra = 80, 0.9, 5.0
    truth = 2 * recall * n / (n + recall * n + extra)
    right, wrong = rng.binomial(n, recall, 1000), rng.poisson(extra, 1000)
    estimates = [f1_estimate(int(r), int(w), n - int(r)) for r, w in zip(right, wrong, strict=True)]
    assert np.mean([e.ci_low <= truth <= e.ci_high for e in estimates]) > 0.93


def test_a_drop_in_f1_is_the_difference_of_the_two_models():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(5)
    truth = rng.random(500) < 0.3
    before, after = np.where(rng.random((2, 500)) < [[0.05], [0.15]], ~truth, truth)
    drop = f1_drop(truth, before, after, seed=1)
    assert drop.value == pytest.approx(f1_score(truth, before) - f1_score(truth, after))
    assert drop.ci_low > 0 and drop.n == truth.sum()


def test_few_messages_cannot_show_that_nothing_got_worse():
    few, many = np.arange(300) < 30, np.arange(2000) < 200
    assert f1_drop(few, few, few, seed=1).ci_high > 0.02
    assert f1_drop(many, many, many, seed=1).ci_high < 0.02
    assert not f1_drop(np.zeros(5, bool), np.zeros(5, bool), np.zeros(5, bool), seed=1).is_measured


def test_a_drop_of_more_than_two_points_seldom_looks_like_less():
    rng = np.random.default_rng(6)
    share = np.array([0, 0, 0, 0, 0.005, 0.005, 0.055, 0.935])  # of the class: right only after, right only before, right in both
    passed = 0
    for trial in range(300):
        cells = np.repeat(np.arange(8), rng.multinomial(400, share))  # F1 falls by 2.6 points
        passed += f1_drop(cells >= 4, cells // 2 % 2 == 1, cells % 2 == 1, seed=trial, draws=500).ci_high <= 0.02
    assert passed / 300 < 0.035


# ── calibration ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_calibration_bins_hold_every_message_once_and_agree_with_the_error():
    rng = np.random.default_rng(7)
    confidence = rng.random(1000)
    right = rng.random(1000) < confidence**2
    table = evaluation.calibration_bins(confidence, right)
    assert sum(table["n"].to_pylist()) == 1000
    gaps = sum(r["n"] * abs(r["accuracy"] - r["mean_confidence"]) for r in table.to_pylist()) / 1000
    estimate = evaluation.calibration_error(confidence, right, seed=1)
    assert estimate.value == pytest.approx(gaps)
    assert estimate.ci_low <= 1 / 6 <= estimate.ci_high  # E|c - c^2| of uniform confidence


def test_a_confidence_of_exactly_one_falls_into_the_last_bin():
    table = evaluation.calibration_bins(np.array([1.0, 0.0]), np.array([True, False]))
    assert table["bin_high"].to_pylist() == pytest.approx([1 / 15, 1.0])
