"""Moments of days add up to the moments of all their messages, in a space that survives being stored."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift.moments import BINS, MOMENTS, DriftSpace, Moments, day_moments, fit_space, merge, moments_of
from mangaassist_assets.lib.errors import BadInput

DAY = dt.date(2026, 3, 2)


def vectors(n, seed, *, width=24, centres=6):
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(99).normal(size=(centres, width))
    return (middle[rng.integers(centres, size=n)] + 0.3 * rng.normal(size=(n, width))).astype(np.float32)


@pytest.fixture(scope="module")
def space():
    return fit_space(vectors(2000, 0), 1, dimensions=8, cells=6)


def day_of(space, found, day=DAY):
    return day_moments(space, found, np.linspace(0.5, 1.0, len(found)), day)


def test_a_space_read_back_is_the_same_space(space):
    again = DriftSpace.from_bytes(space.to_bytes())
    assert again.digest == space.digest
    assert np.array_equal(again.locate(vectors(50, 3)).coordinates, space.locate(vectors(50, 3)).coordinates)


def test_the_same_vectors_and_seed_give_the_same_space(space):
    assert fit_space(vectors(2000, 0), 1, dimensions=8, cells=6).digest == space.digest
    assert fit_space(vectors(2000, 0), 2, dimensions=8, cells=6).digest != space.digest


def test_bytes_of_something_else_are_refused():
    with pytest.raises(BadInput, match="no drift space"):
        DriftSpace.from_bytes(b"not a space")


def test_components_are_orthonormal_and_hold_the_variance_of_a_full_decomposition(space):
    known = vectors(2000, 0).astype(np.float64)
    assert np.allclose(space.basis.T @ space.basis, np.eye(8), atol=1e-5)
    largest = np.sort(np.linalg.eigvalsh(np.cov(known, rowvar=False)))[::-1][:8]
    assert np.allclose(np.var((known - known.mean(0)) @ space.basis, axis=0, ddof=1), largest, rtol=1e-4)


def test_places_are_those_of_distances_in_the_full_space(space):
    found = np.concatenate([vectors(300, 4), 4 * vectors(50, 5)])
    located = space.locate(found)
    centres = space.mean + space.centroids @ space.basis.T
    distances = np.linalg.norm(found[:, None] - centres[None], axis=2)
    assert np.array_equal(located.cells, distances.argmin(1))
    assert np.array_equal(located.far, distances.min(1) > space.far_distance)
    assert located.far[300:].mean() > 0.9


def test_one_known_message_in_a_hundred_is_far(space):
    assert space.locate(vectors(2000, 0)).far.mean() == pytest.approx(0.01, abs=0.002)
    assert space.locate(vectors(20_000, 8)).far.mean() < 0.03


def test_moments_of_a_day_are_those_of_its_rows(space):
    found = vectors(40_000, 6)  # more than two blocks
    row = Moments.of(day_of(space, found))
    located = space.locate(found)
    exact = located.coordinates.astype(np.float64)
    assert np.allclose(row.vector_sums[0], (found - space.mean).sum(0), atol=0.05)
    assert np.allclose(row.sums[0], exact.sum(0)) and np.allclose(row.outer[0], exact.T @ exact)
    edges = np.linspace(space.low, space.high, BINS - 1, axis=1)
    slow = np.stack([np.histogram(exact[:, j], [-np.inf, *edges[j], np.inf])[0] for j in range(8)])
    assert np.abs(row.histograms[0] - slow).sum() <= 20  # values on an edge, in another precision
    assert row.histograms[0].sum(1).tolist() == [40_000] * 8
    assert row.cell_confidence[0, 2] == pytest.approx(np.linspace(0.5, 1.0, 40_000)[located.cells == 2].sum())
    assert row.cells[0].sum() == row.n[0] == 40_000 and row.cell_far[0].sum() == row.far[0] == located.far.sum()


def test_merged_parts_of_a_day_are_the_day(space):
    found = vectors(3000, 7)
    confidence = np.linspace(0.2, 0.9, 3000)
    parts = [day_moments(space, found[rows], confidence[rows], DAY) for rows in (slice(0, 900), slice(900, 3000))]
    merged, whole = merge(pa.concat_tables(parts)), day_moments(space, found, confidence, DAY)
    assert merged.schema == MOMENTS and merged.num_rows == 1
    for name in MOMENTS.names[2:]:
        assert np.allclose(merged[name][0].as_py(), whole[name][0].as_py()), name


def test_merging_keeps_days_and_spaces_apart(space):
    other = fit_space(vectors(500, 1), 1, dimensions=8, cells=6)
    days = [day_of(space, vectors(60, i), DAY + dt.timedelta(i % 2)) for i in range(4)] + [day_of(other, vectors(60, 9))]
    merged = merge(pa.concat_tables(days))
    assert sorted(zip(merged["day"].to_pylist(), merged["n"].to_pylist(), strict=True)) == [
        (DAY, 60),
        (DAY, 120),
        (DAY + dt.timedelta(1), 120),
    ]


def test_a_day_without_messages_is_a_row_of_zeros(space):
    row = day_of(space, np.zeros((0, 24), np.float32))
    assert row["n"].to_pylist() == [0] and sum(row["cells"][0].as_py()) == 0


def test_placed_messages_give_the_same_as_their_vectors(space):
    found = vectors(200, 10)
    rows = np.array([5, 5, 9, 100])
    placed = moments_of(space, space.locate(found).take(rows), np.full(4, 0.5), DAY)
    assert Moments.of(placed).sums == pytest.approx(Moments.of(day_moments(space, found[rows], np.full(4, 0.5), DAY)).sums)


def test_vectors_of_another_width_or_not_finite_are_refused(space):
    with pytest.raises(BadInput, match="wanted"):
        space.locate(np.zeros((3, 25), np.float32))
    broken = vectors(10, 1)
    broken[3, 3] = np.nan
    with pytest.raises(BadInput, match="not finite"):
        space.locate(broken)


def test_a_space_of_too_few_messages_is_refused():
    with pytest.raises(BadInput, match="Fit it on 50"):
        fit_space(vectors(49, 0), 1)


def test_confidences_must_be_as_many_as_vectors(space):
    with pytest.raises(BadInput, match="3 confidences for 4 vectors"):
        day_moments(space, vectors(4, 0), np.ones(3), DAY)
