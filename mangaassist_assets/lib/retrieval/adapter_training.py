"""Families of adapters trained on pairs, and the one chosen on queries that none of them has seen.

Each family is tried at several shares of its learned change (Wortsman et al. 2022). The identity is a candidate that has to be beaten, and
a family that cannot be folded into the query has to pay for the rebuild that it asks for.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.adapter_fitting import GENERAL, AdapterTraining, Family, TrainingData, examples_of, fit
from mangaassist_assets.lib.retrieval.evaluation import METRICS, rank_documents, scores_of
from mangaassist_assets.lib.threads import one_torch_thread

Floats = NDArray[np.float32]
Scores = dict[str, NDArray[np.float64]]

SURE = 1.645  # standard errors: of one candidate, a gain by chance alone passes in 1 of 20 cases

ADAPTER_CANDIDATES = pa.schema(
    [
        pa.field("candidate", pa.string(), False, {"description": "family, pull to the identity, and share of the learned change"}),
        pa.field("kind", pa.string(), False, {"description": "identity, linear, low_rank or mlp"}),
        pa.field("foldable", pa.bool_(), False, {"description": "whether an index of unadapted vectors can answer for it"}),
        pa.field("pull", pa.float64(), False, {"description": "weight of the pull to the identity"}),
        pa.field("share", pa.float64(), False, {"description": "of the learned change that is kept"}),
        *(pa.field(metric, pa.float64(), False, {"description": "mean over validation queries"}) for metric in METRICS),
        pa.field("gain", pa.float64(), False, {"description": "of ndcg_at_10 over the identity"}),
        pa.field("gain_error", pa.float64(), False, {"description": "paired standard error of the gain"}),
        pa.field("general_change", pa.float64(), True, {"description": "of recall_at_3 on general queries; null where there is none"}),
        pa.field("training_s", pa.float64(), False, {"description": "wall time of its training"}),
        pa.field("chosen", pa.bool_(), False, {"description": "whether it is the one"}),
        pa.field("reason", pa.string(), False, {"description": "why, or why not"}),
    ]
)


@dataclass(frozen=True)
class TrainedAdapter:
    """The adapter, and one row per candidate, columns ADAPTER_CANDIDATES."""

    adapter: Adapter
    report: pa.Table


@dataclass
class _Candidate:
    family: Family
    share: float
    scores: Scores
    general_change: float | None
    training_s: float
    gain: float = 0.0
    gain_error: float = 0.0
    reason: str = ""

    @property
    def name(self) -> str:
        if self.family.kind == "identity":
            return "identity"
        width = f" {self.family.width}" if self.family.width else ""
        return f"{self.family.kind}{width}, pull {self.family.pull:g}, share {self.share:g}"

    @property
    def foldable(self) -> bool:
        return self.family.kind != "mlp"


def train_adapter(data: TrainingData, settings: AdapterTraining) -> TrainedAdapter:
    """Trains every family on the training pairs, chooses on validation queries, and trains the chosen one on both.

    Equal data and settings give equal bytes on one machine. Where no candidate is better than the identity for sure (SURE standard
    errors), or each that is costs general queries too much, the identity it is.

    Without judged queries to train on and to choose by it is the identity as well, and the report says so.

    Raises:
        BadInput: a pair names an unknown query or chunk, or vectors are not finite and of length 1.
    """
    _check(data)
    dimension = int(data.chunk_vectors.shape[1])
    if not data.pairs.num_rows or not len(_judged_validation(data.queries)):
        return TrainedAdapter(Adapter.identity(dimension), _untrained())
    training, everything = (examples_of(data, splits) for splits in (("train",), ("train", "validation")))
    rank = _Validation(data, settings)
    base = rank.scores(Adapter.identity(dimension))
    found = [_Candidate(Family("identity", 0.0), 0.0, base, 0.0 if len(rank.general) else None, 0.0)]
    with one_torch_thread():
        for family in settings.families:
            started = time.perf_counter()
            adapter = fit(family, data, training, settings)
            took = time.perf_counter() - started
            for share in settings.shares:
                scores = rank.scores(adapter.blended(share))
                lost = float((scores["recall_at_3"] - base["recall_at_3"])[rank.general].mean()) if len(rank.general) else None
                found.append(_Candidate(family, share, scores, lost, took))
        chosen = _choose(found, settings)
        if chosen.family.kind == "identity":
            adapter = Adapter.identity(dimension)
        else:
            adapter = fit(chosen.family, data, everything, settings).blended(chosen.share)
    return TrainedAdapter(adapter, _report(found, chosen))


def _choose(found: Sequence[_Candidate], settings: AdapterTraining) -> _Candidate:
    """The best of nDCG@10 among those that surely gain and keep general queries; the identity where there is none."""
    identity = found[0]
    eligible: list[_Candidate] = []
    for candidate in found[1:]:
        candidate.gain, candidate.gain_error = _paired(identity, candidate)
        if candidate.gain <= SURE * candidate.gain_error:
            candidate.reason = "gains too little over the identity to be sure"
        elif candidate.general_change is not None and candidate.general_change < -settings.general_loss:
            candidate.reason = f"general queries lose {-100 * candidate.general_change:.1f} points of recall_at_3"
        else:
            candidate.reason = "another one gains more"
            eligible.append(candidate)
    identity.reason = "a candidate is better"
    foldable = [candidate for candidate in eligible if candidate.foldable]
    best = max(foldable, key=lambda candidate: candidate.gain, default=identity)
    for rival in sorted((c for c in eligible if not c.foldable), key=lambda candidate: -candidate.gain):
        gain, error = _paired(best, rival)
        if gain > max(settings.not_foldable_penalty, SURE * error):
            best = rival
        else:
            rival.reason = f"gains {100 * gain:+.1f} points over {best.name}, too little to pay for a rebuild"
    best.reason = "no candidate is safely better" if best is identity else "the largest gain among those that keep general queries"
    return best


def _paired(before: _Candidate, after: _Candidate) -> tuple[float, float]:
    """Mean change of nDCG@10 and its standard error."""
    change = after.scores["ndcg_at_10"] - before.scores["ndcg_at_10"]
    return float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change))) if len(change) > 1 else float("inf")


def _report(found: Sequence[_Candidate], chosen: _Candidate) -> pa.Table:
    rows = [
        {
            "candidate": c.name,
            "kind": c.family.kind,
            "foldable": c.foldable,
            "pull": c.family.pull,
            "share": c.share,
            **{metric: float(c.scores[metric].mean()) for metric in METRICS},
            "gain": c.gain,
            "gain_error": c.gain_error,
            "general_change": c.general_change,
            "training_s": c.training_s,
            "chosen": c is chosen,
            "reason": c.reason,
        }
        for c in found
    ]
    return pa.Table.from_pylist(rows, schema=ADAPTER_CANDIDATES)


def _judged_validation(queries: pa.Table) -> NDArray[np.int64]:
    """Rows of the validation queries that people judged."""
    judged = pc.invert(pc.starts_with(queries["source"], "catalogue:"))
    return np.flatnonzero(pc.and_(pc.equal(queries["split"], "validation"), judged).to_numpy(zero_copy_only=False))


def _untrained() -> pa.Table:
    row = dict.fromkeys(METRICS, float("nan")) | {"candidate": "identity", "kind": "identity", "foldable": True, "pull": 0.0, "share": 0.0}
    why = "there are no judged queries to learn from or to choose by; see [sources.retrieval_pairs]"
    more = {"gain": float("nan"), "gain_error": float("nan"), "general_change": None, "training_s": 0.0, "chosen": True, "reason": why}
    return pa.Table.from_pylist([row | more], schema=ADAPTER_CANDIDATES)


class _Validation:
    """Ranks validation queries against the chunks that matter to them, and random others up to a limit."""

    def __init__(self, data: TrainingData, settings: AdapterTraining) -> None:
        rows = _judged_validation(data.queries)
        self.queries = data.queries.take(pa.array(rows))
        self.vectors = np.asarray(data.query_vectors[rows], np.float32)
        self.general = np.flatnonzero([GENERAL in slices for slices in self.queries["slices"].to_pylist()])
        owners = np.array(data.chunks["document_id"].to_pylist(), object)
        pool = np.arange(len(owners))
        if len(pool) > settings.validation_chunks:
            wanted = {document for documents in self.queries["relevant"].to_pylist() for document in documents}
            must = np.flatnonzero([owner in wanted for owner in owners])
            rest = np.random.default_rng(settings.seed).permutation(np.setdiff1d(pool, must))
            pool = np.sort(np.concatenate([must, rest[: max(0, settings.validation_chunks - len(must))]]))
        self.owners = owners[pool]
        self.chunk_vectors = np.asarray(data.chunk_vectors[pool], np.float32)

    def scores(self, adapter: Adapter) -> Scores:
        cosines = adapter.apply(self.vectors) @ adapter.apply(self.chunk_vectors).T
        ranked = dict(zip(self.queries["query_id"].to_pylist(), rank_documents(cosines, self.owners, 100), strict=True))
        return scores_of(ranked, self.queries)


def _check(data: TrainingData) -> None:
    for name, vectors, rows in (("queries", data.query_vectors, data.queries), ("chunks", data.chunk_vectors, data.chunks)):
        if vectors.ndim != 2 or len(vectors) != rows.num_rows or vectors.shape[1] != data.chunk_vectors.shape[1]:
            problem = f"vectors of shape {vectors.shape} for {rows.num_rows:,} {name}"
            raise BadInput(problem, where="embedding adapter", remedy="Encode their texts again.")
        for start in range(0, len(vectors), 65_536):
            length = np.linalg.norm(np.asarray(vectors[start : start + 65_536], np.float32), axis=1)
            if not (np.abs(length - 1) < 0.01).all():  # fp16 shards are off by a thousandth; NaN is caught as well
                row = start + int(np.flatnonzero(~(np.abs(length - 1) < 0.01))[0])
                raise BadInput(f"vector {row} of {name} is not of length 1", where="embedding adapter", remedy="Encode its text again.")
