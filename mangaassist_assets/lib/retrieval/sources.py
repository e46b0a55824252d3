"""The stored shards of base vectors as one source that an index is built from."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.retrieval.space import EmbeddingSpace
from mangaassist_assets.lib.retrieval.vectors import VectorShard, VectorStore, open_shards


class ShardSource:
    """A VectorSource over a folder of shards. Workers get the folder's name and open it themselves.

    Args:
        folder: of all shards; see vectors.open_shards, whose errors the first access raises.
        shards: how many there must be; None takes what the folder holds.
    """

    def __init__(self, folder: Path, shards: int | None = None) -> None:
        self._folder, self._shards = folder, shards

    def __reduce__(self) -> tuple[type["ShardSource"], tuple[Path, int | None]]:
        return ShardSource, (self._folder, self._shards)

    @cached_property
    def _store(self) -> VectorStore:
        return open_shards(self._folder, self._shards)

    @property
    def space(self) -> EmbeddingSpace:
        return self._store.space

    @cached_property
    def digest(self) -> str:
        return self._store.digest

    def __len__(self) -> int:
        return len(self._store)

    def _pieces(self, start: int, stop: int) -> list[tuple[VectorShard, slice]]:
        return [
            (shard, slice(max(start - first, 0), min(stop - first, shard.n)))
            for shard, first in zip(self._store.shards, self._store.starts.tolist(), strict=False)
            if first < stop and start < first + shard.n
        ]

    def chunk_ids(self, start: int, stop: int) -> pa.ChunkedArray:
        """The ids of rows start to stop; reads those of the shards they lie in."""
        columns = [shard.ids["chunk_id"][own] for shard, own in self._pieces(start, stop)]
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())

    def vectors(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start to stop, (stop - start, D) float16.

        Each call maps the file anew: pages of an earlier block don't count to this process any more once its array is gone.
        """
        pieces = [dataclasses.replace(shard).vectors[own] for shard, own in self._pieces(start, stop)]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([np.empty((0, self.space.dimension), np.float16), *pieces])
