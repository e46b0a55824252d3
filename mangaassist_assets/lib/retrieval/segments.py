"""Chunks that changed since an index was built: a numbered log of changes, and an index that serves them at once.

    <folder>/0000000001.parquet      one batch: chunk_id, deleted, vector (base space, float16); its number is its place in the order

An index says up to which change its source went (`changes_upto`); every later change is replayed over it. That holds for the index
that serves, for the one being built meanwhile, and for the previous one after a rollback.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import beside_of, sync_folder, write_atomic
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact
from mangaassist_assets.lib.retrieval.index import Adapter, Allowed, ChunkIndex, Vectors, adapted, best, check_allowed, check_queries
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, check_space

_BATCH = re.compile(r"\d{10}\.parquet")


@dataclass(frozen=True)
class Change:
    """One batch: chunks that are new or have a new vector, and chunks that are gone.

    Attributes:
        number: its place in the order, from 1.
        upserted: chunk ids.
        vectors: their base vectors (n, D) float16.
        deleted: chunk ids.
    """

    number: int
    upserted: list[str]
    vectors: NDArray[np.float16]
    deleted: list[str]


class ChangeLog:
    """Appends and reads changes of one base space; several processes may append.

    Args:
        folder: where the batches lie.
        space: the base space of all vectors.
    """

    def __init__(self, folder: Path, space: EmbeddingSpace) -> None:
        self._folder, self._space = folder, space

    @property
    def last(self) -> int:
        """The number of the latest change, 0 before the first."""
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        names = [p.name for p in self._folder.iterdir()] if self._folder.exists() else []
        return sorted(int(name[:10]) for name in names if _BATCH.fullmatch(name))

    def append(self, upserted: Sequence[str], vectors: NDArray[np.float16] | Vectors, deleted: Sequence[str] = ()) -> int:
        """Writes one batch, whole or not at all, and returns its number.

        Raises:
            BadInput: ids repeat, are empty, or do not match the vectors; a vector is zero or not finite.
        """
        where, remedy = "change of the chunk index", "Give each changed chunk once, with its base vector."
        ids = [*upserted, *deleted]
        if len(set(ids)) != len(ids) or not all(ids):
            raise BadInput("a chunk id is empty or repeats", where=where, remedy=remedy)
        if vectors.shape != (len(upserted), self._space.dimension):
            raise BadInput(f"vectors of shape {vectors.shape} for {len(upserted)} chunks", where=where, remedy=remedy)
        small = adapted(vectors, None).astype("<f2")
        table = pa.table(
            {
                "chunk_id": pa.array(ids, pa.string()),
                "deleted": pa.array([i >= len(upserted) for i in range(len(ids))], pa.bool_()),
                "vector": pa.array([*(row.tobytes() for row in small), *([None] * len(deleted))], pa.binary(2 * self._space.dimension)),
            }
        ).replace_schema_metadata({"space": json.dumps(self._space.to_json(), sort_keys=True)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = beside_of(self._folder / "change")
        write_atomic(beside, sink.getvalue().to_pybytes())
        try:
            number = self.last
            while True:
                number += 1
                try:
                    os.link(beside, self._folder / f"{number:010d}.parquet")  # fails where another process took the number
                    break
                except FileExistsError:
                    continue
        finally:
            beside.unlink()
        sync_folder(self._folder)
        return number

    def after(self, number: int) -> Iterator[Change]:
        """The changes later than `number`, in order.

        Raises:
            DamagedArtifact: one that is needed is missing or unreadable.
            SpaceMismatch: one holds vectors of another space.
        """
        for found in self._numbers():
            if found <= number:
                continue
            if found != number + 1:
                raise DamagedArtifact(f"{self._folder}: change {number + 1} is missing. Rebuild the index from the stored vectors.")
            number = found
            yield self._read(number)

    def _read(self, number: int) -> Change:
        path = self._folder / f"{number:010d}.parquet"
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            space = EmbeddingSpace.from_json(json.loads(table.schema.metadata[b"space"]))
            ids, gone = table.column("chunk_id").to_pylist(), table.column("deleted").to_pylist()
            rows = [np.frombuffer(v, "<f2") for v in table.column("vector").to_pylist() if v is not None]
        except (OSError, pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
            problem = f"{path}: not a readable change ({type(error).__name__})"
            raise DamagedArtifact(f"{problem}. Rebuild the index from the stored vectors.") from error
        check_space(self._space, space)
        vectors = np.stack(rows) if rows else np.empty((0, space.dimension), np.float16)
        upserted = [i for i, g in zip(ids, gone, strict=True) if not g]
        return Change(number, upserted, vectors, [i for i, g in zip(ids, gone, strict=True) if g])

    def prune(self, upto: int) -> int:
        """Removes changes that every index still in use includes (their least `changes_upto`); returns how many.

        The latest stays in any case: it carries the number that the next one continues.
        """
        old = [number for number in self._numbers() if number <= upto and number != self.last]
        for number in old:
            (self._folder / f"{number:010d}.parquet").unlink()
        return len(old)


@dataclass(frozen=True)
class _Fresh:
    """What the log adds to the base index, replaced as a whole so that a search sees one state."""

    upto: int
    ids: list[str]
    vectors: Vectors  # (m, D') in the index's space
    allowed: Allowed | None  # the base rows that are still valid; None: all


class LiveIndex:
    """An index together with the changes after it.

    Args:
        base: the index that was built.
        log: changes in the base space.
        adapter: maps their vectors into the index's space; None where the index is of the base space.
    """

    def __init__(self, base: ChunkIndex, log: ChangeLog, adapter: Adapter | None) -> None:
        self.base, self.space, self.digest = base, base.space, base.digest
        self._log, self._adapter = log, adapter
        if base.space.adapter != ("" if adapter is None else adapter.digest):
            raise BadInput(
                f"the index is of adapter {base.space.adapter[:12]!r}, changes would be mapped by another",
                where="chunk index",
                remedy="Open it with the adapter that it was built with.",
            )
        self._fresh = _Fresh(int(base.facts.get("changes_upto", 0)), [], np.empty((0, self.space.dimension), np.float32), None)
        self.refresh()

    def __len__(self) -> int:
        return len(self.base) + len(self._fresh.ids)

    @property
    def changes_upto(self) -> int:
        """The number of the last change that is served."""
        return self._fresh.upto

    def refresh(self) -> int:
        """Takes up changes that were logged since; returns how many batches. Searches meanwhile see the state before or after."""
        old = self._fresh
        changes = list(self._log.after(old.upto))
        if not changes:
            return 0
        current = dict(zip(old.ids, old.vectors, strict=True))
        touched: set[str] = set()
        for change in changes:
            for chunk_id in (*change.deleted, *change.upserted):
                current.pop(chunk_id, None)
                touched.add(chunk_id)
            if change.upserted:
                current.update(zip(change.upserted, adapted(change.vectors, self._adapter), strict=True))
        mask = np.ones(len(self.base), np.bool_) if old.allowed is None else old.allowed.mask.copy()
        mask[self.base.ids.rows_of(sorted(touched))] = False
        vectors = np.stack(list(current.values())) if current else np.empty((0, self.space.dimension), np.float32)
        allowed = None if mask.all() else Allowed.of(mask)
        self._fresh = _Fresh(changes[-1].number, list(current), np.ascontiguousarray(vectors, np.float32), allowed)
        return len(changes)

    def find(self, vectors: Vectors, k: int, space: EmbeddingSpace, allowed: Allowed | None = None) -> list[list[tuple[str, float]]]:
        """The k nearest chunks of each query, ids with cosines, best first; as ChunkIndex.find.

        `allowed` covers the rows of the base. Fresh chunks are always allowed: a filter by their attributes is the caller's.
        """
        check_space(self.space, space)
        check_queries(vectors, k, self.space.dimension)
        check_allowed(allowed, len(self.base))
        fresh, n = self._fresh, len(self.base)
        valid = fresh.allowed if allowed is None else allowed
        if allowed is not None and fresh.allowed is not None:
            valid = Allowed.of(fresh.allowed.mask & allowed.mask)
        answers = []
        for query in np.ascontiguousarray(vectors, np.float32):
            rows, scores = self.base.search_one(query, k, valid)
            every = np.concatenate([rows, n + np.arange(len(fresh.ids))])
            chosen, scores = best(every, np.concatenate([scores, fresh.vectors @ query]), k)
            ids = [fresh.ids[row - n] if row >= n else self.base.ids.of_rows([row])[0] for row in chosen.tolist()]
            answers.append(list(zip(ids, scores.tolist(), strict=True)))
        return answers
