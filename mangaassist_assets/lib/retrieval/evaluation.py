"""How well documents are found: per slice, each figure with its interval, and two ways of finding compared on the same queries.

A ranking is a list of document ids, best first, each once. Queries are a table `pairs.QUERIES`. Slices: `all`, each name in `slices`,
`kind:<kind>`, and for several splits `split:<split>`.

Metrics, each a mean over queries:
    recall_at_3, recall_at_5    share of queries with a relevant document among the first 3 or 5 (elsewhere called success or hit rate)
    mrr                         1 / rank of the first relevant document, 0 where none is ranked
    ndcg_at_10                  sum over the first 10 of grade / log2(rank + 1), over that of the best possible ranking (Jarvelin and
                                Kekalainen 2002)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.statistics import Estimate, finite_or_none, holm, paired_difference, proportion
from mangaassist_assets.lib.verdicts import Gate, Judgement, judge

Floats = NDArray[np.float64]
Ranking = Mapping[str, Sequence[str]]

METRICS = ("recall_at_3", "recall_at_5", "mrr", "ndcg_at_10")
SHARES = ("recall_at_3", "recall_at_5")  # 0 or 1 a query
RESAMPLES = 2000

RETRIEVAL_METRICS = pa.schema(
    [
        pa.field("embedding_space", pa.string(), False, {"description": "name of the space, or of the channel that answered"}),
        pa.field("slice", pa.string(), False, {"description": "all, a slice of the queries, or kind:<kind of query>"}),
        pa.field("metric", pa.string(), False, {"description": ", ".join(METRICS)}),
        pa.field("value", pa.float64(), True, {"description": "mean over the slice's queries"}),
        pa.field("ci_low", pa.float64(), True, {"description": "lower end of its 95% interval"}),
        pa.field("ci_high", pa.float64(), True, {"description": "upper end of its 95% interval"}),
        pa.field("n", pa.int64(), False, {"description": "queries"}),
    ]
)
RETRIEVAL_CHANGES = pa.schema(
    [
        pa.field("before", pa.string(), False, {"description": "name of the first way"}),
        pa.field("after", pa.string(), False, {"description": "name of the second way"}),
        pa.field("slice", pa.string(), False, {"description": "all, a slice of the queries, or kind:<kind of query>"}),
        pa.field("metric", pa.string(), False, {"description": ", ".join(METRICS)}),
        pa.field("value_before", pa.float64(), True, {"description": "mean over the slice's queries"}),
        pa.field("value_after", pa.float64(), True, {"description": "mean over the slice's queries"}),
        pa.field("change", pa.float64(), True, {"description": "after - before"}),
        pa.field("ci_low", pa.float64(), True, {"description": "lower end of its paired 95% interval"}),
        pa.field("ci_high", pa.float64(), True, {"description": "upper end of its paired 95% interval"}),
        pa.field("p_value", pa.float64(), True, {"description": "two-sided sign-flip test, Holm-adjusted over the metric's slices"}),
        pa.field("n", pa.int64(), False, {"description": "queries"}),
    ]
)


@dataclass(frozen=True)
class RetrievalLimits:
    """What an adapter must show on held-out queries.

    Attributes:
        recall_at_3_gain: least gain of recall_at_3 over the encoder alone, all queries.
        general_loss: most that recall_at_3 may fall on the `general` slice.
    """

    recall_at_3_gain: float = 0.14
    general_loss: float = 0.01


def rank_documents(scores: NDArray[np.float32], chunk_documents: Sequence[str] | NDArray[np.object_], k: int) -> list[list[str]]:
    """The best `k` documents of each query, a document scored by its best chunk; equal scores in order of document id.

    Args:
        scores: (queries, chunks).
        chunk_documents: document id of each chunk.
        k: most documents a query.
    """
    names, owner = np.unique(np.asarray(chunk_documents, dtype=object), return_inverse=True)
    best = document_scores(scores, owner, len(names))
    k = min(k, len(names))
    order = np.argsort(-best, axis=1, kind="stable")[:, :k]
    return [[str(names[j]) for j in row] for row in order]


def document_scores(scores: NDArray[np.float32], owner: NDArray[np.int64], documents: int) -> NDArray[np.float32]:
    """(queries, chunks) -> (queries, documents): a document's best chunk, -inf for one without; `owner` is the document of each chunk."""
    order = np.argsort(owner, kind="stable")
    present, starts = np.unique(owner[order], return_index=True)
    best = np.full((len(scores), documents), -np.inf, np.float32)
    if len(order):
        best[:, present] = np.maximum.reduceat(scores[:, order], starts, axis=1)
    return best


def query_scores(ranking: Sequence[str], relevant: Sequence[str], grades: Sequence[float] | None = None) -> dict[str, float]:
    """All METRICS of one query, each 0..1.

    Args:
        ranking: document ids, best first; a repeated one counts where it stands first.
        relevant: ids of relevant documents, at least one.
        grades: of each relevant document, above 0; all 1 where left out.
    """
    gain = dict(zip(relevant, grades or [1.0] * len(relevant), strict=True))
    ranked = list(dict.fromkeys(ranking))
    first = next((place for place, document in enumerate(ranked, 1) if document in gain), None)
    found = sum(gain.get(document, 0.0) / math.log2(place + 1) for place, document in enumerate(ranked[:10], 1))
    ideal = sum(value / math.log2(place + 1) for place, value in enumerate(sorted(gain.values(), reverse=True)[:10], 1))
    return {
        "recall_at_3": float(first is not None and first <= 3),
        "recall_at_5": float(first is not None and first <= 5),
        "mrr": 0.0 if first is None else 1 / first,
        "ndcg_at_10": found / ideal,
    }


def scores_of(ranked: Ranking, queries: pa.Table) -> dict[str, Floats]:
    """Per metric the score of every query, shape (n,), in the table's order.

    Raises:
        MissingEvidence: a query has no ranking at all; an empty ranking is one that found nothing.
    """
    rows = queries.select(["query_id", "relevant", "grades"]).to_pylist()
    missing = [row["query_id"] for row in rows if row["query_id"] not in ranked]
    if missing:
        raise MissingEvidence(f"{len(missing):,} queries were never asked, first {missing[0]!r}; ask them, or leave them out.")
    scored = [query_scores(ranked[row["query_id"]], row["relevant"], row["grades"]) for row in rows]
    return {metric: np.array([scores[metric] for scores in scored], np.float64) for metric in METRICS}


def slices_of(queries: pa.Table) -> dict[str, NDArray[np.int64]]:
    """Rows of every slice, shape (n,) each; `all` first, the rest by name."""
    found: dict[str, list[int]] = {}
    columns = [queries[name].to_pylist() for name in ("slices", "kind", "split")]
    several = len(set(columns[2])) > 1
    for row, (slices, kind, split) in enumerate(zip(*columns, strict=True)):
        for name in {*slices, *([f"kind:{kind}"] if kind else []), *([f"split:{split}"] if several else [])}:
            found.setdefault(name, []).append(row)
    everything = {"all": np.arange(queries.num_rows, dtype=np.int64)}
    return everything | {name: np.array(found[name], np.int64) for name in sorted(found)}


def evaluate_retrieval(ranked: Ranking, queries: pa.Table, *, space: str, seed: int) -> pa.Table:
    """One row per slice and metric, columns RETRIEVAL_METRICS.

    Args:
        ranked: document ids by query id, best first.
        queries: those that count; a query without a relevant document cannot be one of them.
        space: what the rows are named after.
        seed: of the bootstrap. Shares have Wilson's interval instead.

    Raises:
        MissingEvidence: a query has no ranking.
    """
    scores = scores_of(ranked, queries)
    found = []
    for name, rows in slices_of(queries).items():
        for metric in METRICS:
            own = scores[metric][rows]
            estimate = proportion(int(own.sum()), len(own)) if metric in SHARES else _mean(own, seed)
            figures = {key: finite_or_none(getattr(estimate, key)) for key in ("value", "ci_low", "ci_high")}
            found.append({"embedding_space": space, "slice": name, "metric": metric, "n": estimate.n, **figures})
    return pa.Table.from_pylist(found, RETRIEVAL_METRICS)


def compare(before: Ranking, after: Ranking, queries: pa.Table, *, names: tuple[str, str], seed: int) -> pa.Table:
    """One row per slice and metric, columns RETRIEVAL_CHANGES: paired on the queries.

    Args:
        before: document ids by query id, best first.
        after: the same of the other way.
        queries: those that count.
        names: of the two ways.
        seed: of bootstrap and test.

    Raises:
        MissingEvidence: a query has no ranking in either.
    """
    first, second = scores_of(before, queries), scores_of(after, queries)
    slices = slices_of(queries)
    found = []
    for metric in METRICS:
        p_values = holm([sign_flip_p_value(second[metric][rows] - first[metric][rows], seed=seed) for rows in slices.values()])
        for (name, rows), p in zip(slices.items(), p_values, strict=True):
            earlier, later = first[metric][rows], second[metric][rows]
            change = paired_difference(earlier, later, seed=seed, resamples=RESAMPLES)
            values = {"value_before": float(earlier.mean()), "value_after": float(later.mean())} if len(rows) else {}
            interval = {"change": change.value, "ci_low": change.ci_low, "ci_high": change.ci_high, "p_value": p}
            measured = {key: finite_or_none(value) for key, value in interval.items()}
            found.append({"before": names[0], "after": names[1], "slice": name, "metric": metric, "n": len(rows), **values, **measured})
    return pa.Table.from_pylist(found, RETRIEVAL_CHANGES)


def change_estimate(changes: pa.Table, *, metric: str, slice_name: str = "all") -> Estimate | None:
    """The change in one slice of a table of `compare`, None where it is not in it."""
    for row in changes.to_pylist():
        if (row["metric"], row["slice"]) == (metric, slice_name) and row["change"] is not None:
            return Estimate(row["change"], row["ci_low"], row["ci_high"], row["n"])
    return None


def retrieval_gates(changes: pa.Table, limits: RetrievalLimits) -> list[Judgement]:
    """Holds the change that an adapter makes against the limits; what was not measured fails."""
    gates: list[tuple[Gate, Callable[[], Estimate | None]]] = [
        (
            Gate("recall_at_3_gain", "data_science", "at_least", limits.recall_at_3_gain),
            lambda: change_estimate(changes, metric="recall_at_3"),
        ),
        (
            Gate("recall_at_3_gain:general", "data_science", "at_least", -limits.general_loss),
            lambda: change_estimate(changes, metric="recall_at_3", slice_name="general"),
        ),
    ]
    return [judge(gate, estimate()) for gate, estimate in gates]


def sign_flip_p_value(changes: Floats, *, seed: int, resamples: int = 5000) -> float:
    """Two-sided permutation test that paired changes are symmetric about 0 (Fisher 1935); 1 for none.

    The observed assignment counts as one of the resamples, so that p is never 0 (Phipson and Smyth 2010).
    """
    moved = changes[changes != 0]
    if not len(moved):
        return 1.0
    rng = np.random.default_rng(seed)
    observed = abs(float(moved.sum())) - 1e-9 * len(moved)
    beyond = 0
    for start in range(0, resamples, 500):
        signs = rng.integers(0, 2, (min(500, resamples - start), len(moved)), np.int8) * np.int8(2) - np.int8(1)
        beyond += int((np.abs(signs @ moved) >= observed).sum())
    return (1 + beyond) / (1 + resamples)


def _mean(scores: Floats, seed: int) -> Estimate:
    """Mean with a percentile bootstrap interval (Efron 1979), all resamples drawn at once."""
    n = len(scores)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    drawn = [scores[rng.integers(0, n, n)].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(scores.mean()), float(low), float(high), n)
