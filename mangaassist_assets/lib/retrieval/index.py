"""Indexes of chunks: immutable folders that answer which chunks lie nearest to a vector, in one embedding space.

An index is a folder `sha256-<digest>` whose `manifest.json`, written last, lists every file with its size and SHA-256. Its rows are
numbered in the order of the source they were built from. Scores are cosines: stored vectors have length 1.

Three kinds share this interface: `FlatIndex` compares with every row, `ivf.IvfIndex` with the rows of the nearest lists, and
`fold.FoldedIndex` answers in an adapted space from an index of the base space.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import MANIFEST, digest_of, digest_of_file
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact
from mangaassist_assets.lib.retrieval.index_files import IDS, KIND, Rows, StoredIds, fingerprints, publish_index, write_ids
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, check_space

Vectors = NDArray[np.float32]

EXACT_ROWS = 10_000  # so few allowed rows are compared one by one, in milliseconds
MOST_BUILT_FLAT = 20_000  # above, one comparison with every row takes more than 3 ms on a core
_REMEDY = "Remove the folder and materialise `chunk_index` again."


class VectorSource(Protocol):
    """Stored base vectors, in a fixed order. It is pickled into workers, so it holds paths rather than bytes."""

    @property
    def space(self) -> EmbeddingSpace: ...

    @property
    def digest(self) -> str:
        """Changes whenever a vector, an id or their order does."""
        ...

    def __len__(self) -> int: ...

    def chunk_ids(self, start: int, stop: int) -> pa.Array | pa.ChunkedArray:
        """The ids of rows start to stop, strings."""
        ...

    def vectors(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start to stop, (stop - start, D), float16 or float32."""
        ...


class Adapter(Protocol):
    """What maps base vectors into the adapted space."""

    @property
    def digest(self) -> str: ...

    @property
    def foldable(self) -> bool: ...

    def apply(self, vectors: Any, /) -> Any:
        """(n, D) to (n, D'), rows of length 1."""
        ...

    def query_side(self, queries: Any, /) -> Any:
        """(n, D) to (n, D): W^T W q of a linear adapter."""
        ...


@dataclass(frozen=True)
class Allowed:
    """The rows that a search may return.

    Attributes:
        mask: one truth value for each row of the index.
        count: how many are true.
    """

    mask: NDArray[np.bool_]
    count: int

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> "Allowed":
        return cls(mask, int(np.count_nonzero(mask)))


class ChunkIndex(ABC):
    """What every index can do.

    Attributes:
        path: its folder.
        digest: SHA-256 of its manifest.
        space: the embedding space that it answers in.
        facts: what it was built from and how.
        ids: the chunk id of each row.
    """

    def __init__(self, path: Path, digest: str, facts: Mapping[str, Any], ids: StoredIds) -> None:
        self.path, self.digest, self.facts, self.ids = path, digest, dict(facts), ids
        self.space = EmbeddingSpace.from_json(facts["space"])

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def candidates(self, query: Vectors, count: int, allowed: Allowed | None, *, effort: int = 1) -> Rows:
        """Up to `count` rows whose inner product with `query` (D,) is presumably largest; `effort` multiplies what is searched."""

    @abstractmethod
    def vectors_of(self, rows: Rows | slice) -> Vectors:
        """The stored vectors of some rows, (n, D)."""

    @abstractmethod
    def warm(self) -> None:
        """Asks the system to bring memory-mapped files into memory."""

    @property
    def depth(self) -> int:
        """How many candidates are compared exactly."""
        return EXACT_ROWS

    def allowed(self, chunk_ids: Sequence[str]) -> Allowed:
        """The rows of these chunks; unknown ones are left out."""
        mask = np.zeros(len(self), np.bool_)
        mask[self.ids.rows_of(chunk_ids)] = True
        return Allowed.of(mask)

    def search(self, vectors: Vectors, k: int, space: EmbeddingSpace, allowed: Allowed | None = None) -> tuple[Rows, Vectors]:
        """The k nearest rows of each query, best first; equal scores in order of row.

        Args:
            vectors: (n, D) float32, of length 1, in `space`.
            k: how many rows for each.
            space: the embedding space of the queries.
            allowed: only these rows may be returned; None allows all.

        Returns:
            rows (n, k), -1 where fewer are allowed; cosines (n, k), -inf there.

        Raises:
            SpaceMismatch: the queries are of another space, even if of the same dimension.
            BadInput: a shape or a number is unusable.
        """
        check_space(self.space, space)
        check_queries(vectors, k, self.space.dimension)
        check_allowed(allowed, len(self))
        rows = np.full((len(vectors), k), -1, np.int64)
        scores = np.full((len(vectors), k), -np.inf, np.float32)
        for i, query in enumerate(np.ascontiguousarray(vectors, np.float32)):
            found, values = self.search_one(query, k, allowed)
            rows[i, : len(found)], scores[i, : len(found)] = found, values
        return rows, scores

    def find(self, vectors: Vectors, k: int, space: EmbeddingSpace, allowed: Allowed | None = None) -> list[list[tuple[str, float]]]:
        """Like `search`, but gives for each query the ids of its chunks with their cosines, best first."""
        rows, scores = self.search(vectors, k, space, allowed)
        return [list(zip(self.ids.of_rows(r[r >= 0].tolist()), s[r >= 0].tolist(), strict=True)) for r, s in zip(rows, scores, strict=True)]

    def search_one(self, query: Vectors, k: int, allowed: Allowed | None) -> tuple[Rows, Vectors]:
        """The k nearest rows of one query that needs no check, and their cosines."""
        found = enough_candidates(self, query, max(k, self.depth), k, allowed)
        return best(found, self.vectors_of(found) @ query, k)


def enough_candidates(index: ChunkIndex, query: Vectors, count: int, k: int, allowed: Allowed | None) -> Rows:
    """Candidates of one query among the allowed rows: at least k of them where so many are allowed."""
    if allowed is None:
        return index.candidates(query, count, None)
    if allowed.count <= EXACT_ROWS:
        return np.flatnonzero(allowed.mask).astype(np.int64)
    effort = 1
    while True:
        found = index.candidates(query, count * effort, allowed, effort=effort)
        if len(found) >= k or effort > len(index):
            return found
        effort *= 4


def best(rows: Rows, scores: Vectors, k: int) -> tuple[Rows, Vectors]:
    """The k rows of the largest scores, best first, equal ones in order of row."""
    if len(rows) > 4 * k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= least  # with all that tie for the last place, so that the order of rows decides
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def check_queries(vectors: Vectors, k: int, dimension: int) -> None:
    """Raises BadInput unless `vectors` is a finite (n, dimension) array and k is positive."""
    where, remedy = "query of the chunk index", "Encode the query with the index's encoder and adapter."
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise BadInput(f"vectors of shape {vectors.shape}, wanted (n, {dimension})", where=where, remedy=remedy)
    if not np.isfinite(vectors).all():
        raise BadInput("a vector has NaN or infinite components", where=where, remedy=remedy)
    if k < 1:
        raise BadInput(f"k is {k}", where=where, remedy="Ask for at least one result.")


def check_allowed(allowed: Allowed | None, rows: int) -> None:
    """Raises BadInput unless the mask covers the index."""
    if allowed is not None and allowed.mask.shape != (rows,):
        raise BadInput(
            f"a mask of shape {allowed.mask.shape}",
            where="filter of the chunk index",
            remedy=f"Give one truth value for each of the {rows} rows.",
        )


class FlatIndex(ChunkIndex):
    """Compares with every row: exact, and the fastest way for some ten thousand rows."""

    def __init__(self, path: Path, digest: str, facts: Mapping[str, Any], ids: StoredIds) -> None:
        super().__init__(path, digest, facts, ids)
        self._vectors: Vectors = np.memmap(path / "vectors.f32", np.float32, "r", shape=(len(ids), self.space.dimension))

    def candidates(self, query: Vectors, count: int, allowed: Allowed | None, *, effort: int = 1) -> Rows:
        rows = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed.mask)
        if len(rows) <= count:
            return rows.astype(np.int64)
        return best(rows.astype(np.int64), (self._vectors @ query)[rows], count)[0]

    def vectors_of(self, rows: Rows | slice) -> Vectors:
        return self._vectors[rows]

    def warm(self) -> None:
        self._vectors.max()  # touches every page, as the first query would

    def search_one(self, query: Vectors, k: int, allowed: Allowed | None) -> tuple[Rows, Vectors]:
        scores = self._vectors @ query
        rows = np.arange(len(self), dtype=np.int64) if allowed is None else np.flatnonzero(allowed.mask).astype(np.int64)
        return best(rows, scores[rows], k)


def build_flat(source: VectorSource, adapter: Adapter | None, home: Path, *, facts: Mapping[str, Any] | None = None) -> Path:
    """Writes a FlatIndex of all rows of `source`, mapped by `adapter`, below `home`; equal input gives equal bytes.

    Args:
        source: base vectors.
        adapter: maps them; None leaves them in the base space.
        home: the folder of all indexes.
        facts: further JSON values for the manifest.

    Returns:
        The index's folder.
    """
    n = len(source)
    ids, stored = source.chunk_ids(0, n), source.vectors(0, n)
    vectors = adapted(stored, adapter)
    space = space_of(source.space, adapter, vectors.shape[1])
    described = {"strategy": "flat", "rows": n, "source": source.digest, "space": space.to_json(), **(facts or {})}

    def fill(folder: Path) -> None:
        vectors.tofile(folder / "vectors.f32")
        write_ids(folder / IDS, ids, fingerprints(ids, stored))

    return publish_index(home, described, fill)


def adapted(vectors: NDArray[Any], adapter: Adapter | None) -> Vectors:
    """Vectors as float32 of length 1, mapped by the adapter if there is one; perhaps the very array that was given.

    Raises:
        BadInput: a vector is zero or not finite.
    """
    whole = np.asarray(vectors, np.float32)
    if adapter is not None:
        whole = np.asarray(adapter.apply(whole), np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", whole, whole))
    usable = np.isfinite(lengths) & (lengths > 0)
    if not usable.all():
        raise BadInput(
            f"row {int(np.argmin(usable))} is zero or not finite" + ("" if adapter is None else " after the adapter"),
            where="chunk vectors",
            remedy="Materialise `chunk_embeddings` and `embedding_adapter` again.",
        )
    if np.abs(lengths - 1).max(initial=0) > 1e-6:  # an adapter has done it already
        whole = whole / lengths[:, None]
    return np.ascontiguousarray(whole)


def space_of(base: EmbeddingSpace, adapter: Adapter | None, dimension: int) -> EmbeddingSpace:
    """The space of `base` vectors after `adapter`."""
    return base if adapter is None else base.adapted(adapter.digest, dimension)


# ── opening ─────────────────────────────────────────────────────────────────────────────────────────────────────


def open_index(path: Path, *, verify: bool = True) -> ChunkIndex:
    """Opens an index folder.

    Args:
        path: `.../sha256-<digest>`.
        verify: read every file against its SHA-256; False checks the large files of vectors by size alone, for a process that opens
            an index which was verified when it was published.

    Raises:
        DamagedArtifact: files are missing, added, cut short or altered, or the folder is no index.
    """
    from mangaassist_assets.lib.retrieval.fold import FoldedIndex
    from mangaassist_assets.lib.retrieval.ivf import IvfIndex

    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        digest, facts = digest_of(manifest), manifest["facts"]
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        strategy, right_kind = facts["strategy"], manifest["kind"] == KIND
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedArtifact(f"{path}: no readable {MANIFEST} of a chunk index ({type(error).__name__}). {_REMEDY}") from error
    if path.name != f"sha256-{digest}" or not right_kind:
        raise DamagedArtifact(f"{path}: the folder is not the index that its name says. {_REMEDY}")
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - {MANIFEST}
    if present != set(files):
        raise DamagedArtifact(f"{path}: manifest and folder differ in {', '.join(sorted(present ^ set(files))[:5])}. {_REMEDY}")
    for name, (size, sha256) in files.items():
        target = path / name
        read = verify or not name.endswith((".i8", ".f32"))
        if target.is_symlink() or target.stat().st_size != size or (read and digest_of_file(target) != sha256):
            raise DamagedArtifact(f"{target}: not the file that was written (size or SHA-256 differs). {_REMEDY}")
    if strategy == "folded":
        return FoldedIndex(path, digest, facts, open_index(path.parent / f"sha256-{facts['base']}", verify=verify))
    ids = StoredIds([path / name for name in sorted(files) if name.endswith(IDS)])
    if strategy == "flat":
        return FlatIndex(path, digest, facts, ids)
    return IvfIndex(path, digest, facts, ids)


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────


def blocks_of(source: VectorSource, adapter: Adapter | None, rows: int = 16_384) -> Iterator[tuple[int, Vectors]]:
    """The source's vectors after the adapter, a block at a time, each with the number of its first row."""
    n = len(source)
    for start in range(0, n, rows):
        yield start, adapted(source.vectors(start, min(start + rows, n)), adapter)


def exact_neighbours(blocks: Iterable[tuple[int, Vectors]], queries: Vectors, k: int) -> Rows:
    """The true k nearest rows of each query, (n, k), from one pass over all vectors."""
    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start, block in blocks:
        found = queries @ block.T
        kept = np.argpartition(-found, min(k, found.shape[1]) - 1, axis=1)[:, :k]
        rows = np.hstack([rows, kept + start])
        scores = np.hstack([scores, np.take_along_axis(found, kept, axis=1)])
        top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, top, axis=1), np.take_along_axis(scores, top, axis=1)
    return rows


def overlap(found: Rows, true: Rows) -> float:
    """Recall@k: the share of the true neighbours (n, k) that were found (n, k)."""
    return float(np.mean([len(np.intersect1d(f, t)) / true.shape[1] for f, t in zip(found, true, strict=True)]))
