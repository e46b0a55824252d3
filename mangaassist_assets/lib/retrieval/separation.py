"""How far answers lie from wrong answers in an embedding space, before and after an adapter."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.adapter import Adapter

Floats = NDArray[np.float32]
BINS = 60

SEPARATION = pa.schema(
    [
        pa.field("space", pa.string(), False, {"description": "base or adapted"}),
        pa.field("side", pa.string(), False, {"description": "positive: query and its answer; negative: query and a wrong answer"}),
        pa.field("cosine_low", pa.float64(), False, {"description": "lower edge of the bin"}),
        pa.field("cosine_high", pa.float64(), False, {"description": "upper edge of the bin"}),
        pa.field("n", pa.int64(), False, {"description": "pairs in the bin"}),
        pa.field("mean", pa.float64(), True, {"description": "mean cosine of the side's pairs, null where there is none"}),
    ]
)


def separation(
    pairs: pa.Table,
    *,
    query_ids: Sequence[str],
    query_vectors: Floats,
    chunk_ids: Sequence[str],
    chunk_vectors: Floats,
    adapter: Adapter,
) -> pa.Table:
    """One row per space, side and bin, columns SEPARATION.

    Args:
        pairs: columns query_id, positive, negatives.
        query_ids: of the rows of `query_vectors` (n, D).
        query_vectors: unadapted, of length 1.
        chunk_ids: of the rows of `chunk_vectors` (m, D).
        chunk_vectors: unadapted, of length 1.
        adapter: applied for the space `adapted`.

    Raises:
        BadInput: a pair names an unknown query or chunk.
    """
    query_row, chunk_row = ({key: row for row, key in enumerate(keys)} for keys in (query_ids, chunk_ids))
    sides: dict[str, list[tuple[int, int]]] = {"positive": [], "negative": []}
    try:
        for pair in pairs.select(["query_id", "positive", "negatives"]).to_pylist():
            query = query_row[pair["query_id"]]
            sides["positive"].append((query, chunk_row[pair["positive"]]))
            sides["negative"] += [(query, chunk_row[chunk]) for chunk in pair["negatives"]]
    except KeyError as error:
        remedy = "Materialise retrieval_pairs again, for the present chunks and queries."
        raise BadInput(f"a pair names {error.args[0]!r}, which is no query or chunk", where="retrieval pairs", remedy=remedy) from error
    edges = np.linspace(-1, 1, BINS + 1)
    found = []
    for space in ("base", "adapted"):
        for side, rows in sides.items():
            cosines = _cosines(
                np.array(rows, np.int64).reshape(-1, 2), query_vectors, chunk_vectors, adapter if space == "adapted" else None
            )
            counts, mean = np.histogram(np.clip(cosines, -1, 1), edges)[0], float(cosines.mean()) if len(cosines) else None
            found += [
                {"space": space, "side": side, "cosine_low": low, "cosine_high": high, "n": n, "mean": mean}
                for low, high, n in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
            ]
    return pa.Table.from_pylist(found, schema=SEPARATION)


def _cosines(rows: NDArray[np.int64], query_vectors: Floats, chunk_vectors: Floats, adapter: Adapter | None) -> NDArray[np.float64]:
    """Cosine of each (query, chunk), shape (n,)."""
    left, right = np.asarray(query_vectors[rows[:, 0]], np.float32), np.asarray(chunk_vectors[rows[:, 1]], np.float32)
    if adapter is not None and len(rows):
        left, right = adapter.apply(left), adapter.apply(right)
    return np.asarray(np.einsum("nd,nd->n", left, right), np.float64)
