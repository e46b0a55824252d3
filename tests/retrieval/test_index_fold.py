"""A linear adapter moves to the query and gives what a rebuilt index gives; what cannot move is refused."""

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import DamagedArtifact
from mangaassist_assets.lib.retrieval.fold import FoldedIndex, FoldRefused, check_recall, fold, matrix_of
from mangaassist_assets.lib.retrieval.index import Allowed, blocks_of, build_flat, exact_neighbours, open_index, overlap
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings, rebuild
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, SpaceMismatch

D, N = 32, 3000
SPACE = EmbeddingSpace("tiny", "0" * 64, "mean", True, D)
SETTINGS = IndexSettings(most_flat=100, part_rows=2000, lists_per_root=1.0, probes=8, candidates=60)


class Source:
    space, digest = SPACE, "source"

    def __init__(self, vectors):
        self.all = vectors

    def __len__(self):
        return len(self.all)

    def chunk_ids(self, start, stop):
        return pa.array([f"c{i}" for i in range(start, stop)])

    def vectors(self, start, stop):
        return self.all[start:stop]


class Linear:
    digest, foldable = "b" * 64, True

    def __init__(self, matrix):
        self.matrix = matrix.astype(np.float32)

    def apply(self, vectors):
        mapped = vectors @ self.matrix.T
        return mapped / np.linalg.norm(mapped, axis=1, keepdims=True)

    def query_side(self, queries):
        return queries @ self.matrix.T @ self.matrix


class Bent(Linear):
    """Says that it is linear and is not."""

    def apply(self, vectors):
        return super().apply(np.tanh(3 * vectors))


def near_identity(strength, out=D):
    return np.eye(out, D) + strength * np.random.default_rng(9).standard_normal((out, D))


def clustered(seed, n):
    rng, centre = np.random.default_rng(seed), np.random.default_rng(5).standard_normal((40, D))
    drawn = centre[rng.integers(0, 40, n)] + 0.4 * rng.standard_normal((n, D))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def source():
    return Source(clustered(1, N))


@pytest.fixture(scope="module")
def queries():
    return clustered(2, 40)


@pytest.fixture(scope="module")
def base(source, tmp_path_factory):
    return open_index(rebuild(source, None, tmp_path_factory.mktemp("indexes"), SETTINGS))


@pytest.mark.parametrize("out", [D, 20])
def test_a_fold_over_a_flat_index_gives_the_rows_and_scores_of_the_rebuilt_one(source, queries, tmp_path, out):
    adapter = Linear(near_identity(0.3, out))
    folded = fold(open_index(build_flat(source, None, tmp_path)), adapter)
    rebuilt = open_index(build_flat(source, adapter, tmp_path))
    assert folded.space == rebuilt.space
    adapted = adapter.apply(queries)
    (rows, scores), (expected, cosines) = (i.search(adapted, 10, rebuilt.space) for i in (folded, rebuilt))
    assert (rows == expected).mean() > 0.99
    assert np.allclose(scores, cosines, atol=1e-5)


def test_a_fold_over_lists_finds_the_adapted_neighbours(base, source, queries):
    adapter = Linear(near_identity(0.1))
    folded = fold(base, adapter)
    adapted = adapter.apply(queries)
    found, _ = folded.search(adapted, 10, folded.space)
    assert overlap(found, exact_neighbours(blocks_of(source, adapter), adapted, 10)) > 0.95


def test_the_base_and_the_folded_index_do_not_take_each_others_queries(base, queries):
    folded = fold(base, Linear(near_identity(0.1)))
    with pytest.raises(SpaceMismatch):
        folded.search(queries, 10, SPACE)
    with pytest.raises(SpaceMismatch):
        base.search(queries, 10, folded.space)


def test_a_folded_index_is_a_folder_that_needs_its_base(base, queries):
    folded = fold(base, Linear(near_identity(0.1)))
    opened = open_index(folded.path)
    assert isinstance(opened, FoldedIndex) and opened.digest == folded.digest
    assert sum(p.stat().st_size for p in folded.path.iterdir()) < 10_000
    adapted = Linear(near_identity(0.1)).apply(queries)
    assert opened.find(adapted, 3, opened.space) == folded.find(adapted, 3, folded.space)
    base.path.rename(base.path.with_name("aside"))
    try:
        with pytest.raises(DamagedArtifact, match="no readable manifest"):
            open_index(folded.path)
    finally:
        base.path.with_name("aside").rename(base.path)


def test_filters_hold_in_a_folded_index(base, queries):
    folded = fold(base, Linear(near_identity(0.1)))
    mask = np.zeros(N, bool)
    mask[:: N // 30] = True
    rows, _ = folded.search(queries, 5, folded.space, Allowed.of(mask))
    assert mask[rows].all()


def test_recall_is_measured_and_too_little_of_it_refuses_the_fold(base, queries):
    mild, strong = Linear(near_identity(0.05)), Linear(np.diag(np.where(np.arange(D) < 28, 0.01, 1.0)))
    assert check_recall(fold(base, mild), mild.apply(queries)) > 0.95
    with pytest.raises(FoldRefused, match=r"recall@10 is 0\.\d+ .* 0.950 is wanted. Rebuild the index"):
        check_recall(fold(base, strong), strong.apply(queries))


def test_an_adapter_that_is_not_linear_is_refused(base):
    nonlinear = Linear(near_identity(0.1))
    nonlinear.foldable = False
    with pytest.raises(FoldRefused, match="not linear"):
        fold(base, nonlinear)
    with pytest.raises(FoldRefused, match="its results are not"):
        fold(base, Bent(near_identity(0.1)))


def test_an_index_that_is_adapted_already_is_no_base(source, tmp_path):
    adapted = open_index(build_flat(source, Linear(near_identity(0.1)), tmp_path))
    with pytest.raises(FoldRefused, match="base space"):
        fold(adapted, Linear(near_identity(0.1)))


def test_the_matrix_is_recovered_from_what_the_adapter_does():
    matrix = near_identity(0.5, 20)
    assert np.allclose(matrix_of(Linear(matrix), D), matrix, atol=1e-5)
