"""The folder of an index: how it appears whole, and which chunk each of its rows is and was made from."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import MANIFEST, beside_of, digest_of, digest_of_file, sync_folder, write_atomic

Rows = NDArray[np.int64]
Fingerprints = NDArray[np.uint64]

KIND = "chunk_index"
IDS = "ids.arrow"


def publish_index(home: Path, facts: Mapping[str, Any], fill: Callable[[Path], None], known: Mapping[str, str] | None = None) -> Path:
    """Makes an index folder appear whole: `fill` writes its files beside, the manifest comes last, then one rename.

    Args:
        home: the folder of all indexes.
        facts: JSON values that describe the index; equal files and facts give an equal digest.
        fill: writes files into the folder that it is given.
        known: SHA-256 of files, by relative name, that are known already and need no reading.
    """
    home.mkdir(parents=True, exist_ok=True)
    beside = beside_of(home / "index")
    beside.mkdir()
    try:
        fill(beside)
        files = {}
        for path in sorted(p for p in beside.rglob("*") if p.is_file()):
            name = path.relative_to(beside).as_posix()
            sync_file(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": (known or {}).get(name) or digest_of_file(path)}
        manifest = json.loads(json.dumps({"kind": KIND, "facts": dict(facts), "files": files}))
        write_atomic(beside / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False).encode())
        place = home / f"sha256-{digest_of(manifest)}"
        if place.exists() and not _holds(place, manifest):
            shutil.rmtree(place)  # damaged, or left by a sweep that was killed
        try:
            beside.rename(place)
        except OSError:
            if not (place / MANIFEST).exists():  # the same index isn't there: something is really wrong
                raise
        sync_folder(home)
        return place
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _holds(place: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a folder has exactly what the manifest lists, byte for byte."""
    try:
        return bool(json.loads((place / MANIFEST).read_text("utf-8")) == manifest) and all(
            (place / name).stat().st_size == entry["bytes"] and digest_of_file(place / name) == entry["sha256"]
            for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError):
        return False


def sync_file(path: Path) -> None:
    """Flushes a file that somebody else wrote to the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


class StoredIds:
    """The chunk id of each row, memory-mapped from the Arrow files of an index, in order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._tables = [pa.ipc.open_file(pa.memory_map(str(p))).read_all() for p in paths]
        self._parts = [table.column("chunk_id") for table in self._tables]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def of_rows(self, rows: Iterable[int]) -> list[str]:
        """The ids of some rows."""
        found = []
        for row in rows:
            part = int(np.searchsorted(self._starts, row, side="right")) - 1
            found.append(self._parts[part][int(row - self._starts[part])].as_py())
        return found

    def rows_of(self, chunk_ids: Sequence[str]) -> Rows:
        """The rows that carry one of these ids, ascending; one pass over all ids."""
        wanted = pa.array(chunk_ids, pa.string())
        found = [
            np.flatnonzero(pc.is_in(part, wanted).to_numpy()) + start for part, start in zip(self._parts, self._starts[:-1], strict=True)
        ]
        return np.concatenate([np.empty(0, np.int64), *found]).astype(np.int64)

    def fingerprints(self) -> Fingerprints:
        """What each row was made from, (n,): see `fingerprints`."""
        return np.concatenate([np.empty(0, np.uint64), *(table.column("fingerprint").to_numpy() for table in self._tables)])


def fingerprints(chunk_ids: pa.Array | pa.ChunkedArray, vectors: NDArray[Any]) -> Fingerprints:
    """What rows are made from: of each the first 64 bits of SHA-256 over its chunk id and its base vector in half precision.

    A changed row keeps its fingerprint by chance once in 2^64. It takes 1.2 us a row of 384 components, a tenth of a rebuild's time.

    Args:
        chunk_ids: n strings.
        vectors: (n, D) base vectors as the source gives them.
    """
    halves = np.ascontiguousarray(vectors, "<f2")
    content, width = halves.tobytes(), 2 * halves.shape[1]
    digests = [
        hashlib.sha256(chunk_id.encode() + content[start : start + width]).digest()[:8]
        for chunk_id, start in zip(chunk_ids.to_pylist(), range(0, len(content), width), strict=True)
    ]
    return np.frombuffer(b"".join(digests), "<u8")


def write_ids(path: Path, ids: pa.Array | pa.ChunkedArray, made_from: Fingerprints) -> None:
    """Writes chunk ids and fingerprints of rows as an Arrow file that can be memory-mapped."""
    schema = pa.schema([("chunk_id", pa.string()), ("fingerprint", pa.uint64())])
    table = pa.table({"chunk_id": ids, "fingerprint": made_from}).cast(schema).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
