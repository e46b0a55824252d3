"""A release passes on whole intervals of what was measured; whatever is missing, short or NaN never passes."""

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.release.gates import GATES, GateLimits, offline_gates
from mangaassist_assets.lib.statistics import Estimate
from mangaassist_assets.lib.verdicts import Verdict

LABELS = ("faq", "promotion", "chitchat")
FAST, BUSY = Estimate(20.0, 18.0, 25.0, 4000), Estimate(2000.0, 1900.0, 2100.0, 5)
NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


def answers(n=600, *, wrong=0.0, seed=0, worse=(), labels=LABELS):
    """Predictions with `wrong` of the messages, and 20 of each class in `worse`, answered by another label."""
    rng = np.random.default_rng(seed)
    true = np.array([labels[i % len(labels)] for i in range(n)])
    shifted = np.array([labels[(i + 1) % len(labels)] for i in range(n)])
    given = np.where(rng.random(n) < wrong, shifted, true)
    for label in worse:
        these = np.flatnonzero(true == label)[:20]
        given[these] = shifted[these]
    return pa.table(
        {
            "message_id": [f"{i:016x}" for i in range(n)],
            "split": ["golden" if i % 2 else "test" for i in range(n)],
            "intent": true.tolist(),
            "predicted": given.tolist(),
        }
    )


def judged(predictions, champion=None, *, p99=FAST, throughput=BUSY, labels=LABELS, limits=None):
    limits = limits or GateLimits()
    return offline_gates(
        "d" * 64, predictions, labels=labels, champion=champion, latency_ms_p99=p99, throughput_per_s=throughput, limits=limits, seed=1
    )


def verdict_of(gates, metric):
    return next(j.verdict for j in gates.judgements if j.metric == metric)


def test_a_good_release_without_a_champion_needs_only_the_absolute_gates():
    gates = judged(answers())
    assert gates.verdict is Verdict.PASS
    assert [j.metric for j in gates.judgements] == [
        "accuracy",
        "f1:faq",
        "f1:promotion",
        "f1:chitchat",
        "latency_ms_p99",
        "throughput_per_s",
    ]
    assert gates.reason == "all 6 gates pass"


def test_a_release_as_good_as_its_champion_passes_on_enough_messages():
    gates = judged(answers(wrong=0.02), answers(wrong=0.02))
    assert len(gates.judgements) == 9
    assert gates.verdict is Verdict.PASS


def test_a_class_that_fell_by_more_than_two_points_fails_though_all_else_is_well():
    gates = judged(answers(3000, worse=["faq"]), answers(3000), limits=GateLimits(class_f1_drop=0.003))
    assert verdict_of(gates, "f1_drop:faq") is Verdict.FAIL
    assert verdict_of(gates, "accuracy") is Verdict.PASS
    assert gates.verdict is Verdict.FAIL
    assert "f1_drop:faq" in gates.reason


def test_a_fall_within_the_limit_passes_only_if_the_whole_interval_is_within_it():
    assert verdict_of(judged(answers(6000, worse=["faq"]), answers(6000)), "f1_drop:faq") is Verdict.PASS
    assert verdict_of(judged(answers(3000, worse=["faq"]), answers(3000)), "f1_drop:faq") is Verdict.PASS
    assert verdict_of(judged(answers(2000, worse=["faq"]), answers(2000)), "f1_drop:faq") is Verdict.INCONCLUSIVE


def test_too_few_messages_hold_a_release_even_where_every_answer_is_right_and_none_changed():
    gates = judged(answers(90), answers(90))
    assert verdict_of(gates, "f1_drop:faq") is Verdict.INCONCLUSIVE
    assert gates.verdict is Verdict.INCONCLUSIVE


def test_an_accuracy_whose_interval_straddles_the_limit_is_held():
    assert verdict_of(judged(answers(300, wrong=0.09)), "accuracy") is Verdict.INCONCLUSIVE
    assert verdict_of(judged(answers(300, wrong=0.2)), "accuracy") is Verdict.FAIL


def test_a_class_without_a_message_fails_as_not_measured():
    gates = judged(answers(), labels=(*LABELS, "escalation"))
    judgement = next(j for j in gates.judgements if j.metric == "f1:escalation")
    assert (judgement.verdict, judgement.reason) == (Verdict.FAIL, "not measured")
    assert gates.verdict is Verdict.FAIL


def test_a_champion_that_answered_other_messages_leaves_every_class_unmeasured():
    other = answers().set_column(0, "message_id", pa.array([f"x{i}" for i in range(600)]))
    gates = judged(answers(), other)
    assert {verdict_of(gates, f"f1_drop:{label}") for label in LABELS} == {Verdict.FAIL}


def test_messages_are_paired_by_identity_and_not_by_order():
    champion = answers(600, wrong=0.05, seed=3)
    shuffled = champion.take(pa.array(np.random.default_rng(1).permutation(600)))
    assert judged(answers(), champion).judgements == judged(answers(), shuffled).judgements


def test_a_champion_without_the_new_class_does_not_stand_in_its_way():
    champion = answers(labels=("faq", "promotion", "faq"))
    assert verdict_of(judged(answers(), champion), "f1_drop:chitchat") is Verdict.PASS


def test_only_held_out_messages_count():
    train = answers(600, wrong=1.0).set_column(1, "split", pa.array(["train"] * 600))
    gates = judged(pa.concat_tables([answers(), train]))
    assert next(j for j in gates.judgements if j.metric == "accuracy").n == 600


@pytest.mark.parametrize("p99", [None, Estimate(math.nan, 1.0, 2.0, 10), Estimate(20.0, 18.0, 25.0, 0)])
def test_a_latency_that_was_not_measured_fails(p99):
    assert judged(answers(), p99=p99).verdict is Verdict.FAIL


def test_a_p99_of_too_few_requests_holds_and_its_bound_is_null_in_the_table():
    gates = judged(answers(), p99=Estimate(20.0, 18.0, math.inf, 100))
    assert gates.verdict is Verdict.INCONCLUSIVE
    row = next(r for r in gates.table(NOW).to_pylist() if r["metric"] == "latency_ms_p99")
    assert (row["ci_low"], row["ci_high"], row["verdict"]) == (18.0, None, "INCONCLUSIVE")


def test_the_table_has_a_row_per_gate_with_thresholds_owners_and_reasons():
    table = judged(answers(), answers()).table(NOW)
    assert table.schema.equals(GATES)
    rows = {r["metric"]: r for r in table.to_pylist()}
    assert {m.partition(":")[0]: r["threshold"] for m, r in rows.items()} == {
        "accuracy": 0.90,
        "f1": 0.85,
        "f1_drop": 0.02,
        "latency_ms_p99": 50.0,
        "throughput_per_s": 1000.0,
    }
    assert rows["latency_ms_p99"]["owner"] == "engineering" and rows["accuracy"]["owner"] == "data_science"
    assert all(r["measured_at"] == NOW and r["reason"] for r in rows.values())


ESTIMATES = st.one_of(
    st.none(),
    st.builds(Estimate, *[st.floats(allow_nan=True, allow_infinity=True) for _ in range(3)], n=st.integers(0, 10)),
)


@given(
    rows=st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, None])), max_size=30),
    champion=st.one_of(st.none(), st.lists(st.sampled_from([*LABELS, None]), min_size=30, max_size=30)),
    p99=ESTIMATES,
    throughput=ESTIMATES,
)
@settings(max_examples=60, deadline=None)
def test_missing_nan_or_short_evidence_never_passes(rows, champion, p99, throughput):
    n = len(rows)
    ids = pa.array([str(i) for i in range(n)], pa.string())
    table = pa.table(
        {
            "message_id": ids,
            "split": pa.array(["test"] * n, pa.string()),
            "intent": pa.array([t for t, _ in rows], pa.string()),
            "predicted": pa.array([p for _, p in rows], pa.string()),
        }
    )
    earlier = None if champion is None else pa.table({"message_id": ids, "predicted": pa.array(champion[:n], pa.string())})
    gates = judged(table, earlier, p99=p99, throughput=throughput)
    assert gates.verdict is not Verdict.PASS  # it takes eleven messages to show an F1 of 0.85, so thirty cannot show it for three classes
    for judgement in gates.judgements:
        if judgement.verdict is Verdict.PASS:
            assert judgement.observed is not None and judgement.n > 0
            assert not math.isnan(judgement.ci_low) and not math.isnan(judgement.ci_high)
    if p99 is None or not p99.is_measured:
        assert verdict_of(gates, "latency_ms_p99") is Verdict.FAIL
    if throughput is None or not throughput.is_measured:
        assert verdict_of(gates, "throughput_per_s") is Verdict.FAIL


@pytest.mark.parametrize(
    ("name", "value"),
    [("accuracy", 90), ("class_f1", -0.1), ("class_f1_drop", math.nan), ("latency_ms_p99", 0), ("throughput_per_s", math.inf)],
)
def test_a_limit_that_cannot_be_meant_is_refused_by_name(name, value):
    with pytest.raises(BadInput, match=f"gates.{name}"):
        GateLimits(**{name: value})
