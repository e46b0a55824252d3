"""What separates the chunks that an index serves from those of a source: little enough to serve beside the index, or a case for a rebuild.

Fingerprints of both sides are compared, 8 bytes a row, never the vectors: one pass over the source, some seconds at a million rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.retrieval.index import ChunkIndex, VectorSource
from mangaassist_assets.lib.retrieval.index_files import Fingerprints, Rows, fingerprints
from mangaassist_assets.lib.retrieval.segments import ChangeLog

MOST_CHANGED = 10_000  # fresh chunks are compared one by one: so many of 384 components add 1 ms to a query, which may take 3
MOST_SHARE = 0.05  # of the rows: what is replaced still takes up places among the candidates of a query
STEP, BLOCK = 500_000, 16_384  # rows whose ids, and whose vectors, are read at once


@dataclass(frozen=True)
class Difference:
    """What has to be changed in the chunks that are served so that they are those of a source.

    Attributes:
        upserted: ids of chunks that are new or have another base vector.
        vectors: theirs, (n, D) as the source gives them.
        deleted: ids of chunks that the source lacks.
    """

    upserted: list[str]
    vectors: NDArray[Any]
    deleted: list[str]

    def __len__(self) -> int:
        return len(self.upserted) + len(self.deleted)


def most_changed(rows: int) -> int:
    """How many changes an index of so many rows is served with at most."""
    return min(MOST_CHANGED, int(MOST_SHARE * rows))


def difference(index: ChunkIndex, log: ChangeLog, source: VectorSource) -> Difference | None:
    """What separates `index`, served with all changes of `log`, from `source`; None where it and the changes since would be too many.

    Args:
        index: of any space over the source's base space, with fingerprints.
        log: its changes, in the base space.
        source: base vectors of all chunks.

    Raises:
        DamagedArtifact: a change that is needed is missing or unreadable.
        SpaceMismatch: one is of another base space.
    """
    since = log.since(int(index.facts.get("changes_upto", 0)))
    room = most_changed(len(index)) - since.entries
    made_from = index.ids.fingerprints()
    valid = np.ones(len(made_from), np.bool_)
    if since.touched:
        valid[index.ids.rows_of(since.touched)] = False
    fresh = fingerprints(pa.array(since.ids, pa.string()), since.vectors)
    wanted = np.concatenate(list(_fingerprints_of(source)))
    single = _in_one_alone(made_from[valid], fresh, wanted)
    if len(single) > 2 * max(room, 0):  # a changed chunk has two of them
        return None
    rows = _rows_of(single, wanted)
    upserted = _ids_of(source, rows)
    gone = index.ids.of_rows(np.flatnonzero(valid)[_rows_of(single, made_from[valid])].tolist())
    gone += [since.ids[row] for row in _rows_of(single, fresh).tolist()]
    vectors = [source.vectors(row, row + 1) for row in rows.tolist()]
    deleted = sorted(set(gone) - set(upserted))
    found = Difference(upserted, np.concatenate([np.empty((0, source.space.dimension), np.float16), *vectors]), deleted)
    return found if len(found) <= max(room, 0) else None


def _steps(source: VectorSource) -> Iterator[tuple[int, int]]:
    return ((start, min(start + STEP, len(source))) for start in range(0, len(source), STEP))


def _fingerprints_of(source: VectorSource) -> Iterator[Fingerprints]:
    for start, stop in _steps(source):
        ids = source.chunk_ids(start, stop)
        for first in range(start, stop, BLOCK):
            vectors = source.vectors(first, min(first + BLOCK, stop))
            yield fingerprints(ids.slice(first - start, len(vectors)), vectors)


def _ids_of(source: VectorSource, rows: Rows) -> list[str]:
    """The ids of ascending rows."""
    found: list[str] = []
    for start, stop in _steps(source):
        inside = rows[(rows >= start) & (rows < stop)] - start
        if len(inside):
            found += source.chunk_ids(start, stop).take(pa.array(inside)).to_pylist()
    return found


def _in_one_alone(*sides: Fingerprints) -> Fingerprints:
    """The values that occur once over all sides, ascending."""
    every = np.concatenate(sides)
    every.sort()
    differs = np.concatenate([[True], every[1:] != every[:-1], [True]])
    single: Fingerprints = every[differs[1:] & differs[:-1]]
    return single


def _rows_of(some: Fingerprints, of: Fingerprints) -> Rows:
    """The rows of `of` whose value is among the ascending `some`."""
    if not len(some):
        return np.empty(0, np.int64)
    places = np.minimum(np.searchsorted(some, of), len(some) - 1)
    return np.flatnonzero(some[places] == of)
