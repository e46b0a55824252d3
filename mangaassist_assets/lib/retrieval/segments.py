"""Chunks that changed since an index was built: a numbered log of changes, and an index that is served with them.

    <folder>/0000000001.parquet      one batch: chunk_id, deleted, vector (base space, float16); its number is its place in the order

An index says up to which change its source went (`changes_upto`); later ones are replayed over it, as far as the retriever bundle says
that is served with it. So an index comes back after a rollback with what it was served with last.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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


@dataclass(frozen=True)
class Changed:
    """What several changes come to.

    Attributes:
        upto: the number of the last one.
        ids: chunks that are new or have a new vector.
        vectors: their base vectors (m, D) float16.
        touched: those and the deleted ones: what an index says of them does not count.
        entries: chunks in all changes; one that changed twice counts twice.
    """

    upto: int
    ids: list[str]
    vectors: NDArray[np.float16]
    touched: list[str]
    entries: int


class ChangeLog:
    """Appends and reads changes of one base space; several processes may append.

    Args:
        folder: where the batches lie.
        space: the base space of all vectors.
    """

    def __init__(self, folder: Path, space: EmbeddingSpace) -> None:
        self._folder, self._space = folder, space

    @classmethod
    def of(cls, home: Path, space: EmbeddingSpace) -> "ChangeLog":
        """The log beside the indexes of a folder."""
        return cls(home / "changes", space)

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
        small = np.asarray(vectors, "<f2")  # as the source stores them: what is served is then what a rebuild would make of them
        adapted(small, None)
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

    def after(self, number: int, upto: int | None = None) -> Iterator[Change]:
        """The changes later than `number`, up to and with `upto`, in order; None: all.

        Raises:
            DamagedArtifact: one that is needed is missing or unreadable.
            SpaceMismatch: one holds vectors of another space.
        """
        for found in self._numbers():
            if found <= number:
                continue
            if upto is not None and found > upto:
                break
            if found != number + 1:
                raise DamagedArtifact(f"{self._folder}: change {number + 1} is missing. Rebuild the index from the stored vectors.")
            number = found
            yield self._read(number)
        if upto is not None and number < upto:
            raise DamagedArtifact(f"{self._folder}: change {number + 1} is missing. Rebuild the index from the stored vectors.")

    def since(self, number: int, upto: int | None = None) -> Changed:
        """What the changes later than `number` come to, the last of each chunk counts; arguments and errors as `after`."""
        current: dict[str, NDArray[np.float16]] = {}
        touched: dict[str, None] = {}
        entries = 0
        for change in self.after(number, upto):
            number = change.number
            for chunk_id in (*change.deleted, *change.upserted):
                current.pop(chunk_id, None)
                touched[chunk_id] = None
                entries += 1
            current.update(zip(change.upserted, change.vectors, strict=True))
        vectors = np.stack(list(current.values())) if current else np.empty((0, self._space.dimension), np.float16)
        return Changed(number, list(current), vectors, list(touched), entries)

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


class LiveIndex:
    """An index together with changes after it; safe to share between threads, as nothing in it changes.

    Rows are those of the base, then the fresh chunks.

    Args:
        base: the index that was built.
        log: changes in the base space.
        adapter: maps their vectors into the index's space; None where the index is of the base space.
        upto: the last change to serve; None serves all.

    Attributes:
        changes_upto: the number of the last change that is served.

    Raises:
        BadInput: the adapter is not the index's.
        DamagedArtifact: a change that is needed is missing or unreadable.
    """

    def __init__(self, base: ChunkIndex, log: ChangeLog, adapter: Adapter | None, *, upto: int | None = None) -> None:
        self.base, self.space, self.digest = base, base.space, base.digest
        if base.space.adapter != ("" if adapter is None else adapter.digest):
            raise BadInput(
                f"the index is of adapter {base.space.adapter[:12]!r}, changes would be mapped by another",
                where="chunk index",
                remedy="Open it with the adapter that it was built with.",
            )
        changed = log.since(int(base.facts.get("changes_upto", 0)), upto)
        self.changes_upto, self._ids = changed.upto, changed.ids
        self._vectors = adapted(changed.vectors, adapter) if changed.ids else np.empty((0, self.space.dimension), np.float32)
        replaced = base.ids.rows_of(changed.touched) if changed.touched else np.empty(0, np.int64)
        self._valid: Allowed | None = None  # rows of the base; None: all
        if len(replaced):
            mask = np.ones(len(base), np.bool_)
            mask[replaced] = False
            self._valid = Allowed(mask, len(base) - len(replaced))

    def __len__(self) -> int:
        return (len(self.base) if self._valid is None else self._valid.count) + len(self._ids)

    def allowed(self, chunk_ids: Sequence[str]) -> Allowed:
        """The rows of these chunks as they are served; unknown ones are left out."""
        n = len(self.base)
        mask = np.zeros(n + len(self._ids), np.bool_)
        mask[self.base.ids.rows_of(chunk_ids)] = True
        if self._valid is not None:
            mask[:n] &= self._valid.mask
        mask[n:] = pc.is_in(pa.array(self._ids, pa.string()), pa.array(chunk_ids, pa.string())).to_numpy(zero_copy_only=False)
        return Allowed.of(mask)

    def find(self, vectors: Vectors, k: int, space: EmbeddingSpace, allowed: Allowed | None = None) -> list[list[tuple[str, float]]]:
        """The k nearest chunks of each query, ids with cosines, best first; as ChunkIndex.find. `allowed` as the method gives it."""
        n, m = len(self.base), len(self._ids)
        check_space(self.space, space)
        check_queries(vectors, k, self.space.dimension)
        check_allowed(allowed, n + m)
        valid, fresh = self._valid, np.arange(m)
        if allowed is not None:
            fresh = np.flatnonzero(allowed.mask[n:])
            valid = Allowed(allowed.mask[:n], allowed.count - len(fresh))
        answers = []
        for query in np.ascontiguousarray(vectors, np.float32):
            rows, scores = self.base.search_one(query, k, valid)
            rows, scores = best(np.concatenate([rows, n + fresh]), np.concatenate([scores, (self._vectors @ query)[fresh]]), k)
            ids = [self._ids[row - n] if row >= n else self.base.ids.of_rows([row])[0] for row in rows.tolist()]
            answers.append(list(zip(ids, scores.tolist(), strict=True)))
        return answers
