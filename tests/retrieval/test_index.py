"""An index folder answers exactly, refuses what it cannot compare, and is whole or refused."""

import json

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput, DamagedArtifact
from mangaassist_assets.lib.retrieval.index import Allowed, best, blocks_of, build_flat, exact_neighbours, open_index, overlap
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, SpaceMismatch

SPACE = EmbeddingSpace("tiny", "0" * 64, "mean", True, 16)


class Source:
    def __init__(self, vectors, space=SPACE, digest="source"):
        self.all, self.space, self.digest = vectors, space, digest

    def __len__(self):
        return len(self.all)

    def chunk_ids(self, start, stop):
        return pa.array([f"c{i:05d}#0" for i in range(start, stop)])

    def vectors(self, start, stop):
        return self.all[start:stop]


def unit(rng, n, d=16):
    drawn = rng.standard_normal((n, d)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture
def vectors():
    return unit(np.random.default_rng(1), 300)


@pytest.fixture
def index(vectors, tmp_path):
    return open_index(build_flat(Source(vectors), None, tmp_path))


def test_a_flat_index_gives_the_rows_and_cosines_of_a_full_comparison(index, vectors):
    queries = unit(np.random.default_rng(2), 7)
    rows, scores = index.search(queries, 5, SPACE)
    cosines = queries @ vectors.T
    assert (rows == np.argsort(-cosines, axis=1)[:, :5]).all()
    assert np.allclose(scores, -np.sort(-cosines, axis=1)[:, :5], atol=1e-5)


def test_find_names_the_chunks_best_first(index, vectors):
    ((found, *_),) = index.find(vectors[17:18], 3, SPACE)
    assert found == ("c00017#0", pytest.approx(1, abs=1e-5))


def test_more_results_than_rows_are_filled_with_nothing(index, vectors):
    rows, scores = index.search(vectors[:1], 400, SPACE)
    assert sorted(rows[0, :300]) == list(range(300))
    assert (rows[0, 300:] == -1).all() and np.isneginf(scores[0, 300:]).all()
    assert len(index.find(vectors[:1], 400, SPACE)[0]) == 300


def test_only_allowed_rows_are_returned(index, vectors):
    mask = np.zeros(300, bool)
    mask[[3, 50, 299]] = True
    rows, _ = index.search(vectors[:4], 5, SPACE, Allowed.of(mask))
    assert set(rows.ravel()) == {3, 50, 299, -1}


def test_a_mask_for_another_index_is_refused(index, vectors):
    with pytest.raises(BadInput, match="mask of shape"):
        index.search(vectors[:1], 5, SPACE, Allowed.of(np.ones(299, bool)))


def test_a_query_of_another_space_is_refused_although_the_dimensions_agree(index, vectors):
    with pytest.raises(SpaceMismatch, match="adapter"):
        index.search(vectors[:1], 5, SPACE.adapted("1" * 64))


@pytest.mark.parametrize(
    ("queries", "k", "problem"),
    [
        (np.ones((1, 15), np.float32), 5, "shape"),
        (np.full((1, 16), np.nan, np.float32), 5, "NaN"),
        (np.ones((1, 16), np.float32), 0, "k is 0"),
    ],
)
def test_an_unusable_query_is_refused(index, queries, k, problem):
    with pytest.raises(BadInput, match=problem):
        index.search(queries, k, SPACE)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_zero_or_infinite_vector_is_refused_by_its_row(vectors, tmp_path, bad):
    vectors[12] = bad
    with pytest.raises(BadInput, match="row 12"):
        build_flat(Source(vectors), None, tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("sha256")]


def test_equal_scores_come_in_order_of_row():
    scores = np.array([0.5, 0.9, 0.5, 0.9, 0.5] * 20, np.float32)
    rows, _ = best(np.arange(100), scores, 42)
    assert rows.tolist() == [*sorted(np.flatnonzero(scores > 0.8).tolist()), 0, 2]


def test_the_same_source_gives_the_same_folder(vectors, tmp_path):
    assert build_flat(Source(vectors), None, tmp_path) == build_flat(Source(vectors.copy()), None, tmp_path)
    assert [p.name[:7] for p in tmp_path.iterdir()] == ["sha256-"]


@pytest.mark.parametrize("name", ["vectors.f32", "manifest.json"])
def test_building_again_heals_a_damaged_folder(index, vectors, name):
    (index.path / name).write_bytes(b"torn")
    assert open_index(build_flat(Source(vectors), None, index.path.parent)).digest == index.digest


def test_an_altered_byte_a_missing_and_an_added_file_are_noticed(index):
    path = index.path / "vectors.f32"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact, match="not the file that was written"):
        open_index(index.path)
    path.write_bytes(content[:-4])
    with pytest.raises(DamagedArtifact, match="not the file that was written"):
        open_index(index.path, verify=False)
    path.unlink()
    with pytest.raises(DamagedArtifact, match="differ in vectors.f32"):
        open_index(index.path)


def test_a_manifest_that_was_edited_is_noticed(index):
    path = index.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["facts"]["space"]["encoder"] = "other"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedArtifact, match="not the index that its name says"):
        open_index(index.path)


def test_a_folder_without_manifest_is_no_index(tmp_path):
    with pytest.raises(DamagedArtifact, match="no readable manifest"):
        open_index(tmp_path)


def test_exact_neighbours_do_not_depend_on_the_blocks(vectors):
    queries = unit(np.random.default_rng(3), 9)
    whole = exact_neighbours(blocks_of(Source(vectors), None), queries, 10)
    assert (exact_neighbours(blocks_of(Source(vectors), None, rows=7), queries, 10) == whole).all()
    assert overlap(whole, whole) == 1
    assert overlap(whole[:, ::-1], whole) == 1
