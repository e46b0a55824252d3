"""A whole index from stored base vectors and an adapter: streamed part by part, resumable, the same bytes every time.

    <home>/.building-<plan>/sample.f16, order.i64       what the centroids are trained on
                            training.safetensors        centroids and codebook
                            parts/<number>/             int8 vectors, ids and codes of some rows; manifest.json written last
    <home>/sha256-<digest>/                             the finished index: the parts' files, and all codes in faiss's lists

The plan is the digest of everything that decides the result, so a killed build is found again by the next one, which skips the parts
that have a manifest. No process holds more than a part's codes and a block of vectors, until all codes (some 60 bytes a row) are put
into lists at the end.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import MANIFEST, beside_of, digest_of, digest_of_file, sync_folder, write_atomic
from mangaassist_assets.lib.errors import BadInput, Conflict, DamagedArtifact, Unavailable
from mangaassist_assets.lib.retrieval.centroids import Run, in_turn, one_thread, train
from mangaassist_assets.lib.retrieval.index import (
    MOST_BUILT_FLAT,
    Adapter,
    ChunkIndex,
    VectorSource,
    adapted,
    build_flat,
    space_of,
)
from mangaassist_assets.lib.retrieval.index_files import IDS, fingerprints, publish_index, sync_file, write_ids
from mangaassist_assets.lib.retrieval.ivf import LISTS, TRAINING, Centroids, IvfIndex, quantised
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace

FORMAT = 2  # of the files; a build begun by another format is not continued
BLOCK = 16_384


@dataclass(frozen=True)
class IndexSettings:
    """How an index is built and searched.

    Attributes:
        most_flat: up to so many rows are compared one by one, without lists.
        lists_per_root: lists = this times the square root of the rows.
        points_per_list: sample rows that train a list.
        code_dims: components that share one 4-bit code; fewer are more precise and take more memory.
        assign_groups: groups of lists that are looked into for the list of a row.
        part_rows: rows of one resumable part.
        probes: lists searched for a query.
        candidates: rows compared exactly for a query.
        seed: of the training sample.
    """

    most_flat: int = MOST_BUILT_FLAT
    lists_per_root: float = 8.0
    points_per_list: int = 24
    code_dims: int = 4
    assign_groups: int = 3
    part_rows: int = 500_000
    probes: int = 128
    candidates: int = 512
    seed: int = 0


def rebuild(
    source: VectorSource,
    adapter: Adapter | None,
    home: Path,
    settings: IndexSettings,
    *,
    run: Run = in_turn,
    previous: ChunkIndex | None = None,
    changes_upto: int = 0,
) -> Path:
    """Builds the index of all rows of `source` in the space of `adapter`.

    Args:
        source: base vectors.
        adapter: maps them; None builds in the base space.
        home: the folder of all indexes.
        settings: how.
        run: calls a picklable function for each of some numbers, in any order, perhaps in other processes on the same file system; the
            results come back in the order of the numbers.
        previous: an index of the same base space whose centroids k-means starts from.
        changes_upto: number of the last change (see segments.ChangeLog) that `source` includes.

    Returns:
        The folder of the index.

    Raises:
        BadInput: the source is empty, or a vector cannot be used.
        Conflict: another process builds the same index.
        Unavailable: the disk is full; what is finished stays for the next run.
    """
    try:
        return _rebuild(source, adapter, home, settings, run, previous, changes_upto)
    except (OSError, RuntimeError) as error:  # faiss raises the latter
        if getattr(error, "errno", None) != errno.ENOSPC and os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise Unavailable(f"{home}: the disk is full. Make room and run again; the build goes on where it stopped.") from error


def _rebuild(
    source: VectorSource,
    adapter: Adapter | None,
    home: Path,
    settings: IndexSettings,
    run: Run,
    previous: ChunkIndex | None,
    changes_upto: int,
) -> Path:
    n = len(source)
    if n == 0:
        remedy = "Materialise `chunk_embeddings`; see `[sources.catalog]`."
        raise BadInput("no vectors to build an index of", where="chunk index", remedy=remedy)
    if n <= settings.most_flat:
        with one_thread():
            return build_flat(source, adapter, home, facts={"changes_upto": changes_upto})
    plan = _plan(source, adapter, settings, previous, changes_upto)
    work = home / f".building-{digest_of(plan)[:24]}"
    with _locked(work):
        _forget_other_builds(work)
        training = _training(work, source, adapter, settings, run, previous)
        parts = range(-(-n // settings.part_rows))
        run(partial(build_part, work=work, source=source, adapter=adapter, settings=settings), parts)
        folder = _finish(work, home, plan, training, settings, len(parts))
        shutil.rmtree(work)
    return folder


def _plan(
    source: VectorSource, adapter: Adapter | None, settings: IndexSettings, previous: ChunkIndex | None, changes_upto: int
) -> dict[str, Any]:
    """Everything that decides the bytes of the result."""
    if previous is not None and not isinstance(previous, IvfIndex):
        previous = None  # only lists have centroids to start from
    sample = adapted(source.vectors(0, 1), adapter)
    if sample.shape[1] % settings.code_dims:
        raise BadInput(
            f"dimension {sample.shape[1]} is no multiple of code_dims {settings.code_dims}",
            where="index settings",
            remedy="Set code_dims to a divisor of the dimension.",
        )
    return {
        "strategy": "ivf",
        "format": FORMAT,
        "rows": len(source),
        "source": source.digest,
        "space": space_of(source.space, adapter, sample.shape[1]).to_json(),
        "settings": dataclasses.asdict(settings),
        "search": {"probes": settings.probes, "candidates": settings.candidates},
        "started_from": previous.digest if previous is not None else "",
        "changes_upto": changes_upto,
    }


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Holds the build's folder; the lock ends with the process, however that ends."""
    work.mkdir(parents=True, exist_ok=True)
    handle = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"{work}: another process builds this index. Wait for it, or end it, and run again.") from error
        yield
    finally:
        os.close(handle)


def _forget_other_builds(work: Path) -> None:
    """Removes what killed builds of other plans left, so that their disk space can be used."""
    for other in work.parent.glob(".building-*"):
        if other != work:
            with contextlib.suppress(Conflict), _locked(other):
                shutil.rmtree(other)


def _training(
    work: Path, source: VectorSource, adapter: Adapter | None, settings: IndexSettings, run: Run, previous: ChunkIndex | None
) -> dict[str, NDArray[Any]]:
    """Trains centroids and codebook, or reads what an interrupted build trained."""
    from safetensors.numpy import load_file, save

    path = work / TRAINING
    if not path.exists():
        before = load_file(previous.path / TRAINING) if isinstance(previous, IvfIndex) else None
        if before is not None and before["base_lists"].shape[1] != source.space.dimension:
            raise BadInput(
                f"the previous index has base vectors of {before['base_lists'].shape[1]} dimensions, the source {source.space.dimension}",
                where="chunk index",
                remedy="Build without a previous index.",
            )
        arrays = train(
            source,
            adapter,
            work,
            lists=max(1, round(settings.lists_per_root * np.sqrt(len(source)))),
            points_per_list=settings.points_per_list,
            code_dims=settings.code_dims,
            seed=settings.seed,
            run=run,
            previous=before,
        )
        write_atomic(path, save(arrays))
    return dict(load_file(path))


# ── one part ────────────────────────────────────────────────────────────────────────────────────────────────────


def build_part(number: int, *, work: Path, source: VectorSource, adapter: Adapter | None, settings: IndexSettings) -> None:
    """Writes part `number`, unless it is there: vectors.i8, scales.f32, ids.arrow, and sorted by list codes.u8, rows.i32, counts.i32."""
    from safetensors.numpy import load_file

    folder = work / "parts" / f"{number:05d}"
    if _is_whole(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    for abandoned in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(abandoned, ignore_errors=True)
    training = load_file(work / TRAINING)
    centroids = Centroids(training["groups"], training["lists"], training["starts"])
    start = number * settings.part_rows
    stop = min(start + settings.part_rows, len(source))
    beside = beside_of(folder)
    beside.mkdir()
    try:
        with one_thread():
            digests = _fill_part(beside, source, adapter, settings, centroids, _coder(training["codebook"]), start, stop)
        for name in digests:
            sync_file(beside / name)
        listed = {name: {"bytes": (beside / name).stat().st_size, "sha256": digest} for name, digest in digests.items()}
        write_atomic(beside / MANIFEST, json.dumps(listed, indent=2, sort_keys=True).encode())
        beside.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether a part is there with all its bytes."""
    try:
        listed = json.loads((folder / MANIFEST).read_text("utf-8"))
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in listed.items())
    except (OSError, ValueError):
        return False


def _coder(codebook: NDArray[np.float32]) -> Any:
    import faiss

    parts, _, code_dims = codebook.shape
    coder = faiss.ProductQuantizer(parts * code_dims, parts, 4)
    faiss.copy_array_to_vector(np.ascontiguousarray(codebook).ravel(), coder.centroids)
    return coder


def _fill_part(
    folder: Path,
    source: VectorSource,
    adapter: Adapter | None,
    settings: IndexSettings,
    centroids: Centroids,
    coder: Any,
    start: int,
    stop: int,
) -> dict[str, str]:
    """Writes a part's files and returns their SHA-256."""
    lists, codes, scales, made_from = [], [], [], []
    ids = source.chunk_ids(start, stop)
    content = hashlib.sha256()
    with (folder / "vectors.i8").open("wb") as stream:
        for first in range(start, stop, BLOCK):
            stored = source.vectors(first, min(first + BLOCK, stop))
            made_from.append(fingerprints(ids.slice(first - start, len(stored)), stored))
            block = adapted(stored, adapter)
            small, factors = quantised(block)
            stream.write(small.data)
            content.update(small.data)
            nearest = centroids.nearest(block, settings.assign_groups)
            lists.append(nearest)
            codes.append(coder.compute_codes(block - centroids.lists[nearest]))
            scales.append(factors)
    of_list = np.concatenate(lists)
    order = np.argsort(of_list, kind="stable")
    np.concatenate(scales).tofile(folder / "scales.f32")
    np.concatenate(codes)[order].tofile(folder / "codes.u8")
    order.astype(np.int32).tofile(folder / "rows.i32")
    np.bincount(of_list, minlength=len(centroids.lists)).astype(np.int32).tofile(folder / "counts.i32")
    write_ids(folder / IDS, ids, np.concatenate(made_from))
    names = ("scales.f32", "codes.u8", "rows.i32", "counts.i32", IDS)
    return {"vectors.i8": content.hexdigest(), **{name: digest_of_file(folder / name) for name in names}}


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────


def _finish(
    work: Path, home: Path, plan: Mapping[str, Any], training: Mapping[str, NDArray[Any]], settings: IndexSettings, parts: int
) -> Path:
    """Puts all codes into faiss's lists and publishes them with the parts' vectors and ids."""
    import faiss

    with one_thread():
        index = assemble(work, EmbeddingSpace.from_json(plan["space"]).dimension, training, settings, parts)
    known = {}

    def fill(folder: Path) -> None:
        faiss.write_index(index, str(folder / LISTS))
        os.link(work / TRAINING, folder / TRAINING)
        for number in range(parts):
            part = work / "parts" / f"{number:05d}"
            listed = json.loads((part / MANIFEST).read_text("utf-8"))
            (folder / "parts" / part.name).mkdir(parents=True)
            for name in ("vectors.i8", "scales.f32", IDS):
                os.link(part / name, folder / "parts" / part.name / name)
                known[f"parts/{part.name}/{name}"] = listed[name]["sha256"]

    return publish_index(home, plan, fill, known)


def assemble(work: Path, dimension: int, training: Mapping[str, NDArray[Any]], settings: IndexSettings, parts: int) -> Any:
    """The faiss index of all parts' codes; a row's id is its number in the source."""
    import faiss

    centroids = Centroids(training["groups"], training["lists"], training["starts"])
    quantizer: Any = centroids.quantizer()
    coder = _coder(training["codebook"])
    plain: Any = faiss.IndexIVFPQ(quantizer, dimension, len(centroids.lists), coder.M, 4, faiss.METRIC_INNER_PRODUCT)
    plain.pq, plain.by_residual, plain.is_trained = coder, True, True
    _fill_lists(plain, work, settings, parts)
    fast: Any = faiss.IndexIVFPQFastScan(plain)
    fast.referenced_objects = [quantizer]
    return fast


def _fill_lists(plain: Any, work: Path, settings: IndexSettings, parts: int) -> None:
    """Adds the codes of all parts, list by list, each list at once."""
    import faiss

    opened = [_part_codes(work / "parts" / f"{number:05d}", plain.code_size) for number in range(parts)]
    totals = np.sum([np.diff(starts) for _, _, starts in opened], axis=0)
    for first, last in _ranges(totals, most=1_000_000):
        chosen = [slice(int(starts[first]), int(starts[last])) for _, _, starts in opened]
        codes = np.concatenate([c[own] for (c, _, _), own in zip(opened, chosen, strict=True)])
        numbered = enumerate(zip(opened, chosen, strict=True))
        ids = np.concatenate([rows[own].astype(np.int64) + part * settings.part_rows for part, ((_, rows, _), own) in numbered])
        of_list = np.concatenate([np.repeat(np.arange(first, last), np.diff(starts[first : last + 1])) for _, _, starts in opened])
        order = np.argsort(of_list, kind="stable")
        codes, ids = np.ascontiguousarray(codes[order]), ids[order]
        offsets = np.cumsum([0, *totals[first:last]])
        for number, a, b in zip(range(first, last), offsets[:-1], offsets[1:], strict=True):
            if a < b:
                plain.invlists.add_entries(number, int(b - a), faiss.swig_ptr(ids[a:b]), faiss.swig_ptr(codes[a:b]))
        plain.ntotal += len(ids)


def _part_codes(folder: Path, code_size: int) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int64]]:
    """Memory-mapped codes (n, code_size) and local rows (n,) sorted by list, and where each list starts (L + 1)."""
    counts = np.fromfile(folder / "counts.i32", np.int32)
    codes: NDArray[np.uint8] = np.memmap(folder / "codes.u8", np.uint8, "r").reshape(-1, code_size)
    rows: NDArray[np.int32] = np.memmap(folder / "rows.i32", np.int32, "r")
    if len(codes) != len(rows) or counts.sum() != len(rows):
        raise DamagedArtifact(f"{folder}: files of different lengths. Remove {folder.parent.parent} and run again.")
    return codes, rows, np.cumsum([0, *counts]).astype(np.int64)


def _ranges(totals: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Consecutive ranges of lists that hold about `most` rows each."""
    block = (np.cumsum(totals) - 1) // most
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(totals)]
    return [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if a < b]
