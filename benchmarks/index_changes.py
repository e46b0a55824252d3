"""Some chunks of a large catalogue change: served beside the index against a rebuild.

    python benchmarks/index_changes.py [--n 1_000_000] [--dim 384] [--changed 1_000] [--workers local:2] [--folder DIR]

Vectors are those of `index_scale.py`. `swap_index` builds the index of all chunks; then --changed of them get other vectors and it is
called again, which finds the difference and logs it. Both times hold everything from the vectors on the disk to an index that can be
opened; opening it with its changes, every file verified as the service does it, is timed by itself. Then queries are asked one at a
time on one thread after a warm-up, of the index alone and with ever more fresh chunks beside it.

Exit status 0 where each changed chunk is found by its own new vector.
"""

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from index_scale import Synthetic, draw, write_vectors

from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.centroids import one_thread
from mangaassist_assets.lib.retrieval.differences import most_changed
from mangaassist_assets.lib.retrieval.index import adapted, open_index
from mangaassist_assets.lib.retrieval.pointer import Pointer
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings
from mangaassist_assets.lib.retrieval.segments import ChangeLog, LiveIndex
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace
from mangaassist_assets.lib.retrieval.swapping import swap_index


@dataclass(frozen=True)
class Revised:
    """A source of which `count` rows, evenly spread, have other vectors."""

    before: Synthetic
    count: int

    @property
    def space(self) -> EmbeddingSpace:
        return self.before.space

    @property
    def digest(self) -> str:
        return f"{self.before.digest}-{self.count}"

    def __len__(self) -> int:
        return len(self.before)

    @property
    def rows(self) -> np.ndarray:
        return np.arange(self.count) * (len(self) // self.count)

    @cached_property
    def fresh(self) -> np.ndarray:
        return draw(self.count, self.before.dim, 10**8).astype(np.float16)

    def chunk_ids(self, start: int, stop: int) -> pa.Array:
        return self.before.chunk_ids(start, stop)

    def vectors(self, start: int, stop: int) -> np.ndarray:
        found = self.before.vectors(start, stop)
        inside = (self.rows >= start) & (self.rows < stop)
        found[self.rows[inside] - start] = self.fresh[inside]
        return found


def latencies(live: LiveIndex, queries: np.ndarray) -> str:
    """Of one query at a time on one thread."""
    with one_thread():
        live.base.warm()
        live.find(queries, 10, live.space)
        taken = []
        for query in queries:
            start = time.perf_counter()
            live.find(query[None], 10, live.space)
            taken.append(1e3 * (time.perf_counter() - start))
    return f"P50 {np.percentile(taken, 50):.2f} ms, P99 {np.percentile(taken, 99):.2f} ms (n = {len(taken)})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--changed", type=int, default=1_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--workers", default="local:2")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mangaassist-index-scale")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    print(f"{args.n:,} x {args.dim}, workers {args.workers}, {hardware('')}", flush=True)
    home = args.folder / "changing"
    shutil.rmtree(home, ignore_errors=True)
    source, queries = write_vectors(args.folder, args.n, args.dim), draw(args.queries, args.dim, 10**9)
    revised, log = Revised(source, args.changed), ChangeLog.of(home, source.space)
    for name, told in (("rebuild", source), ("changes", revised), ("nothing", revised)):
        start = time.perf_counter()
        found = swap_index(told, Adapter.identity(args.dim), queries, home, IndexSettings(), workers=args.workers)
        print(f"{name}: {time.perf_counter() - start:.1f} s, {found.strategy}, {found.changed:,} chunks logged", flush=True)
    start = time.perf_counter()
    live = LiveIndex(open_index(Pointer(home).folder()), log, None)
    print(f"open, verify and replay: {time.perf_counter() - start:.1f} s")
    own = adapted(revised.fresh, None)
    wanted = [revised.chunk_ids(row, row + 1)[0].as_py() for row in revised.rows.tolist()]
    right = sum(answer[0][0] == chunk_id for answer, chunk_id in zip(live.find(own, 1, live.space), wanted, strict=True))
    print(f"{right:,} of {len(wanted):,} changed chunks are found by their new vector")
    for count in (0, args.changed, most_changed(args.n), 2 * most_changed(args.n)):
        beside = ChangeLog(args.folder / "changing" / f"beside-{count}", source.space)
        if count:
            beside.append(source.chunk_ids(0, count).to_pylist(), draw(count, args.dim, 10**7).astype(np.float16))
        print(f"{count:,} fresh chunks: {latencies(LiveIndex(live.base, beside, None), queries)}", flush=True)
    return 0 if right == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
