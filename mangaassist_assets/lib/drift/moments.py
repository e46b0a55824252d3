"""What a day's messages looked like to the encoder, small enough to keep for ever and to add up.

A day becomes counts and sums in a space that is fitted once: principal components of the encoder's vectors (Pearson 1901), bins along
each, and cells around k-means centroids (Lloyd 1982). Sums add: a month is the sum of its days, and a new day never needs an old message.
"""

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput

Floats32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DIMENSIONS, CELLS, BINS = 32, 64, 20
FAR_QUANTILE = 0.99  # one known message in a hundred counts as far, so that a rise is told from none by the binomial
EDGE_DEVIATIONS = 3.0  # the outer bins are open
BLOCK_ROWS = 16_384

MOMENTS = pa.schema(
    [
        ("day", pa.date32()),
        ("space_digest", pa.string()),
        ("n", pa.int64()),
        ("vector_sums", pa.list_(pa.float64())),
        ("sums", pa.list_(pa.float64())),
        ("outer", pa.list_(pa.float64())),
        ("histograms", pa.list_(pa.int64())),
        ("cells", pa.list_(pa.int64())),
        ("cell_confidence", pa.list_(pa.float64())),
        ("cell_far", pa.list_(pa.int64())),
        ("far", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Located:
    """Where messages lie in a drift space.

    Attributes:
        vectors: (n, D), as they came.
        coordinates: (n, d), along the principal components.
        cells: (n,), the nearest centroid.
        far: (n,), whether the message is farther from it than known messages are.
    """

    vectors: NDArray[np.floating]
    coordinates: Floats32
    cells: Ints
    far: NDArray[np.bool_]

    def take(self, rows: Ints) -> "Located":
        """The messages `rows`, which may repeat."""
        return Located(self.vectors[rows], self.coordinates[rows], self.cells[rows], self.far[rows])


@dataclass(frozen=True)
class DriftSpace:
    """The frame in which all days are compared.

    Attributes:
        mean: (D,), of the vectors that it was fitted on.
        basis: (D, d), orthonormal columns, the first holds most variance.
        low, high: (d,), where the inner bins of each component begin and end.
        centroids: (k, d), of the cells.
        far_distance: distance in the full space, from the nearest centroid, beyond which a message is far.
    """

    mean: Floats32
    basis: Floats32
    low: Floats32
    high: Floats32
    centroids: Floats32
    far_distance: float

    @property
    def dimensions(self) -> int:
        return int(self.basis.shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its bytes; moments of different spaces are never compared."""
        return digest_of(self.to_bytes())

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in ("mean", "basis", "low", "high", "centroids")}
        return bytes(save(tensors | {"far_distance": np.array([self.far_distance])}))

    @classmethod
    def from_bytes(cls, content: bytes) -> "DriftSpace":
        """What `to_bytes` wrote.

        Raises:
            BadInput: it is something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(content)
            mean, basis, low, high, centroids, far = (
                tensors[name] for name in ("mean", "basis", "low", "high", "centroids", "far_distance")
            )
            return cls(mean, basis, low, high, centroids, float(far[0]))
        except (SafetensorError, KeyError, IndexError) as error:
            raise BadInput(f"no drift space ({error})", where="drift space", remedy="Materialise `message_moments` again.") from error

    def locate(self, vectors: NDArray[np.floating]) -> Located:
        """Places vectors (n, D) in the space.

        The distance to a centroid counts what lies outside the components as well: for centroids within them it is
        |x - c|^2 = |projection - c|^2 + |x - mean|^2 - |projection|^2.

        Raises:
            BadInput: another width, or a value that is not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise BadInput(
                f"vectors of shape {vectors.shape}, wanted (n, {len(self.mean)})",
                where="drift space",
                remedy="Encode messages with the encoder that the space was fitted with.",
            )
        coordinates = np.empty((len(vectors), self.dimensions), np.float32)
        cells, far = np.empty(len(vectors), np.int64), np.empty(len(vectors), bool)
        squared = (self.centroids**2).sum(1)
        for start in range(0, len(vectors), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            centred = vectors[rows].astype(np.float32, copy=False) - self.mean
            inside = coordinates[rows] = centred @ self.basis
            apart = squared - 2 * (inside @ self.centroids.T)  # (rows, k), less |projection|^2
            cells[rows] = apart.argmin(1)
            distance = apart[np.arange(len(apart)), cells[rows]] + np.einsum("ij,ij->i", centred, centred)
            if not np.isfinite(distance).all():
                raise BadInput("vectors hold values that are not finite", where="drift space", remedy="Encode the day's messages again.")
            far[rows] = distance > self.far_distance**2
        return Located(vectors, coordinates, cells, far)


def fit_space(
    vectors: NDArray[np.floating], seed: int, *, dimensions: int = DIMENSIONS, cells: int = CELLS, far_quantile: float = FAR_QUANTILE
) -> DriftSpace:
    """Fits the space on vectors (n, D) of known messages; small samples get fewer dimensions and cells.

    Raises:
        BadInput: fewer than 50 vectors.
    """
    if len(vectors) < 50:
        raise BadInput(f"{len(vectors)} vectors", where="drift space", remedy="Fit it on 50 messages or more.")
    dimensions, cells = min(dimensions, vectors.shape[1], len(vectors) // 4), min(cells, len(vectors) // 10)
    known = np.asarray(vectors, np.float64)
    mean = known.mean(0)
    values, directions = np.linalg.eigh(np.cov(known, rowvar=False))
    basis = directions[:, ::-1][:, :dimensions]
    basis = basis * np.where(basis[np.abs(basis).argmax(0), np.arange(dimensions)] < 0, -1.0, 1.0)  # equal data, equal signs
    coordinates = (known - mean) @ basis
    spread = np.sqrt(np.maximum(values[::-1][:dimensions], 1e-12))
    frame = DriftSpace(
        mean.astype(np.float32),
        np.ascontiguousarray(basis, np.float32),
        (-EDGE_DEVIATIONS * spread).astype(np.float32),
        (EDGE_DEVIATIONS * spread).astype(np.float32),
        _centroids(coordinates, cells, seed).astype(np.float32),
        far_distance=0.0,
    )
    nearest = np.sqrt(_squared_distances(coordinates, frame.centroids).min(1) + ((known - mean) ** 2).sum(1) - (coordinates**2).sum(1))
    return DriftSpace(frame.mean, frame.basis, frame.low, frame.high, frame.centroids, float(np.quantile(nearest, far_quantile)))


def _squared_distances(points: Floats, centroids: NDArray[np.floating]) -> Floats:
    distances: Floats = (points**2).sum(1)[:, None] - 2 * points @ centroids.T + (centroids**2).sum(1)
    nonnegative: Floats = np.maximum(distances, 0.0)
    return nonnegative


def _centroids(points: Floats, k: int, seed: int, *, rounds: int = 25) -> Floats:
    """k-means by Lloyd's rounds, seeded as k-means++ does (Arthur and Vassilvitskii 2007); an empty cell keeps its centroid."""
    rng = np.random.default_rng(seed)
    centroids: Floats = points[rng.integers(len(points))][None]
    nearest = _squared_distances(points, centroids)[:, 0]
    for _ in range(k - 1):
        weight = nearest / nearest.sum() if nearest.sum() > 0 else None
        centroids = np.vstack([centroids, points[rng.choice(len(points), p=weight)]])
        nearest = np.minimum(nearest, _squared_distances(points, centroids[-1:])[:, 0])
    for _ in range(rounds):
        cells = _squared_distances(points, centroids).argmin(1)
        counts = np.bincount(cells, minlength=k)
        sums = np.stack([np.bincount(cells, points[:, j], k) for j in range(points.shape[1])], axis=1)
        held = counts > 0
        centroids[held] = sums[held] / counts[held, None]
    return centroids


def day_moments(space: DriftSpace, vectors: NDArray[np.floating], confidence: NDArray[np.floating], day: dt.date) -> pa.Table:
    """One row, columns MOMENTS: the day's messages with vectors (n, D) and confidences (n,)."""
    return moments_of(space, space.locate(vectors), confidence, day)


def moments_of(space: DriftSpace, located: Located, confidence: NDArray[np.floating], day: dt.date) -> pa.Table:
    """The same for messages that are already placed."""
    n, d, k = len(located.cells), space.dimensions, len(space.centroids)
    if len(confidence) != n:
        raise BadInput(f"{len(confidence)} confidences for {n} vectors", where=f"moments of {day}", remedy="Give one for each message.")
    vector_sums = np.zeros(len(space.mean))
    sums, outer, histograms = np.zeros(d), np.zeros((d, d)), np.zeros(d * BINS, np.int64)
    width = (space.high - space.low) / (BINS - 2)
    offsets = np.arange(d) * BINS
    for start in range(0, n, BLOCK_ROWS):
        block = located.coordinates[start : start + BLOCK_ROWS]
        exact = block.astype(np.float64)
        vector_sums += located.vectors[start : start + BLOCK_ROWS].sum(0, dtype=np.float64)
        sums += exact.sum(0)
        outer += exact.T @ exact
        bins = np.clip((block - space.low) / width + 1, 0, BINS - 1).astype(np.int64)
        histograms += np.bincount((bins + offsets).ravel(), minlength=d * BINS)
    values = {
        "vector_sums": vector_sums - n * space.mean.astype(np.float64),
        "sums": sums,
        "outer": outer.ravel(),
        "histograms": histograms,
        "cells": np.bincount(located.cells, minlength=k),
        "cell_confidence": np.bincount(located.cells, np.asarray(confidence, np.float64), k),
        "cell_far": np.bincount(located.cells[located.far], minlength=k),
    }
    lists = {name: pa.ListArray.from_arrays(np.array([0, len(found)], np.int32), pa.array(found)) for name, found in values.items()}
    single = {"day": [day], "space_digest": [space.digest], "n": [n], "far": [int(located.far.sum())]}
    return pa.table([pa.array((single | lists)[name], MOMENTS.field(name).type) for name in MOMENTS.names], MOMENTS)


@dataclass(frozen=True)
class Moments:
    """Moments of days of one space as arrays, one row a day in order of days.

    Attributes:
        n: (T,).
        vector_sums: (T, D), less the space's mean.
        sums: (T, d).
        outer: (T, d, d).
        histograms: (T, d, bins).
        cells, cell_confidence, cell_far: (T, k).
        far: (T,).
    """

    days: tuple[dt.date, ...]
    n: Ints
    vector_sums: Floats
    sums: Floats
    outer: Floats
    histograms: Ints
    cells: Ints
    cell_confidence: Floats
    cell_far: Ints
    far: Ints

    @classmethod
    def of(cls, moments: pa.Table) -> "Moments":
        """The rows of a table with columns MOMENTS, all of one space."""
        ordered = moments.sort_by("day").combine_chunks()
        rows = ordered.num_rows

        def lists(name: str) -> NDArray[np.generic]:
            flat: NDArray[np.generic] = ordered[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return flat.reshape(rows, -1) if rows else flat.reshape(0, 0)

        sums = lists("sums").astype(np.float64)
        d = sums.shape[1]
        return cls(
            tuple(ordered["day"].to_pylist()),
            ordered["n"].to_numpy(),
            lists("vector_sums").astype(np.float64),
            sums,
            lists("outer").astype(np.float64).reshape(rows, d, d),
            lists("histograms").astype(np.int64).reshape(rows, d, BINS if rows else 0),
            lists("cells").astype(np.int64),
            lists("cell_confidence").astype(np.float64),
            lists("cell_far").astype(np.int64),
            ordered["far"].to_numpy(),
        )


def merge(moments: pa.Table) -> pa.Table:
    """One row per day and space, columns MOMENTS: rows of the same day, as parts of a day give, are added up."""
    names = MOMENTS.names[2:]
    merged: dict[tuple[dt.date, str], dict[str, NDArray[Any]]] = {}
    for row in moments.to_pylist():
        values = {name: np.asarray(row[name]) for name in names}
        held = merged.get((row["day"], row["space_digest"]))
        merged[row["day"], row["space_digest"]] = values if held is None else {name: held[name] + values[name] for name in names}
    rows = [{"day": day, "space_digest": digest} | merged[day, digest] for day, digest in sorted(merged)]
    return pa.Table.from_pylist(rows, MOMENTS)
