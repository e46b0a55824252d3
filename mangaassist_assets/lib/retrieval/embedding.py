"""Chunks into shards of base vectors: only what is missing or has changed is encoded, and a killed run goes on where it stopped.

What has been encoded is appended to a journal beside the shard before the next batch begins. A line of the journal counts only where
its check sum fits its vector, so that a torn end is encoded again and nothing else.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.errors import BadInput, Conflict, MissingEvidence
from mangaassist_assets.lib.retrieval.chunking import embedded_text
from mangaassist_assets.lib.retrieval.encoders import TextEncoder
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace
from mangaassist_assets.lib.retrieval.vectors import (
    Halves,
    VectorShard,
    VectorStore,
    checked,
    open_shard,
    open_shards,
    shard_of,
    shard_path,
    write_shard,
)
from mangaassist_assets.lib.retrieval.workers import run_shards

JOURNAL_IDS, JOURNAL_VECTORS = "journal.jsonl", "journal.halves"
BATCH = 64
COPY_ROWS = 16_384
LOCK_WAIT_S = 60.0  # a worker that lost its Ray node may hold the lock for some seconds more
Progress = Callable[[int, int], None]
Row = tuple[Halves, int]


def shard_numbers(chunks: pa.Table, shards: int) -> pa.Array:
    """The shard of each row of CHUNKS, int32."""
    return pa.array([shard_of(chunk_id, shards) for chunk_id in chunks["chunk_id"].to_pylist()], pa.int32())


def embed_shard(
    chunks: pa.Table,
    encoder: TextEncoder,
    folder: Path,
    shard: int,
    shards: int,
    *,
    progress: Progress = lambda done, all_: None,
) -> VectorShard:
    """Brings one shard up to date with its chunks.

    Args:
        chunks: columns chunk_id, digest, title and text of CHUNKS; rows of other shards are left out.
        encoder: makes the vectors that are missing.
        folder: of all shards.
        shard: its number, from 0.
        shards: how many there are.
        progress: told how many of the missing vectors are there, and how many were missing.

    Raises:
        BadInput: a vector is not finite, or zero; or a chunk_id comes twice.
        DamagedArtifact: the shard that is there is not what was written.
        Conflict: another process is embedding this shard.
    """
    mine = chunks.select(["chunk_id", "digest", "title", "text"]).filter(pc.equal(shard_numbers(chunks, shards), shard)).sort_by("chunk_id")
    ids = mine.select(["chunk_id", "digest"])
    if (unique := pc.count_distinct(ids["chunk_id"]).as_py()) < ids.num_rows:
        raise BadInput(f"{ids.num_rows - unique} chunk ids come twice", where="catalog_chunks", remedy="Materialise catalog_chunks again.")
    path = shard_path(folder, shard, shards)
    path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        current = _existing(path, encoder.space)
        if current is not None and current.ids.equals(ids.cast(current.ids.schema)):
            _forget_journal(path)
            return current
        known = _known(folder, shard, shards, encoder.space)
        wanted = list(zip(ids["chunk_id"].to_pylist(), ids["digest"].to_pylist(), strict=True))
        with _Journal(path, encoder.space) as journal:
            missing = [row for row, key in enumerate(wanted) if key not in known and key not in journal.rows]
            for at in range(0, len(missing), BATCH):
                rows = missing[at : at + BATCH]
                batch = mine.take(rows)
                texts = [embedded_text(*pair) for pair in zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)]
                journal.append([wanted[row] for row in rows], checked(encoder.encode(texts), ids.take(rows), 0, encoder.space.dimension))
                progress(min(at + BATCH, len(missing)), len(missing))
            made = journal.vectors()
            sources = [known.get(key) or (made, journal.rows[key]) for key in wanted]
            written = write_shard(folder, shard, shards, encoder.space, ids, _gathered(sources, encoder.space.dimension))
        _forget_journal(path)
    return written


def embed_chunks(
    chunks: pa.Table,
    encoder: TextEncoder,
    folder: Path,
    *,
    shards: int,
    progress: Progress = lambda done, all_: None,
) -> VectorStore:
    """Brings all shards up to date in this process; `progress` counts the vectors that were missing, shard by shard.

    Raises:
        As `embed_shard`.
    """
    for shard in range(shards):
        embed_shard(chunks, encoder, folder, shard, shards, progress=progress)
    forget_other_layouts(folder, shards)
    return open_shards(folder, shards)


def embed_on_workers(chunks: pa.Table, make_encoder: Callable[[], TextEncoder], folder: Path, *, shards: int, workers: str) -> VectorStore:
    """`embed_chunks` with a worker process for each shard, here or on Ray, whose nodes all see `folder`.

    Args:
        chunks: table CHUNKS.
        make_encoder: makes the encoder in a worker; it has to be picklable, such as `partial(open_encoder, bundle, settings)`.
        folder: of all shards.
        shards: how many.
        workers: as in `run_shards`.

    Raises:
        As `embed_shard` and `run_shards`.
    """
    numbers, columns = shard_numbers(chunks, shards), chunks.select(["chunk_id", "digest", "title", "text"])
    tasks = [(columns.filter(pc.equal(numbers, shard)), make_encoder, folder, shard, shards) for shard in range(shards)]
    run_shards(_embed_task, tasks, workers)
    forget_other_layouts(folder, shards)
    return open_shards(folder, shards)


def _embed_task(task: tuple[pa.Table, Callable[[], TextEncoder], Path, int, int]) -> int:
    chunks, make_encoder, folder, shard, shards = task
    return embed_shard(chunks, make_encoder(), folder, shard, shards).n


def forget_other_layouts(folder: Path, shards: int) -> None:
    """Removes shards out of another number, once all out of `shards` are there."""
    if not all((shard_path(folder, shard, shards) / "manifest.json").is_file() for shard in range(shards)):
        return
    for path in folder.glob("shard-*-of-*"):
        if not path.name.endswith(f"-of-{shards:05d}"):
            shutil.rmtree(path)


# ── what is there already ───────────────────────────────────────────────────────────────────────────────────────────


def _existing(path: Path, space: EmbeddingSpace) -> VectorShard | None:
    try:
        found = open_shard(path)
    except MissingEvidence:
        return None
    return found if found.space == space else None


def _known(folder: Path, shard: int, shards: int, space: EmbeddingSpace) -> dict[tuple[str, str], Row]:
    """Where the vector of each (chunk_id, digest) of this shard lies: in the shard, or in those of another number of shards."""
    own = _existing(shard_path(folder, shard, shards), space)
    others = [p for p in sorted(folder.glob("shard-*-of-*")) if not p.name.endswith(f"-of-{shards:05d}")]
    sources = [own] if own is not None else [found for path in others if (found := _existing(path, space)) is not None]
    known: dict[tuple[str, str], Row] = {}
    for source in sources:
        source.check()
        listed = source.ids
        for row, key in enumerate(zip(listed["chunk_id"].to_pylist(), listed["digest"].to_pylist(), strict=True)):
            if source is own or shard_of(key[0], shards) == shard:
                known[key] = source.vectors, row
    return known


def _gathered(sources: Sequence[Row], dimension: int) -> Iterator[Halves]:
    for at in range(0, len(sources), COPY_ROWS):
        block = np.empty((min(COPY_ROWS, len(sources) - at), dimension), np.float16)
        for row, (vectors, place) in enumerate(sources[at : at + COPY_ROWS]):
            block[row] = vectors[place]
        yield block


# ── the journal ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Journal:
    """Vectors made so far. The first line names the space; each further one chunk_id, digest and check sum of a vector.

    Attributes:
        rows: row in the file of vectors by (chunk_id, digest).
    """

    def __init__(self, path: Path, space: EmbeddingSpace) -> None:
        self._ids, self._vectors = path / JOURNAL_IDS, path / JOURNAL_VECTORS
        self._space, self._row_bytes = space, 2 * space.dimension
        self.rows: dict[tuple[str, str], int] = {}

    def __enter__(self) -> "_Journal":
        whole = self._read()
        if not whole:
            header = json.dumps({"space": self._space.digest}).encode() + b"\n"
            self._ids.write_bytes(header)
            self._vectors.write_bytes(b"")
            whole = len(header)
        os.truncate(self._ids, whole)
        os.truncate(self._vectors, len(self.rows) * self._row_bytes)
        self._lines: IO[bytes] = self._ids.open("ab")
        self._halves: IO[bytes] = self._vectors.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._halves.close()

    def _read(self) -> int:
        """Fills `rows` and returns the bytes of whole lines; 0 where there is no journal of this space."""
        try:
            lines, halves = self._ids.read_bytes().split(b"\n"), np.fromfile(self._vectors, np.uint8)
        except FileNotFoundError:
            return 0
        if len(lines) < 2 or lines[0] != json.dumps({"space": self._space.digest}).encode():
            return 0
        whole = len(lines[0]) + 1
        for row, line in enumerate(lines[1:-1]):
            vector = halves[row * self._row_bytes : (row + 1) * self._row_bytes]
            try:
                chunk_id, digest, check = json.loads(line)
            except ValueError:
                break
            if len(vector) < self._row_bytes or zlib.crc32(vector.data) != check:
                break
            self.rows[chunk_id, digest] = row
            whole += len(line) + 1
        return whole

    def append(self, keys: Sequence[tuple[str, str]], vectors: Halves) -> None:
        """Writes vectors before their lines, and both before the next batch."""
        first = len(self.rows)
        self._halves.write(vectors.data)
        self._halves.flush()
        self._lines.writelines(json.dumps([*key, zlib.crc32(row.data)]).encode() + b"\n" for key, row in zip(keys, vectors, strict=True))
        self._lines.flush()
        self.rows |= {key: first + row for row, key in enumerate(keys)}

    def vectors(self) -> Halves:
        if not self.rows:
            return np.empty((0, self._space.dimension), np.float16)
        return np.memmap(self._vectors, np.float16, "r", shape=(len(self.rows), self._space.dimension))


def _forget_journal(path: Path) -> None:
    (path / JOURNAL_IDS).unlink(missing_ok=True)  # first: vectors without lines count for nothing
    (path / JOURNAL_VECTORS).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps a second process out; the kernel lets go of the lock of a killed one."""
    with (path / "lock").open("ab") as stream:
        end = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise Conflict(f"{path}: another process is embedding this shard. Wait for it, or end it.") from error
                time.sleep(0.1)
        yield
