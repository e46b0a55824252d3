"""Base vectors on disk: shards of half-precision rows that are read through the page cache.

    <folder>/shard-00003-of-00016/vectors-<digest>.f16     (n, D) little-endian half precision, rows in order of chunk_id
                                  ids-<digest>.parquet     chunk_id and digest of each row
                                  manifest.json            embedding space, n, sizes and digests; written last

Files carry their digest in their name and are never changed, so that a reader that has mapped one keeps what it opened. A chunk's shard
is decided by its id alone.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import MANIFEST, beside_of, digest_of_file, sync_folder, write_atomic
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace

Halves = NDArray[np.float16]
IDS = pa.schema(
    [
        pa.field("chunk_id", pa.string(), False, {"description": "of the row with the same number"}),
        pa.field("digest", pa.string(), False, {"description": "of the chunk that was embedded"}),
    ]
)
REMEDY = "Remove the folder and materialise chunk_embeddings again."


def shard_of(chunk_id: str, shards: int) -> int:
    """The shard of a chunk, the same in every process and version."""
    return int.from_bytes(hashlib.sha256(chunk_id.encode()).digest()[:8], "big") % shards


def shard_path(folder: Path, shard: int, shards: int) -> Path:
    """The folder of one shard."""
    return folder / f"shard-{shard:05d}-of-{shards:05d}"


@dataclass(frozen=True)
class VectorShard:
    """One shard as its manifest describes it.

    Attributes:
        path: its folder.
        space: of the vectors.
        n: rows.
        files: bytes and SHA-256 by file name.
    """

    path: Path
    shard: int
    shards: int
    space: EmbeddingSpace
    n: int
    files: dict[str, dict[str, Any]]

    @property
    def digest(self) -> str:
        """SHA-256 over space, rows and both files."""
        told = [self.space.digest, self.shard, self.shards, sorted(entry["sha256"] for entry in self.files.values())]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @cached_property
    def vectors(self) -> Halves:
        """(n, D), memory-mapped and read-only."""
        if not self.n:
            return np.empty((0, self.space.dimension), np.float16)
        return np.memmap(self._file(".f16"), np.float16, "r", shape=(self.n, self.space.dimension))

    @property
    def ids(self) -> pa.Table:
        """Table IDS."""
        try:
            return pq.read_table(self._file(".parquet"), memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise DamagedArtifact(f"{self.path}: its ids cannot be read ({str(error).splitlines()[0]}). {REMEDY}") from error

    def check(self) -> None:
        """Reads every byte; raises DamagedArtifact where one differs from what was written."""
        for name, entry in self.files.items():
            if digest_of_file(self.path / name) != entry["sha256"]:
                raise DamagedArtifact(f"{self.path}: {name} is not the file that was written (SHA-256 differs). {REMEDY}")

    def _file(self, suffix: str) -> Path:
        return self.path / next(name for name in self.files if name.endswith(suffix))


def open_shard(path: Path) -> VectorShard:
    """Opens a shard after checking its manifest and the sizes of its files.

    Raises:
        MissingEvidence: there is none.
        DamagedArtifact: the manifest cannot be read, or a file is missing or was cut short.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        files = {str(name): dict(entry) for name, entry in manifest["files"].items()}
        shard = VectorShard(
            path, manifest["shard"], manifest["shards"], EmbeddingSpace.from_json(manifest["space"]), int(manifest["n"]), files
        )
        expected = {".f16": shard.n * shard.space.dimension * 2}
        sizes = {name: (entry["bytes"], expected.get(Path(name).suffix, entry["bytes"])) for name, entry in files.items()}
        safe = sorted(Path(name).suffix for name in files) == [".f16", ".parquet"] and all(Path(name).name == name for name in files)
    except FileNotFoundError as error:
        raise MissingEvidence(f"{path}: no vectors here. Materialise chunk_embeddings.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedArtifact(f"{path}: no readable {MANIFEST} ({type(error).__name__}). {REMEDY}") from error
    if not safe:
        raise DamagedArtifact(f"{path}: the manifest names {', '.join(sorted(files))}. {REMEDY}")
    for name, (listed, by_rows) in sizes.items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != listed or listed != by_rows:
            state = "is missing" if found is None else f"has {found:,} bytes instead of {listed:,}"
            raise DamagedArtifact(f"{path}: {name} {state}. {REMEDY}")
    return shard


def write_shard(
    folder: Path, shard: int, shards: int, space: EmbeddingSpace, ids: pa.Table, blocks: Iterable[NDArray[np.floating[Any]]]
) -> VectorShard:
    """Publishes a shard in place of the one that is there.

    Args:
        folder: of all shards.
        shard: its number, from 0.
        shards: how many there are.
        space: of the vectors.
        ids: table IDS in order of chunk_id.
        blocks: the vectors of its rows in the same order, (m, D) each; not one is held longer than until the next.

    Raises:
        BadInput: a vector is not finite, or zero; or there are more or fewer of them than ids.
    """
    path = shard_path(folder, shard, shards)
    path.mkdir(parents=True, exist_ok=True)
    sink = pa.BufferOutputStream()
    pq.write_table(ids.cast(IDS), sink, compression="zstd", write_statistics=False, write_page_checksum=True)
    listing = sink.getvalue().to_pybytes()
    beside = beside_of(path / "vectors.f16")
    hashed, rows = hashlib.sha256(), 0
    try:
        with beside.open("wb") as stream:
            for block in blocks:
                halves = checked(block, ids, rows, space.dimension)
                rows += len(halves)
                stream.write(halves.data)
                hashed.update(halves.data)
            stream.flush()
            os.fsync(stream.fileno())
        if rows != ids.num_rows:
            raise BadInput(f"{rows:,} vectors for {ids.num_rows:,} chunks", where=str(path), remedy="Give one vector for each chunk.")
        size, digest, listing_digest = beside.stat().st_size, hashed.hexdigest(), hashlib.sha256(listing).hexdigest()
        files = {
            f"vectors-{digest[:16]}.f16": {"bytes": size, "sha256": digest},
            f"ids-{listing_digest[:16]}.parquet": {"bytes": len(listing), "sha256": listing_digest},
        }
        vectors_name, ids_name = files
        beside.replace(path / vectors_name)
    finally:
        beside.unlink(missing_ok=True)
    write_atomic(path / ids_name, listing)
    manifest = {"space": space.to_json(), "shard": shard, "shards": shards, "n": rows, "files": files}
    write_atomic(path / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode())
    for old in path.iterdir():
        if old.suffix in (".f16", ".parquet") and old.name not in files:
            old.unlink(missing_ok=True)
    sync_folder(path)
    return open_shard(path)


def checked(block: NDArray[np.floating[Any]], ids: pa.Table, first: int, dimension: int) -> Halves:
    """A block of vectors (m, D) as contiguous halves; `first` is the row of its first vector in `ids`.

    Raises:
        BadInput: of another dimension, more vectors than ids, or a vector that is not finite, or zero.
    """
    if block.ndim != 2 or block.shape[1] != dimension or first + len(block) > ids.num_rows:
        raise BadInput(
            f"vectors of shape {block.shape} from row {first:,} of {ids.num_rows:,}",
            where="chunk embeddings",
            remedy=f"Give (m, {dimension}), one row for each chunk.",
        )
    halves = np.ascontiguousarray(block, np.float16)
    wide = halves.astype(np.float32)
    squares = np.einsum("nd,nd->n", wide, wide)
    bad = np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))
    if len(bad):
        chunk_id = ids["chunk_id"][first + int(bad[0])].as_py()
        kind = "zero" if squares[bad[0]] == 0 else "not finite"
        raise BadInput(f"its vector is {kind}", where=f"chunk {chunk_id}", remedy="Check the encoder, or leave the chunk out.")
    return halves


class VectorStore:
    """All shards of a folder as one array, shard after shard.

    Attributes:
        shards: in order; none of their vectors is in memory until it is touched.
        space: of all vectors.
        starts: (shards + 1,) first row of each shard, and the number of rows.
    """

    def __init__(self, shards: Sequence[VectorShard]) -> None:
        self.shards = list(shards)
        self.space = self.shards[0].space
        self.starts = np.concatenate([[0], np.cumsum([shard.n for shard in self.shards])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def digest(self) -> str:
        """SHA-256 over all shards."""
        return hashlib.sha256("".join(shard.digest for shard in self.shards).encode()).hexdigest()

    @cached_property
    def ids(self) -> pa.Table:
        """Table IDS of all rows."""
        return pa.concat_tables([shard.ids for shard in self.shards])

    def vectors(self, start: int = 0, stop: int | None = None) -> Halves:
        """Rows start..stop (m, D); within one shard a view of the map, else a copy."""
        stop = len(self) if stop is None else min(stop, len(self))
        pieces = [
            shard.vectors[max(start - first, 0) : stop - first]
            for shard, first in zip(self.shards, self.starts.tolist(), strict=False)
            if first < stop and start < first + shard.n
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, self.space.dimension), np.float16)

    def blocks(self, rows: int = 65_536) -> Iterator[Halves]:
        """All rows in order, up to `rows` at a time, never across shards."""
        for shard in self.shards:
            for at in range(0, shard.n, rows):
                yield shard.vectors[at : at + rows]

    def lookup(self, chunk_ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each chunk, -1 where it has none."""
        found = pc.index_in(pa.array(chunk_ids, pa.string()), value_set=self.ids["chunk_id"].combine_chunks())
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64)


def open_shards(folder: Path, shards: int | None = None) -> VectorStore:
    """Opens all shards of a folder.

    Args:
        folder: of all shards.
        shards: how many there must be; None takes what the folder holds.

    Raises:
        MissingEvidence: a shard has not been made yet.
        DamagedArtifact: a shard is not what was written.
        BadInput: shards of several numbers or spaces lie side by side.
    """
    counts = {int(path.name.rsplit("-", 1)[1]) for path in folder.glob("shard-*-of-*")} if shards is None else {shards}
    if not counts:
        raise MissingEvidence(f"{folder}: no vectors here. Materialise chunk_embeddings.")
    if len(counts) > 1:
        told = ", ".join(map(str, sorted(counts)))
        raise BadInput(
            f"shards out of {told} lie here", where=str(folder), remedy="Materialise chunk_embeddings with one number of shards."
        )
    count = counts.pop()
    opened = [open_shard(shard_path(folder, shard, count)) for shard in range(count)]
    if len({shard.space for shard in opened}) > 1:
        told = ", ".join(sorted({shard.space.name for shard in opened}))
        raise BadInput(
            f"shards of several embedding spaces ({told})", where=str(folder), remedy="Materialise chunk_embeddings of all shards."
        )
    return VectorStore(opened)
