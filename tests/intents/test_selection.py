"""Hard limits first, then dollars per point; every candidate that was not chosen has its reason."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import BadInput, MissingEvidence
from mangaassist_assets.lib.intents.benchmark import MODEL_BENCHMARK
from mangaassist_assets.lib.intents.selection import MODEL_SELECTION, SelectionRules, select

N = 10_000


def answers(accuracy, *, n=N, noise=0.0, seed=0):
    """Answers of which the first `accuracy` are right, so that a better candidate is right wherever a worse one is, but for noise."""
    right = np.arange(n) < round(accuracy * n)
    flipped = right ^ (np.random.default_rng(seed).random(n) < noise)
    return pa.table(
        {"message_id": [str(i) for i in range(n)], "intent": ["faq"] * n, "predicted": np.where(flipped, "faq", "chitchat").tolist()}
    )


def choose(*candidates, rules=None, given=None):
    """From tuples of name, accuracy, P99 in ms and US dollars per million; a name with a reason alone was skipped."""
    rows = [
        {"candidate": c[0], "status": "measured", "accuracy": c[1], "latency_ms_p99": c[2], "usd_per_million": c[3]}
        if len(c) == 4
        else {"candidate": c[0], "status": "skipped", "reason": c[1]}
        for c in candidates
    ]
    given = given or {c[0]: answers(c[1]) for c in candidates if len(c) == 4 and c[1] is not None and math.isfinite(c[1])}
    return select(pa.Table.from_pylist(rows, MODEL_BENCHMARK), given, rules or SelectionRules(), seed=1)


def row(selection, name):
    return next(r for r in selection.table.to_pylist() if r["candidate"] == name)


# The table of the source document; per million: 468 US dollars a day between the two instances at 500,000 messages a day.
SOURCE = (
    ("bert_base", 0.942, 90.0, 1472.0),
    ("distilbert", 0.921, 50.0, 1472.0),
    ("roberta_base", 0.948, 110.0, 2408.0),
    ("tinybert", 0.895, 25.0, 680.0),
    ("rules", 0.780, 2.0, 0.0),
)


def test_the_source_documents_table_leads_to_its_decision():
    selection = choose(*SOURCE)
    assert selection.chosen == "distilbert"
    assert row(selection, "roberta_base")["reason"] == "P99 110 ms > 50 ms"
    assert row(selection, "bert_base")["reason"] == "P99 90 ms > 50 ms"
    assert row(selection, "tinybert")["reason"] == "accuracy 89.5% is below the accuracy floor of 90.0%"
    assert row(selection, "rules")["reason"] == "accuracy 78.0% is below the accuracy floor of 90.0%"


def test_without_the_latency_limit_its_price_per_point_still_rejects_roberta():
    selection = choose(SOURCE[1], SOURCE[2], rules=SelectionRules(latency_ms_p99=500))
    assert selection.chosen == "distilbert"
    assert row(selection, "roberta_base")["usd_per_marginal_accuracy_point"] == pytest.approx(468 * 30 / 2.7, rel=1e-6)
    assert row(selection, "roberta_base")["reason"].startswith("$5,200 a month per point over distilbert >= $3,000: +2.7 points [")


def test_a_better_candidate_that_is_worth_its_price_is_chosen_and_both_rows_say_why():
    selection = choose(("linear", 0.91, 2.0, 0.1), ("minilm", 0.95, 20.0, 2.0))
    assert selection.chosen == "minilm"
    assert selection.reason == row(selection, "minilm")["reason"]
    assert "over linear at $7.12 a month per point < $3,000" in selection.reason
    assert row(selection, "linear")["reason"].startswith("minilm is worth its price: +4.0 points [+3.6, +4.4]")
    assert row(selection, "minilm")["compared_with"] == "linear"
    assert row(selection, "minilm")["accuracy_gain"] == pytest.approx(0.04)
    assert row(selection, "minilm")["usd_per_month"] == pytest.approx(30.0)


def test_candidates_that_tie_within_the_paired_interval_leave_the_cheaper_one():
    given = {"linear": answers(0.93, n=1000), "minilm": answers(0.931, n=1000)}
    selection = choose(("linear", 0.93, 2.0, 0.1), ("minilm", 0.931, 20.0, 2.0), given=given)
    assert selection.chosen == "linear"
    assert "cheaper" in row(selection, "minilm")["reason"]
    assert "ties with linear within the paired interval" in row(selection, "minilm")["reason"]


def test_a_dominated_candidate_names_the_one_that_dominates_it():
    selection = choose(("linear", 0.93, 2.0, 0.1), ("student", 0.92, 3.0, 0.2))
    assert row(selection, "student")["dominated_by"] == "linear"
    assert row(selection, "student")["reason"].startswith("dominated by linear")
    assert row(selection, "linear")["reason"] == "the only eligible candidate that none dominates"


def test_a_dearer_candidate_that_is_only_faster_is_not_bought():
    selection = choose(("minilm", 0.93, 20.0, 0.1), ("student", 0.92, 3.0, 0.2))
    assert selection.chosen == "minilm"
    assert row(selection, "student")["reason"].startswith("no more accurate than minilm, which is cheaper")
    assert row(selection, "student")["usd_per_marginal_accuracy_point"] is None


def test_each_candidate_is_compared_with_the_best_cheaper_one_and_not_with_one_that_lost():
    given = {"a": answers(0.92), "b": answers(0.92, noise=0.001, seed=3), "c": answers(0.96)}
    selection = choose(("a", 0.92, 9.0, 1.0), ("b", 0.9201, 8.0, 2.0), ("c", 0.96, 7.0, 3.0), given=given)
    assert row(selection, "b")["compared_with"] == "a"
    assert row(selection, "c")["compared_with"] == "a"
    assert selection.chosen == "c"


def test_skipped_candidates_keep_their_reason():
    selection = choose(("linear", 0.93, 2.0, 0.1), ("bert_base", "weights cannot be had: no network"))
    assert row(selection, "bert_base") == {
        "candidate": "bert_base",
        "chosen": False,
        "reason": "skipped: weights cannot be had: no network",
        "eligible": False,
        **dict.fromkeys([n for n in MODEL_SELECTION.names if n not in ("candidate", "chosen", "reason", "eligible")]),
    }


def test_two_broken_limits_are_both_named():
    assert row(choose(("slow", 0.5, 80.0, 1.0)), "slow")["reason"] == (
        "accuracy 50.0% is below the accuracy floor of 90.0%; P99 80 ms > 50 ms"
    )


def test_nobody_eligible_is_an_outcome_with_its_reasons():
    selection = choose(("slow", 0.95, 80.0, 1.0), ("bert_base", "no weights"))
    assert selection.chosen is None
    assert selection.reason == "no candidate is eligible: slow: P99 80 ms > 50 ms; bert_base: skipped: no weights"
    assert not any(selection.table["chosen"].to_pylist())


def test_an_empty_benchmark_chooses_nobody():
    selection = choose()
    assert (selection.chosen, selection.reason, selection.table.num_rows) == (None, "no candidate is eligible: there is none", 0)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
@pytest.mark.parametrize(("place", "reason"), [(1, "accuracy was not measured"), (2, "P99 was not measured"), (3, "its cost is not known")])
def test_a_figure_that_was_not_measured_rejects_and_neither_wins_nor_dominates(place, reason, missing):
    figures = ["broken", 0.99, 1.0, 0.01]
    figures[place] = missing
    selection = choose(tuple(figures), ("linear", 0.93, 2.0, 0.1))
    assert selection.chosen == "linear"
    assert row(selection, "broken")["reason"] == reason
    assert row(selection, "linear")["dominated_by"] is None


def test_candidates_that_answered_different_messages_cannot_be_compared():
    given = {"a": answers(0.92), "b": pa.table({"message_id": ["x"], "intent": ["faq"], "predicted": ["faq"]})}
    with pytest.raises(MissingEvidence):
        choose(("a", 0.92, 9.0, 1.0), ("b", 0.95, 8.0, 2.0), given=given)


FIGURES = st.tuples(st.floats(0.85, 0.99), st.floats(1, 70), st.floats(0, 5000))


@given(st.lists(FIGURES, max_size=6))
@settings(max_examples=50, deadline=None)
def test_the_chosen_one_keeps_every_limit_and_nobody_dominates_it(figures):
    candidates = [(f"c{i}", *f) for i, f in enumerate(figures)]
    selection = choose(*candidates, given={c[0]: answers(c[1], n=300) for c in candidates} or {"none": answers(0.5, n=1)})
    rows = selection.table.to_pylist()
    assert all(r["reason"] for r in rows)
    assert sum(r["chosen"] for r in rows) == (selection.chosen is not None)
    eligible = [c for c in candidates if c[1] >= 0.9 and c[2] <= 50]
    assert (selection.chosen is None) == (not eligible)
    if selection.chosen:
        _, accuracy, p99, usd = next(c for c in candidates if c[0] == selection.chosen)
        assert (accuracy >= 0.9) and (p99 <= 50)
        assert not [c for c in eligible if c[1] > accuracy and c[2] < p99 and c[3] < usd]


@pytest.mark.parametrize(
    ("name", "value"), [("accuracy", 90), ("latency_ms_p99", 0), ("usd_per_point", math.nan), ("messages_per_day", -1)]
)
def test_rules_that_cannot_be_meant_are_refused_by_name(name, value):
    with pytest.raises(BadInput, match=f"selection.{name}"):
        SelectionRules(**{name: value})
