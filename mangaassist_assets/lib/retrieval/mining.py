"""Pairs of a query and a chunk that answers it, with chunks that look alike and don't: what an adapter is trained on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.splits import without_leaks

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Search = Callable[[Floats, int], tuple[Ints, Floats]]

PAIRS = pa.schema(
    [
        pa.field("query_id", pa.string(), False, {"description": "of retrieval queries, judged or from the catalogue"}),
        pa.field("query", pa.string(), False, {"description": "as typed"}),
        pa.field("positive", pa.string(), False, {"description": "chunk_id: of a relevant document the chunk nearest to the query"}),
        pa.field("negatives", pa.list_(pa.string()), False, {"description": "chunk_ids of wrong answers, judged ones first, then mined"}),
        pa.field("relevant", pa.list_(pa.string()), False, {"description": "all relevant document ids: none of them is ever a negative"}),
        pa.field("source", pa.string(), False, {"description": "where the query comes from"}),
        pa.field("split", pa.string(), False, {"description": "train, or validation: used only once the adapter is chosen"}),
        pa.field("weight", pa.float32(), False, {"description": "how often it is drawn in training, relative to the others"}),
    ]
)


@dataclass(frozen=True)
class Mining:
    """How negatives are found.

    Attributes:
        negatives: per pair, at most.
        depth: chunks nearest to the query that are looked through.
        margin: a mined negative's cosine is at most this share of the positive's: what is nearer may be an answer nobody judged
            (Moreira et al. 2024, NV-Retriever, `TopK-PercPos` 0.95).
        catalogue_weight: weight of all pairs from the catalogue together, relative to 1 for all others.
        near_duplicate: similarity at which a query counts as a copy of a held-out one.
    """

    negatives: int = 6
    depth: int = 40
    margin: float = 0.95
    catalogue_weight: float = 1.5
    near_duplicate: float = 0.8


def exact_search(chunk_vectors: Floats, *, block: int = 65_536) -> Search:
    """A search over all chunks, (n, D) queries -> rows and scores (n, k), best first; one block of chunks at a time."""

    def search(queries: Floats, k: int) -> tuple[Ints, Floats]:
        k = min(k, len(chunk_vectors))
        best = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(chunk_vectors), block):
            scores = queries @ np.asarray(chunk_vectors[start : start + block], np.float32).T
            best = np.concatenate([best, scores], axis=1)
            here = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
            rows = np.concatenate([rows, here], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            best, rows = np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)
        return rows, best

    return search


def mine_pairs(
    queries: pa.Table,
    query_vectors: Floats,
    chunks: pa.Table,
    chunk_vectors: Floats,
    settings: Mining,
    *,
    held_out: pa.Table,
    search: Search | None = None,
) -> pa.Table:
    """One row per query and relevant document, columns PAIRS, in the order of the queries.

    Args:
        queries: columns QUERIES; those of the test split and copies of held-out ones give no pair.
        query_vectors: (n, D), of length 1, in their order.
        chunks: columns CHUNKS.
        chunk_vectors: (m, D), of length 1, in their order.
        settings: how negatives are found.
        held_out: queries of which no near-duplicate may be trained on: every validation and test query.
        search: the current index, as `exact_search`, which stands in where it is left out.

    Raises:
        BadInput: vectors and rows differ in number, or a query names a document that has no chunk.
    """
    if len(query_vectors) != queries.num_rows or len(chunk_vectors) != chunks.num_rows:
        raise BadInput(
            f"{len(query_vectors):,} vectors for {queries.num_rows:,} queries, {len(chunk_vectors):,} for {chunks.num_rows:,} chunks",
            where="retrieval pairs",
            remedy="Encode them again.",
        )
    chunk_ids, owners = chunks["chunk_id"].to_pylist(), chunks["document_id"].to_pylist()
    chunks_of: dict[str, list[int]] = {}
    for row, document in enumerate(owners):
        chunks_of.setdefault(document, []).append(row)
    usable = _usable(queries, held_out, settings.near_duplicate)
    vectors = np.asarray(query_vectors[usable], np.float32)
    near, cosines = (search or exact_search(chunk_vectors))(vectors, settings.depth)
    found: list[dict[str, Any]] = []
    for row, vector, ranked, scores in zip(queries.take(pa.array(usable)).to_pylist(), vectors, near, cosines, strict=True):
        relevant = set(row["relevant"])

        def best_chunk(document: str, vector: Floats = vector, query_id: str = row["query_id"]) -> tuple[int, float]:
            return _best_chunk(chunks_of, chunk_vectors, document, vector, query_id)

        judged = [best_chunk(document)[0] for document in row["not_relevant"] if document not in relevant]
        for document in row["relevant"]:
            positive, cosine = best_chunk(document)
            mined = [
                int(j)
                for j, score in zip(ranked, scores, strict=True)
                if j >= 0 and owners[j] not in relevant and score <= settings.margin * cosine
            ]
            negatives = list(dict.fromkeys([*judged, *mined]))[: settings.negatives]
            found.append({
                "query_id": row["query_id"], "query": row["query"], "positive": chunk_ids[positive], "relevant": row["relevant"],
                "negatives": [chunk_ids[j] for j in negatives], "source": row["source"], "split": row["split"],
                "weight": 1 / len(relevant),
            })  # fmt: skip
    return pa.Table.from_pylist(_weighted(found, settings.catalogue_weight), schema=PAIRS)


def _usable(queries: pa.Table, held_out: pa.Table, threshold: float) -> Ints:
    """Rows that may be trained on: validation queries, and training queries that copy no held-out one."""
    splits = np.array(queries["split"].to_pylist(), object)
    training = np.flatnonzero(splits == "train")
    numbered = queries.take(pa.array(training)).append_column("row", pa.array(training, pa.int64()))
    kept = without_leaks(numbered, held_out, threshold=threshold)["row"].to_numpy()
    return np.sort(np.concatenate([kept, np.flatnonzero(splits == "validation")])).astype(np.int64)


def _best_chunk(
    chunks_of: Mapping[str, list[int]], chunk_vectors: Floats, document: str, vector: Floats, query_id: str
) -> tuple[int, float]:
    """Row and cosine of the document's chunk nearest to the query."""
    if document not in chunks_of:
        raise BadInput(
            f"query {query_id!r} names document {document!r}, which has no chunk",
            where="retrieval pairs",
            remedy="Read the queries again against the present catalogue.",
        )
    rows = chunks_of[document]
    cosines = np.asarray(chunk_vectors[rows], np.float32) @ vector
    best = int(np.argmax(cosines))
    return rows[best], float(cosines[best])


def _weighted(pairs: list[dict[str, Any]], catalogue_weight: float) -> list[dict[str, Any]]:
    """Weights scaled to sum to 1 over judged pairs and to `catalogue_weight` over those from the catalogue."""
    for from_catalogue, total in ((False, 1.0), (True, catalogue_weight)):
        own = [pair for pair in pairs if pair["source"].startswith("catalogue:") == from_catalogue]
        mass = sum(pair["weight"] for pair in own)
        for pair in own:
            pair["weight"] *= total / mass
    return pairs
