"""A new adapter reaches millions of chunks: rebuild and fold against numpy and faiss's HNSW.

    python benchmarks/index_scale.py --n 1_000_000 [--dim 384] [--workers local:2] [--peer-rounds 3] [--folder DIR]

Vectors are made by a seeded generator and kept in DIR for the next run, as half precision: 2,000 topics in 128 directions of falling
strength, documents that differ from their topic in 12 directions of its own, and a little noise in all DIM dimensions. Among 7,000 of
them the local dimension (TwoNN) is 6.4 and the nearest neighbour lies 0.69 away; among 7,000 messages of CLINC150, encoded by
all-MiniLM-L6-v2, they are 6.2 and 0.61. Queries are further draws that no index holds. The adapter is linear: the identity and a random
part of rank 64.

Project: `rebuild` streams the vectors through the adapter into inverted lists; `fold` moves the adapter into the query over an index
of the base space. Peer, with --peer-rounds: numpy applies the adapter to all vectors, faiss builds HNSW16 with half-precision
vectors and --peer-effort, on the same number of threads; in turns with the project's rebuild. It holds all vectors in memory, so
leave it out beyond a few million.

Recall@10 is against a comparison with every adapted vector, of --queries queries. Latencies are of one query at a time on one
thread after a warm-up. Peak memory counts resident pages of mapped files too, over all processes at once; disk counts vectors,
index and everything in between.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from mangaassist_assets.lib.artifacts import beside_of, digest_of
from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.retrieval.centroids import one_thread
from mangaassist_assets.lib.retrieval.fold import fold
from mangaassist_assets.lib.retrieval.index import ChunkIndex, blocks_of, exact_neighbours, open_index, overlap
from mangaassist_assets.lib.retrieval.pointer import Pointer
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings, rebuild
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace
from mangaassist_assets.lib.retrieval.workers import run_shards

TOPICS, DIRECTIONS, OWN, SPREAD, NOISE = 2_000, 128, 12, 0.7, 0.02
BLOCK = 100_000


def draw(n: int, dim: int, stream: int) -> np.ndarray:
    """(n, dim) float32 of length 1; equal streams give equal vectors."""
    fixed = np.random.default_rng(0)
    basis = np.linalg.qr(fixed.standard_normal((dim, DIRECTIONS)))[0].T.astype(np.float32)
    strength = (np.arange(1, DIRECTIONS + 1) ** -0.4).astype(np.float32)
    topics = fixed.standard_normal((TOPICS, DIRECTIONS), dtype=np.float32) * strength
    own = np.stack([fixed.choice(DIRECTIONS, OWN, replace=False) for _ in range(TOPICS)])
    spread = np.float32(SPREAD * np.linalg.norm(topics, axis=1).mean() / np.sqrt(OWN))
    rng = np.random.default_rng([1, stream])
    topic = rng.integers(0, TOPICS, n)
    meaning = topics[topic]
    meaning[np.arange(n)[:, None], own[topic]] += spread * rng.standard_normal((n, OWN), dtype=np.float32)
    found = meaning @ basis + NOISE * rng.standard_normal((n, dim), dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


@dataclass(frozen=True)
class Synthetic:
    """A VectorSource over one file of drawn vectors."""

    path: Path
    n: int
    dim: int

    @property
    def space(self) -> EmbeddingSpace:
        return EmbeddingSpace("synthetic", digest_of(f"{TOPICS} {DIRECTIONS} {OWN} {SPREAD} {NOISE}"), "none", True, self.dim)

    @property
    def digest(self) -> str:
        return digest_of([self.space.digest, self.n])

    def __len__(self) -> int:
        return self.n

    def chunk_ids(self, start: int, stop: int) -> pa.Array:
        return pa.array([f"{number:09d}#0" for number in range(start, stop)])

    def vectors(self, start: int, stop: int) -> np.ndarray:
        read = np.fromfile(self.path, np.float16, (stop - start) * self.dim, offset=start * self.dim * 2)
        return read.reshape(-1, self.dim)


@dataclass(frozen=True)
class LowRank:
    """W = I + strength U V^T, applied as one product."""

    dim: int
    strength: float = 0.3
    rank: int = 64
    foldable: bool = True

    @property
    def digest(self) -> str:
        return digest_of([self.dim, self.strength, self.rank])

    @cached_property
    def matrix(self) -> np.ndarray:
        u, v = np.random.default_rng(3).standard_normal((2, self.dim, self.rank), dtype=np.float32) / np.float32(np.sqrt(self.dim))
        return np.eye(self.dim, dtype=np.float32) + np.float32(self.strength) * u @ v.T

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        mapped = np.asarray(vectors, np.float32) @ self.matrix.T
        mapped /= np.sqrt(np.einsum("ij,ij->i", mapped, mapped))[:, None]
        return mapped

    def query_side(self, queries: np.ndarray) -> np.ndarray:
        return queries @ self.matrix.T @ self.matrix


def write_vectors(folder: Path, n: int, dim: int) -> Synthetic:
    """Draws the file once; a file of the right size is taken as it is."""
    source = Synthetic(folder / f"synthetic-{n}x{dim}.f16", n, dim)
    if not source.path.exists():
        beside = beside_of(source.path)
        with beside.open("wb") as stream:
            for number, start in enumerate(range(0, n, BLOCK)):
                draw(min(BLOCK, n - start), dim, number).astype(np.float16).tofile(stream)
        beside.rename(source.path)
    return source


class Watch:
    """Wall time, and the largest memory of this process and its children and the largest size of a folder meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._done = folder, threading.Event()
        self.seconds, self.memory_bytes, self.disk_bytes = 0.0, 0, 0

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            resident = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    resident += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.memory_bytes = max(self.memory_bytes, resident)
            self.disk_bytes = max(self.disk_bytes, disk(self._folder))
            if self._done.wait(0.5):
                return


def disk(folder: Path) -> int:
    """Bytes on the disk below `folder`; a file with two names counts once."""
    seen = {}
    for path in folder.rglob("*"):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        seen[found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def peer(source: Synthetic, adapter: LowRank, threads: int, effort: int) -> object:
    """Numpy applies the adapter to every vector, faiss builds the graph."""
    import faiss
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        index = faiss.IndexHNSWSQ(source.dim, faiss.ScalarQuantizer.QT_fp16, 16, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = effort
        index.train(np.zeros((1, source.dim), np.float32))
        for start in range(0, source.n, BLOCK):
            index.add(adapter.apply(source.vectors(start, min(start + BLOCK, source.n))))
    return index


def ask(index: ChunkIndex, queries: np.ndarray, true: np.ndarray) -> str:
    """Recall@10 and latencies of one query at a time on one thread."""
    with one_thread():
        index.warm()
        index.search(queries, 10, index.space)
        taken, found = [], []
        for query in queries:
            start = time.perf_counter()
            found.append(index.search(query[None], 10, index.space)[0][0])
            taken.append(1e3 * (time.perf_counter() - start))
    p50, p99 = np.percentile(taken, [50, 99])
    return f"Recall@10 {overlap(np.stack(found), true):.4f}, query P50 {p50:.2f} ms, P99 {p99:.2f} ms"


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--workers", default="local:2", help="local:N")
    parser.add_argument("--peer-rounds", type=int, default=0)
    parser.add_argument("--peer-effort", type=int, default=40, help="efConstruction of the peer's graph; 40 is faiss's default")
    parser.add_argument("--no-fold", action="store_true", help="leave out the base index that folds need: another 15 GB at 35 million")
    parser.add_argument("--strength", type=float, default=0.3, help="of the adapter's random part")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mangaassist-index-scale")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    threads = int(args.workers.partition(":")[2] or os.cpu_count() or 1)
    adapter, settings = LowRank(args.dim, args.strength), IndexSettings()
    run = partial(run_shards, workers=args.workers)
    print(f"{args.n:,} x {args.dim}, workers {args.workers}, {hardware('')}")

    start = time.perf_counter()
    source = write_vectors(args.folder, args.n, args.dim)
    print(f"vectors: {time.perf_counter() - start:.0f} s, {source.path.stat().st_size / 1e9:.1f} GB")
    queries = adapter.apply(draw(args.queries, args.dim, 10**9))
    homes = args.folder / "indexes"
    shutil.rmtree(homes, ignore_errors=True)

    ours, theirs = [], []
    graph = path = None
    for turn in range(max(1, args.peer_rounds)):
        sides = ["rebuild", "peer"] if args.peer_rounds else ["rebuild"]
        for side in sides[:: -1 if turn % 2 else 1]:
            if side == "peer":
                graph = None
                start = time.perf_counter()
                graph = peer(source, adapter, threads, args.peer_effort)
                theirs.append(time.perf_counter() - start)
                print(f"peer: {theirs[-1]:.1f} s")
                continue
            shutil.rmtree(homes, ignore_errors=True)
            with Watch(args.folder) as watch:
                path = rebuild(source, adapter, homes, settings, run=run)
            ours.append(watch.seconds)
            print(
                f"rebuild: {watch.seconds:.1f} s, {args.n / watch.seconds:,.0f} rows/s, peak memory {watch.memory_bytes / 2**30:.2f} GiB,"
                f" disk {watch.disk_bytes / 1e9:.1f} GB"
            )
    start = time.perf_counter()
    true = exact_neighbours(blocks_of(source, adapter), queries, 10)
    print(f"exact comparison of {args.queries} queries: {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    index = open_index(path)
    print(f"open and verify: {time.perf_counter() - start:.1f} s")
    print(f"rebuilt: {ask(index, queries, true)}")
    rebuilt = index

    if args.peer_rounds:
        graph.hnsw.efSearch = 64
        print(f"peer: Recall@10 {overlap(graph.search(queries, 10)[1], true):.4f} with efSearch 64")
        ratio = statistics.median(t / o for o, t in zip(ours, theirs, strict=True))
        print(f"rebuild is {ratio:.1f} times as fast as the peer (median of {len(ours)} pairs)")

    if args.no_fold:
        return
    base = open_index(rebuild(source, None, homes, settings, run=run, previous=rebuilt))
    print(f"base index: {ask(base, queries_of(args), exact_neighbours(blocks_of(source, None), queries_of(args), 10))}")
    pointer = Pointer(homes)
    pointer.flip(base.digest, expected="")
    swaps = []
    for strength in np.linspace(0.9, 1.1, 7) * args.strength:
        fresh = LowRank(args.dim, float(strength))
        _ = fresh.matrix
        start = time.perf_counter()
        pointer.flip(fold(base, fresh).digest, expected=pointer.read().current)
        swaps.append(time.perf_counter() - start)
    folded = fold(base, adapter)
    print(f"fold and flip: {1e3 * statistics.median(swaps):.0f} ms (median of {len(swaps)})")
    print(f"folded: {ask(folded, queries, true)}")
    if theirs:
        print(f"fold is {statistics.median(theirs) / statistics.median(swaps):,.0f} times as fast as the peer")


def queries_of(args: argparse.Namespace) -> np.ndarray:
    """The queries before any adapter."""
    return draw(args.queries, args.dim, 10**9)


if __name__ == "__main__":
    main()
