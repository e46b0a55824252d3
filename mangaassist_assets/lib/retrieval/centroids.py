"""Training of an IvfIndex: two levels of centroids and the codebook, from a sample of base vectors.

The sample is stored in the base space, and each list also keeps the mean of its base vectors. When a new adapter arrives, these
means, mapped by it, are where k-means starts, and two rounds do what takes six from nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import write_atomic
from mangaassist_assets.lib.retrieval.index import Adapter, Vectors, VectorSource, adapted
from mangaassist_assets.lib.retrieval.ivf import Centroids

Run = Callable[[Callable[[int], Any], Sequence[int]], list[Any]]

COLD_ROUNDS, WARM_ROUNDS = 6, 2
RUN_OF_ROWS = 64  # neighbours read together: a sample costs one access for each run
POINTS_PER_GROUP = 256
CODEBOOK_POINTS, CODEBOOK_ROUNDS = 8_192, 12


def one_thread() -> AbstractContextManager[object]:
    """One thread for BLAS and OpenMP: sums in the same order give the same bytes, and processes share the cores."""
    import faiss  # noqa: F401  its OpenMP must be loaded to be limited
    from threadpoolctl import threadpool_limits

    limit: AbstractContextManager[object] = threadpool_limits(1)
    return limit


def in_turn(function: Callable[[int], Any], numbers: Sequence[int]) -> list[Any]:
    """Runs a function for each number in this process."""
    return [function(number) for number in numbers]


def draw_sample(source: VectorSource, rows: int, seed: int) -> NDArray[np.float16]:
    """About `rows` base vectors (float16) in runs of neighbours drawn at random, the same for the same seed."""
    n = len(source)
    if rows >= n:
        return np.asarray(source.vectors(0, n), np.float16)
    runs = -(-rows // RUN_OF_ROWS)
    chosen = np.sort(np.random.default_rng(seed).choice(-(-n // RUN_OF_ROWS), runs, replace=False)) * RUN_OF_ROWS
    return np.concatenate([np.asarray(source.vectors(int(a), min(int(a) + RUN_OF_ROWS, n)), np.float16) for a in chosen])


def train(
    source: VectorSource,
    adapter: Adapter | None,
    folder: Path,
    *,
    lists: int,
    points_per_list: int,
    code_dims: int,
    seed: int,
    run: Run,
    previous: dict[str, NDArray[Any]] | None,
) -> dict[str, NDArray[Any]]:
    """Centroids and codebook for a source after an adapter.

    Args:
        source: base vectors.
        adapter: maps them; None leaves them.
        folder: where the sample is kept for the workers.
        lists: how many lists are wanted.
        points_per_list: sample rows for each of them.
        code_dims: components that share one 4-bit code.
        seed: of the sample.
        run: calls a function for each group of lists, perhaps in other processes.
        previous: what this function returned for the index before; k-means starts there.

    Returns:
        groups (G, D'), lists (L, D'), starts (G + 1), base_groups (G, D), base_lists (L, D), codebook (D' / code_dims, 16, code_dims).
    """
    with one_thread():
        write_atomic(folder / "sample.f16", draw_sample(source, lists * points_per_list, seed).tobytes())
        sample = _sample(folder, source.space.dimension)
        warm = None if previous is None else (adapted(previous["base_groups"], adapter), previous["base_lists"], previous["starts"])
        wanted = max(1, round(np.sqrt(lists))) if warm is None else len(warm[0])
        few = adapted(sample[_spread(len(sample), wanted * POINTS_PER_GROUP)], adapter)
        groups = _kmeans(few, wanted, None if warm is None else warm[0])
        of_group = np.concatenate([(adapted(block, adapter) @ groups.T).argmax(axis=1) for block in _blocks(sample)])
        counts = np.bincount(of_group, minlength=len(groups))
        shares = _shares(counts, lists) if warm is None else np.diff(warm[2])
        order = np.argsort(of_group, kind="stable")
        write_atomic(folder / "order.i64", order.astype(np.int64).tobytes())
        if warm is not None:
            write_atomic(folder / "start.f32", np.ascontiguousarray(warm[1], np.float32).tobytes())
    group_starts = np.cumsum([0, *counts])
    list_starts = np.cumsum([0, *shares])
    task = partial(
        _train_group,
        folder=folder,
        dimension=source.space.dimension,
        adapter=adapter,
        bounds=group_starts,
        starts=list_starts,
        warm=warm is not None,
    )
    trained = run(task, range(len(groups)))
    with one_thread():
        centroids = Centroids(groups, np.concatenate([t[0] for t in trained]), list_starts)
        points = adapted(sample[_spread(len(sample), CODEBOOK_POINTS)], adapter)
        residuals = points - centroids.lists[centroids.nearest(points, 1)]
        codebook = _codebook(residuals, code_dims)
    base_lists = np.concatenate([t[1] for t in trained])
    base_groups = np.stack([t[2] for t in trained])
    return {
        "groups": groups,
        "lists": centroids.lists,
        "starts": list_starts.astype(np.int64),
        "base_groups": base_groups,
        "base_lists": base_lists,
        "codebook": codebook,
    }


def _sample(folder: Path, dimension: int) -> NDArray[np.float16]:
    mapped: NDArray[np.float16] = np.memmap(folder / "sample.f16", np.float16, "r").reshape(-1, dimension)
    return mapped


def _spread(n: int, wanted: int) -> NDArray[np.int64]:
    """Up to `wanted` of n row numbers, evenly apart."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).astype(np.int64))


def _blocks(sample: NDArray[np.float16], rows: int = 16_384) -> list[NDArray[np.float16]]:
    return [sample[start : start + rows] for start in range(0, len(sample), rows)]


def _shares(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """How many lists each group gets: in proportion to its rows, at least one where it has any, never more than rows."""
    exact = counts * total / counts.sum()
    shares = np.floor(exact).astype(np.int64)
    rest = np.argsort(shares - exact, kind="stable")[: total - shares.sum()]
    shares[rest] += 1
    return np.minimum(np.where(counts > 0, np.maximum(shares, 1), 0), counts)


def _train_group(
    group: int,
    *,
    folder: Path,
    dimension: int,
    adapter: Adapter | None,
    bounds: NDArray[np.int64],
    starts: NDArray[np.int64],
    warm: bool,
) -> tuple[Vectors, Vectors, Vectors]:
    """The list centroids of a group, the mean of each list's base vectors, and that of the group's."""
    with one_thread():
        order: NDArray[np.int64] = np.memmap(folder / "order.i64", np.int64, "r")
        base = np.asarray(_sample(folder, dimension)[np.sort(order[bounds[group] : bounds[group + 1]])], np.float32)
        wanted, own = int(starts[group + 1] - starts[group]), slice(int(starts[group]), int(starts[group + 1]))
        old = np.memmap(folder / "start.f32", np.float32, "r").reshape(-1, dimension)[own] if warm else None
        points = adapted(base, adapter)
        centroids = _kmeans(points, wanted, None if old is None or not wanted else adapted(old, adapter))
        if not len(base):
            means = np.empty((0, dimension), np.float32) if old is None else old
            return centroids, means, means.mean(axis=0) if len(means) else np.zeros(dimension, np.float32)
        if not wanted:
            return centroids, np.empty((0, dimension), np.float32), base.mean(axis=0)
        nearest = (points @ centroids.T).argmax(axis=1)
        counts = np.bincount(nearest, minlength=wanted)
        members = scipy.sparse.csr_array((np.ones(len(base), np.float32), (nearest, np.arange(len(base)))), (wanted, len(base)))
        sums = members @ base
        centre = base.mean(axis=0)
        # an empty list keeps what it came from; without a past, its group's mean
        past = np.broadcast_to(centre, sums.shape) if old is None else old
        means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], past)
        return centroids, means.astype(np.float32), centre.astype(np.float32)


def _kmeans(points: Vectors, k: int, start: Vectors | None) -> Vectors:
    """Finds k centroids of length 1 by cosine; where there are fewer points than centroids, the start is kept."""
    import faiss

    if start is not None and len(points) < k:
        return start
    if k == 0:
        return np.empty((0, points.shape[1]), np.float32)
    rounds = COLD_ROUNDS if start is None else WARM_ROUNDS
    means = faiss.Kmeans(points.shape[1], k, niter=rounds, seed=1, spherical=True, min_points_per_centroid=1, max_points_per_centroid=10**6)
    means.train(points, init_centroids=start)
    return np.array(means.centroids, np.float32)


def _codebook(residuals: Vectors, code_dims: int) -> Vectors:
    """16 centroids for each run of `code_dims` components, (D / code_dims, 16, code_dims)."""
    import faiss

    parts = residuals.shape[1] // code_dims
    coder = faiss.ProductQuantizer(residuals.shape[1], parts, 4)
    coder.cp.min_points_per_centroid, coder.cp.max_points_per_centroid, coder.cp.niter = 1, 10**6, CODEBOOK_ROUNDS
    coder.train(residuals)
    return faiss.vector_to_array(coder.centroids).reshape(parts, 16, code_dims).copy()
