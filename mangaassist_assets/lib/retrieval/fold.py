"""A linear adapter without touching a stored vector: it moves to the query.

For an adapter W the adapted cosine of query q and chunk d is (W q).(W d) / (|W q| |W d|). With y = W q / |W q|, which is the query in the
adapted space, it equals (W^T y).d / |W d|: the base index answers for W^T y, and |W d| is computed for the candidates alone. The base
index finds its candidates by (W^T y).d, without that length, and its lists were made for another metric; so a fold is
accepted only when its measured recall is good enough.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mangaassist_assets.lib.artifacts import write_atomic
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.index import (
    EXACT_ROWS,
    Adapter,
    Allowed,
    ChunkIndex,
    FlatIndex,
    Vectors,
    best,
    enough_candidates,
    exact_neighbours,
    overlap,
)
from mangaassist_assets.lib.retrieval.index_files import Rows, publish_index

MATRIX = "matrix.safetensors"
EFFORT = 2  # times the lists and candidates of the base index
PROJECTED = 128  # candidates whose adapted length is computed, the best ones by inner product


class FoldRefused(BadInput):
    """The adapter cannot be served from the base index."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, where="fold of the adapter", remedy="Rebuild the index with this adapter.")


class FoldedIndex(ChunkIndex):
    """Answers in the adapted space from an index of the base space, with scores equal to a rebuilt index's but for its int8 rounding."""

    def __init__(self, path: Path, digest: str, facts: Mapping[str, Any], base: ChunkIndex) -> None:
        from safetensors.numpy import load_file

        super().__init__(path, digest, facts, base.ids)
        self.base = base
        self._matrix: Vectors = load_file(path / MATRIX)["matrix"]  # (D', D)

    @property
    def depth(self) -> int:
        return self.base.depth if isinstance(self.base, FlatIndex) else self.base.depth * EFFORT

    def candidates(self, query: Vectors, count: int, allowed: Allowed | None, *, effort: int = 1) -> Rows:
        return self.base.candidates(self._matrix.T @ query, count, allowed, effort=effort * EFFORT)

    def vectors_of(self, rows: Rows | slice) -> Vectors:
        mapped = self.base.vectors_of(rows) @ self._matrix.T
        unit: Vectors = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
        return unit

    def search_one(self, query: Vectors, k: int, allowed: Allowed | None) -> tuple[Rows, Vectors]:
        found = enough_candidates(self, query, max(k, self.depth), k, allowed)
        stored = self.base.vectors_of(found)
        inner = stored @ (self._matrix.T @ query)
        most = max(4 * k, PROJECTED)
        if len(found) > most and not isinstance(self.base, FlatIndex):
            kept = np.argpartition(-inner, most)[:most]
            found, stored, inner = found[kept], stored[kept], inner[kept]
        return best(found, inner / np.linalg.norm(stored @ self._matrix.T, axis=1), k)

    def warm(self) -> None:
        self.base.warm()


def matrix_of(adapter: Adapter, dimension: int) -> Vectors:
    """W (D', D) of a linear adapter, up to its scale, which no cosine sees.

    `apply` of a basis vector gives its column divided by the column's length, whose square is the diagonal of W^T W.

    Raises:
        FoldRefused: the adapter is not linear.
    """
    if not adapter.foldable:
        raise FoldRefused("the adapter is not linear")
    basis = np.eye(dimension, dtype=np.float32)
    lengths = np.sqrt(np.maximum(np.diagonal(adapter.query_side(basis)), 0))
    matrix = np.ascontiguousarray((np.asarray(adapter.apply(basis), np.float32) * lengths[:, None]).T, np.float32)
    probe = np.random.default_rng(0).standard_normal((8, dimension)).astype(np.float32)
    probe /= np.linalg.norm(probe, axis=1, keepdims=True)
    mapped = probe @ matrix.T
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    if not np.allclose(mapped, adapter.apply(probe), atol=1e-3):
        raise FoldRefused("the adapter says that it is linear, its results are not")
    return matrix


def fold(base: ChunkIndex, adapter: Adapter) -> FoldedIndex:
    """Publishes beside `base` an index that answers in the adapter's space: a matrix of some hundred kilobytes.

    Raises:
        FoldRefused: the adapter is not linear, or `base` is adapted already.
    """
    from safetensors.numpy import save

    if base.space.adapter:
        raise FoldRefused(f"index {base.digest[:12]} is of the adapted space {base.space.name}, wanted one of the base space")
    matrix = matrix_of(adapter, base.space.dimension)
    facts = {
        "strategy": "folded",
        "base": base.digest,
        "rows": len(base),
        "source": base.facts["source"],
        "changes_upto": base.facts.get("changes_upto", 0),
        "space": base.space.adapted(adapter.digest, len(matrix)).to_json(),
    }
    path = publish_index(base.path.parent, facts, lambda folder: write_atomic(folder / MATRIX, save({"matrix": matrix})))
    return FoldedIndex(path, path.name.removeprefix("sha256-"), facts, base)


def check_recall(index: ChunkIndex, queries: Vectors, *, k: int = 10, floor: float = 0.95) -> float:
    """Recall@k of `index` against a comparison with all of its vectors, for queries (n, D') of its space.

    Raises:
        FoldRefused: it is below `floor`.
    """
    blocks = ((start, index.vectors_of(slice(start, start + EXACT_ROWS))) for start in range(0, len(index), EXACT_ROWS))
    true = exact_neighbours(blocks, queries, min(k, len(index)))
    found, _ = index.search(queries, true.shape[1], index.space)
    recall = overlap(found, true)
    if recall < floor:
        raise FoldRefused(f"recall@{k} is {recall:.3f} through index {index.digest[:12]}, {floor:.3f} is wanted")
    return recall
