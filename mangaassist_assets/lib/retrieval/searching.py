"""What a retriever asks for vectors: an encoder of queries, and a vector index that can filter."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.index import Allowed, ChunkIndex
from mangaassist_assets.lib.retrieval.postings import Floats
from mangaassist_assets.lib.retrieval.segments import LiveIndex
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, check_space

LISTED = {"language": "languages", "format": "formats"}


class QueryEncoder(Protocol):
    """What turns queries into vectors of the index's space."""

    @property
    def space(self) -> EmbeddingSpace: ...

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Floats: ...


class VectorSearch(Protocol):
    """A vector index, whichever kind: `opensearch.OpenSearchIndex`, or a local one as `LocalSearch`."""

    @property
    def space(self) -> EmbeddingSpace: ...

    @property
    def digest(self) -> str: ...

    def find(
        self, vectors: Floats, k: int, space: EmbeddingSpace, filters: Mapping[str, Any] | None = None
    ) -> list[list[tuple[str, float]]]:
        """The nearest chunks of each query, ids with cosines, best first."""
        ...


class AdaptedEncoder:
    """An encoder followed by an adapter: queries in the adapted space."""

    def __init__(self, encoder: QueryEncoder, adapter: Adapter) -> None:
        self._encoder, self._adapter = encoder, adapter
        self.space = encoder.space.adapted(adapter.digest, adapter.dimension)

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Floats:
        return self._adapter.apply(self._encoder.encode(texts, queries=queries))


class LocalSearch:
    """An index of `index.py` or `segments.py` that filters by what the table of chunks says.

    Args:
        index: the index.
        chunks: the table of CHUNKS; a chunk that it lacks passes no filter.
    """

    def __init__(self, index: ChunkIndex | LiveIndex, chunks: pa.Table) -> None:
        self.index, self.space, self.digest = index, index.space, index.digest
        self._chunks = chunks
        self._allowed = functools.lru_cache(maxsize=64)(self._rows_that_pass)

    def find(
        self, vectors: Floats, k: int, space: EmbeddingSpace, filters: Mapping[str, Any] | None = None
    ) -> list[list[tuple[str, float]]]:
        allowed = self._allowed(tuple(sorted(filters.items()))) if filters else None
        return self.index.find(vectors, k, space, allowed)

    def _rows_that_pass(self, filters: tuple[tuple[str, Any], ...]) -> Allowed:
        return self.index.allowed(self._chunks["chunk_id"].filter(pa.array(passing(self._chunks, dict(filters)))).to_pylist())


class ExactSearch:
    """Vectors in memory, compared one by one: for training and evaluation on catalogues that fit there.

    Args:
        space: of the vectors.
        chunk_ids: of the rows.
        vectors: (n, D) float32 of length 1.
    """

    def __init__(self, space: EmbeddingSpace, chunk_ids: Sequence[str], vectors: Floats) -> None:
        self.space, self.digest = space, ""
        self._ids, self._vectors = list(chunk_ids), vectors

    def find(
        self, vectors: Floats, k: int, space: EmbeddingSpace, filters: Mapping[str, Any] | None = None
    ) -> list[list[tuple[str, float]]]:
        check_space(self.space, space)
        if filters:
            raise BadInput("an index in memory knows no filters", where="exact search", remedy="Filter what it finds.")
        answers = []
        for scores in vectors @ self._vectors.T:
            order = np.argsort(-scores, kind="stable")[:k]
            answers.append([(self._ids[i], float(scores[i])) for i in order])
        return answers


def passing(chunks: pa.Table, filters: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(chunks,) which chunks pass all filters."""
    mask = np.ones(chunks.num_rows, np.bool_)
    for name, value in filters.items():
        if name in LISTED:
            column = chunks[LISTED[name]].combine_chunks()
            owners = pc.list_parent_indices(column).to_numpy()
            has = np.zeros(chunks.num_rows, np.bool_)
            has[owners[pc.equal(pc.list_flatten(column), value).to_numpy(zero_copy_only=False)]] = True
            mask &= has
        else:
            mask &= pc.fill_null(pc.equal(chunks[name], value), False).to_numpy(zero_copy_only=False)
    return mask
