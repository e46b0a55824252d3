"""Rankings become figures that a reader can check by hand, with honest intervals, and two of them are compared query by query."""

import math

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.retrieval.evaluation import (
    METRICS,
    RETRIEVAL_CHANGES,
    RETRIEVAL_METRICS,
    RetrievalLimits,
    change_estimate,
    compare,
    document_scores,
    evaluate_retrieval,
    query_scores,
    rank_documents,
    retrieval_gates,
    sign_flip_p_value,
    slices_of,
)
from mangaassist_assets.lib.retrieval.pairs import QUERIES
from mangaassist_assets.lib.verdicts import Verdict


def queries(*rows):
    base = {"not_relevant": [], "kind": "title", "slices": [], "split": "test", "source": "s"}
    return pa.Table.from_pylist(
        [
            base | {"query_id": f"q{i}", "query": f"query {i}", "relevant": relevant, "grades": [1.0] * len(relevant), **rest}
            for i, (relevant, rest) in enumerate(rows)
        ],
        schema=QUERIES,
    )


def value(table, slice_name, metric, column="value"):
    (row,) = [row for row in table.to_pylist() if (row["slice"], row["metric"]) == (slice_name, metric)]
    return row[column]


def test_one_query_is_scored_as_the_papers_say():
    found = query_scores(["x", "y", "z", "a", "b"], ["a", "b"], [1.0, 3.0])
    assert found["recall_at_3"] == 0 and found["recall_at_5"] == 1
    assert found["mrr"] == 1 / 4
    gained, ideal = 1 / math.log2(5) + 3 / math.log2(6), 3 + 1 / math.log2(3)
    assert found["ndcg_at_10"] == pytest.approx(gained / ideal)


def test_the_best_possible_ranking_scores_one_everywhere_and_an_empty_one_zero():
    assert set(query_scores(["a", "b", "x"], ["b", "a"]).values()) == {1.0}
    assert set(query_scores([], ["a"]).values()) == {0.0}


def test_a_document_named_twice_counts_where_it_stands_first():
    assert query_scores(["x", "x", "x", "a"], ["a"]) == query_scores(["x", "a"], ["a"])


def test_documents_are_ranked_by_their_best_chunk_and_ties_by_id():
    scores = np.array([[0.1, 0.9, 0.5, 0.5]], np.float32)
    assert rank_documents(scores, ["a", "a", "c", "b"], 10) == [["a", "b", "c"]]
    assert rank_documents(scores, ["a", "a", "c", "b"], 1) == [["a"]]


def test_a_document_without_a_chunk_has_no_score():
    assert document_scores(np.array([[0.2, 0.4]], np.float32), np.array([2, 0]), 3).tolist() == [
        [pytest.approx(0.4), -np.inf, pytest.approx(0.2)]
    ]


def test_figures_are_given_for_all_slices_with_wilson_intervals_for_shares():
    table = evaluate_retrieval(
        {"q0": ["a"], "q1": ["x", "y", "z", "a"]}, queries((["a"], {"slices": ["typo"]}), (["a"], {"kind": "plot"})), space="s", seed=1
    )
    assert table.schema == RETRIEVAL_METRICS
    assert set(table["slice"].to_pylist()) == {"all", "typo", "kind:title", "kind:plot"}
    assert value(table, "all", "recall_at_3") == 0.5 and value(table, "all", "mrr") == 0.625
    assert 0 < value(table, "all", "recall_at_3", "ci_low") < 0.5 < value(table, "all", "recall_at_3", "ci_high") < 1
    assert value(table, "typo", "recall_at_3") == 1 and value(table, "typo", "recall_at_3", "n") == 1


def test_splits_are_slices_only_where_there_are_several():
    assert set(slices_of(queries((["a"], {}), (["a"], {})))) == {"all", "kind:title"}
    assert "split:train" in slices_of(queries((["a"], {}), (["a"], {"split": "train"})))


def test_a_query_that_was_never_asked_is_missing_evidence():
    with pytest.raises(MissingEvidence, match="q1"):
        evaluate_retrieval({"q0": ["a"]}, queries((["a"], {}), (["a"], {})), space="s", seed=1)


def many(n):
    rows = queries(*[(["a"], {"slices": ["general"] if i % 2 else []}) for i in range(n)])
    return rows, {f"q{i}": ["x", "y", "z", "a"] for i in range(n)}, {f"q{i}": ["a"] for i in range(n)}


def test_a_change_is_paired_and_seen_in_every_slice():
    rows, worse, better = many(40)
    table = compare(worse, better, rows, names=("base", "adapted"), seed=1)
    assert table.schema == RETRIEVAL_CHANGES and table.num_rows == 3 * len(METRICS)
    assert value(table, "all", "recall_at_3", "change") == 1 and value(table, "all", "recall_at_3", "p_value") < 0.01
    same = compare(better, better, rows, names=("base", "adapted"), seed=1)
    assert value(same, "all", "mrr", "change") == 0 and value(same, "all", "mrr", "p_value") == 1


def test_equal_input_and_seed_give_equal_tables():
    rows, worse, better = many(30)
    assert compare(worse, better, rows, names=("a", "b"), seed=3).equals(compare(worse, better, rows, names=("a", "b"), seed=3))


def test_the_sign_flip_test_agrees_with_counting_all_assignments():
    changes = np.array([1.0, 1.0, 1.0, 0.0, -1.0])  # 4 moved: |sum| >= 2 in 10 of 16 assignments
    assert sign_flip_p_value(changes, seed=2, resamples=20_000) == pytest.approx(10 / 16, abs=0.02)
    assert sign_flip_p_value(np.zeros(4), seed=2) == 1


def test_gates_pass_a_clear_gain_and_fail_what_nobody_measured():
    rows, worse, better = many(60)
    passed = retrieval_gates(compare(worse, better, rows, names=("a", "b"), seed=1), RetrievalLimits())
    assert [j.verdict for j in passed] == [Verdict.PASS, Verdict.PASS]
    lost = retrieval_gates(compare(better, worse, rows, names=("a", "b"), seed=1), RetrievalLimits())
    assert [j.verdict for j in lost] == [Verdict.FAIL, Verdict.FAIL]
    nothing = retrieval_gates(RETRIEVAL_CHANGES.empty_table(), RetrievalLimits())
    assert {j.verdict for j in nothing} == {Verdict.FAIL} and {j.reason for j in nothing} == {"not measured"}
    assert change_estimate(RETRIEVAL_CHANGES.empty_table(), metric="mrr") is None
