"""The index of millions of rows: inverted lists of 4-bit product codes, then an exact comparison of the best candidates.

A row belongs to the list of its nearest centroid. Centroids form two levels (groups of lists), so that a row meets some hundreds of
centroids instead of tens of thousands. Codes describe what is left after the centroid is subtracted; faiss scans them 32 at a time in
registers (https://github.com/facebookresearch/faiss/wiki/Fast-accumulation-of-PQ-and-AQ-codes-(FastScan)). The best candidates are
compared with int8 vectors, which stay in memory-mapped files: of each row its largest component becomes 127.
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import DamagedArtifact
from mangaassist_assets.lib.retrieval.index import Allowed, ChunkIndex, Vectors
from mangaassist_assets.lib.retrieval.index_files import Rows, StoredIds

LISTS, TRAINING = "lists.faiss", "training.safetensors"
LEAST_GROUPS = 16
Int8 = NDArray[np.int8]


def quantised(vectors: Vectors) -> tuple[Int8, Vectors]:
    """int8 components (n, D) and the factor (n,) that restores each row."""
    scales = np.maximum(vectors.max(axis=1), -vectors.min(axis=1)) / 127
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales.astype(np.float32)


@dataclass(frozen=True)
class Centroids:
    """Two levels of centroids.

    Attributes:
        groups: (G, D) centroids of the groups.
        lists: (L, D) centroids of the lists, those of one group side by side.
        starts: (G + 1,) the first list of each group.
    """

    groups: Vectors
    lists: Vectors
    starts: NDArray[np.int64]

    def nearest(self, vectors: Vectors, groups: int) -> NDArray[np.int32]:
        """The list (n,) whose centroid has the largest inner product, among the lists of the `groups` nearest groups."""
        groups = min(groups, len(self.groups))
        order = np.argpartition(vectors @ -self.groups.T, groups - 1, axis=1)[:, :groups]
        value = np.full(len(vectors), -np.inf, np.float32)
        answer = np.zeros(len(vectors), np.int32)
        by_group = np.argsort(order, axis=None, kind="stable")
        bounds = np.searchsorted(order.ravel()[by_group], np.arange(len(self.groups) + 1))
        for group, (start, stop) in enumerate(zip(self.starts[:-1], self.starts[1:], strict=True)):
            rows = by_group[bounds[group] : bounds[group + 1]] // groups
            if start == stop or not len(rows):
                continue
            inner = vectors[rows] @ self.lists[start:stop].T
            column = inner.argmax(axis=1)
            found = inner[np.arange(len(rows)), column]
            better = found > value[rows]
            value[rows[better]], answer[rows[better]] = found[better], column[better] + start
        return answer

    def quantizer(self) -> Any:
        """A faiss index of the list centroids, itself of two levels."""
        import faiss

        coarse: Any = faiss.IndexFlatIP(self.groups.shape[1])
        coarse.add(self.groups)
        two_level = faiss.IndexIVFFlat(coarse, self.groups.shape[1], len(self.groups), faiss.METRIC_INNER_PRODUCT)
        two_level.is_trained = True
        of_list = np.repeat(np.arange(len(self.groups)), np.diff(self.starts)).astype(np.int64)
        numbers = np.arange(len(self.lists), dtype=np.int64)
        two_level.add_core(len(self.lists), faiss.swig_ptr(self.lists), faiss.swig_ptr(numbers), faiss.swig_ptr(of_list))
        two_level.nprobe = min(LEAST_GROUPS, len(self.groups))
        two_level.own_fields = True
        coarse.this.disown()
        return two_level


class StoredVectors:
    """int8 rows and their factors in memory-mapped files of equally many rows each."""

    def __init__(self, folders: list[Path], dimension: int) -> None:
        self._maps: list[tuple[mmap.mmap, Int8, Vectors]] = []
        for folder in folders:
            with (folder / "vectors.i8").open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
            mapped.madvise(mmap.MADV_RANDOM)
            vectors = np.frombuffer(mapped, np.int8).reshape(-1, dimension)
            self._maps.append((mapped, vectors, np.fromfile(folder / "scales.f32", np.float32)))
        self._starts = np.cumsum([0, *(len(scales) for _, _, scales in self._maps)])

    def of(self, rows: Rows) -> Vectors:
        """Vectors (n, D) of some rows, in their order."""
        order = np.argsort(rows)  # neighbours on the disk are read together
        bounds = np.searchsorted(rows[order], self._starts)
        found = np.empty((len(rows), self._maps[0][1].shape[1]), np.float32)
        for part in np.flatnonzero(np.diff(bounds)):
            chosen = order[bounds[part] : bounds[part + 1]]
            _, vectors, scales = self._maps[part]
            inside = rows[chosen] - self._starts[part]
            found[chosen] = vectors[inside] * scales[inside, None]
        return found

    def warm(self) -> None:
        for mapped, _, _ in self._maps:
            mapped.madvise(mmap.MADV_WILLNEED)


class IvfIndex(ChunkIndex):
    """Approximate search over millions of rows. `facts["search"]` holds probes (lists searched) and candidates (rows compared exactly)."""

    def __init__(self, path: Path, digest: str, facts: Mapping[str, Any], ids: StoredIds) -> None:
        import faiss
        from safetensors.numpy import load_file

        super().__init__(path, digest, facts, ids)
        self._lists: Any = faiss.read_index(str(path / LISTS))
        if self._lists.ntotal != len(ids) or self._lists.d != self.space.dimension:
            raise DamagedArtifact(f"{path}: {LISTS} holds {self._lists.ntotal} rows, {len(ids)} have ids. Materialise `chunk_index` again.")
        self._stored = StoredVectors(sorted((path / "parts").iterdir()), self.space.dimension)
        self._probes = int(facts["search"]["probes"])
        lists_of_groups = np.diff(load_file(path / TRAINING)["starts"])
        self._reached = np.cumsum(np.sort(lists_of_groups))  # by 1, 2, ... groups at least

    @property
    def depth(self) -> int:
        return int(self.facts["search"]["candidates"])

    def candidates(self, query: Vectors, count: int, allowed: Allowed | None, *, effort: int = 1) -> Rows:
        import faiss

        search: Any = faiss.SearchParametersIVF()
        search.nprobe = min(self._probes * effort, self._lists.nlist)
        # twice the groups that hold as many lists: the nearest lists are spread over more than the nearest groups
        groups: Any = faiss.SearchParametersIVF()
        groups.nprobe = min(max(LEAST_GROUPS, 2 * (int(np.searchsorted(self._reached, search.nprobe)) + 1)), len(self._reached))
        search.quantizer_params = groups
        _, found = self._lists.search(query[None], min(count, len(self)), params=search)
        rows: Rows = found[0][found[0] >= 0]
        return rows if allowed is None else rows[allowed.mask[rows]]

    def vectors_of(self, rows: Rows | slice) -> Vectors:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)), dtype=np.int64)
        return self._stored.of(rows)

    def warm(self) -> None:
        self._stored.warm()
