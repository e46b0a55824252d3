"""Lists, codes and exact comparison together find what a full comparison finds, however often the build is killed."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput, Conflict, DamagedArtifact, Unavailable
from mangaassist_assets.lib.retrieval import rebuild as module
from mangaassist_assets.lib.retrieval.centroids import draw_sample
from mangaassist_assets.lib.retrieval.index import Allowed, FlatIndex, blocks_of, exact_neighbours, open_index, overlap
from mangaassist_assets.lib.retrieval.ivf import Centroids, IvfIndex, StoredVectors, quantised
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings, rebuild
from mangaassist_assets.lib.retrieval.sources import ShardSource
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace
from mangaassist_assets.lib.retrieval.vectors import VectorStore, write_shard
from mangaassist_assets.lib.retrieval.workers import run_shards

D, N = 32, 3000
SPACE = EmbeddingSpace("tiny", "0" * 64, "mean", True, D)
SETTINGS = IndexSettings(most_flat=100, part_rows=700, lists_per_root=1.0, probes=16, candidates=100)


def clustered(rng, n, centres=40):
    centre = np.random.default_rng(5).standard_normal((centres, D))
    drawn = centre[rng.integers(0, centres, n)] + 0.4 * rng.standard_normal((n, D))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def stored(folder, vectors, shards=3):
    edges = np.linspace(0, len(vectors), shards + 1).astype(int)
    for shard, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        ids = pa.table({"chunk_id": [f"c{i:05d}#0" for i in range(a, b)], "digest": ["d"] * (b - a)})
        write_shard(folder, shard, shards, SPACE, ids, [vectors[a:b]])
    return ShardSource(folder, shards)


class Linear:
    digest, foldable = "a" * 64, True

    def __init__(self, strength=0.15):
        self.matrix = (np.eye(D) + strength * np.random.default_rng(9).standard_normal((D, D))).astype(np.float32)

    def apply(self, vectors):
        mapped = vectors @ self.matrix.T
        return mapped / np.linalg.norm(mapped, axis=1, keepdims=True)

    def query_side(self, queries):
        return queries @ self.matrix.T @ self.matrix


@pytest.fixture(scope="module")
def vectors():
    return clustered(np.random.default_rng(1), N)


@pytest.fixture(scope="module")
def queries():
    return clustered(np.random.default_rng(2), 50)


@pytest.fixture(scope="module")
def source(vectors, tmp_path_factory):
    return stored(tmp_path_factory.mktemp("shards"), vectors)


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    home = tmp_path_factory.mktemp("indexes")
    return open_index(rebuild(source, Linear(), home, SETTINGS))


def content(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_the_approximate_index_finds_the_neighbours_of_a_full_comparison(built, source, queries):
    adapted = Linear().apply(queries)
    found, scores = built.search(adapted, 10, built.space)
    true = exact_neighbours(blocks_of(source, Linear()), adapted, 10)
    assert overlap(found, true) > 0.95
    mapped = Linear().apply(source.vectors(0, N).astype(np.float32))
    assert np.allclose(scores, np.einsum("nkd,nd->nk", mapped[found], adapted), atol=0.01)


def test_it_names_the_adapted_space_and_the_chunks(built):
    assert built.space == SPACE.adapted("a" * 64, D)
    assert len(built) == N
    assert built.ids.of_rows([0, 699, 700, N - 1]) == ["c00000#0", "c00699#0", "c00700#0", f"c{N - 1:05d}#0"]
    assert built.ids.rows_of(["c02000#0", "c00003#0", "unknown"]).tolist() == [3, 2000]


def test_every_row_is_found_by_its_own_vector(built, source):
    own = Linear().apply(source.vectors(0, N).astype(np.float32))
    rows, _ = built.search(own[::29], 1, built.space)
    assert (rows[:, 0] == np.arange(0, N, 29)).mean() > 0.99


def test_our_lists_hold_the_codes_that_faiss_would_make_itself(built, source, queries):
    """The assembled index against one that faiss filled by `add`, with every list searched."""
    import faiss

    ours = built._lists
    theirs = faiss.clone_index(ours)
    theirs.reset()
    coarse = faiss.downcast_index(theirs.quantizer)
    coarse.make_direct_map()
    coarse.nprobe = coarse.nlist
    theirs.add(Linear().apply(source.vectors(0, N).astype(np.float32)))
    ours.nprobe = theirs.nprobe = ours.nlist
    adapted = Linear().apply(queries)
    mine, expected = ours.search(adapted, 20)[1], theirs.search(adapted, 20)[1]
    assert overlap(mine, expected) > 0.97  # the lists of some rows differ: ours are looked for in three groups


def test_a_repeated_build_gives_the_same_bytes(built, source, tmp_path):
    again = rebuild(source, Linear(), tmp_path, SETTINGS)
    assert again.name == built.path.name
    assert content(again) == content(built.path)
    assert [p.name for p in tmp_path.iterdir()] == [again.name]


def test_worker_processes_give_the_same_bytes(built, source, tmp_path):
    again = rebuild(source, Linear(), tmp_path, SETTINGS, run=partial(run_shards, workers="local:2"))
    assert content(again) == content(built.path)


def test_a_build_killed_at_any_point_goes_on_to_the_same_bytes(built, source, tmp_path):
    script = """
import os, pickle, signal, sys
from mangaassist_assets.lib.retrieval import rebuild as module
source, adapter, home, settings, left = pickle.loads(sys.stdin.buffer.read())
real = module.sync_folder
def killing(folder):
    global left
    real(folder)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
module.sync_folder = killing
module.rebuild(source, adapter, home, settings)
"""
    pickled = pickle.dumps((source, Linear(), tmp_path, SETTINGS, 2))
    for survived in (2, 4):
        ended = subprocess.run([sys.executable, "-c", script], input=pickled, env=os.environ | {"PYTHONPATH": os.path.dirname(__file__)})
        assert ended.returncode == -signal.SIGKILL
        (work,) = tmp_path.glob(".building-*")
        assert len([p for p in (work / "parts").iterdir() if p.name[0] != "."]) == survived
    assert content(rebuild(source, Linear(), tmp_path, SETTINGS)) == content(built.path)


def test_a_part_that_is_there_is_not_built_again(source, tmp_path, monkeypatch):
    calls = []
    real = module._fill_part

    def counted(folder, *arguments):
        calls.append(folder)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(folder, *arguments)

    monkeypatch.setattr(module, "_fill_part", counted)
    with pytest.raises(Unavailable, match="the disk is full. Make room and run again"):
        rebuild(source, None, tmp_path, SETTINGS)
    assert not list(tmp_path.glob("sha256-*"))
    rebuild(source, None, tmp_path, SETTINGS)
    assert len(calls) == 3 + 3  # of five parts two were there


def test_what_a_build_of_another_plan_left_is_removed(source, tmp_path):
    (tmp_path / ".building-abandoned" / "parts").mkdir(parents=True)
    with module._locked(tmp_path / ".building-alive"):
        rebuild(source, None, tmp_path, SETTINGS)
        assert [p.name for p in tmp_path.glob(".building-*")] == [".building-alive"]


def test_two_builders_of_the_same_index_do_not_meet(source, tmp_path):
    plan = module._plan(source, None, SETTINGS, None, 0)
    with module._locked(tmp_path / f".building-{module.digest_of(plan)[:24]}"), pytest.raises(Conflict, match="another process"):
        rebuild(source, None, tmp_path, SETTINGS)


def test_few_rows_are_compared_one_by_one(vectors, tmp_path):
    index = open_index(rebuild(stored(tmp_path / "shards", vectors[:90]), None, tmp_path / "home", SETTINGS))
    assert isinstance(index, FlatIndex)
    assert index.find(vectors[4:5], 1, SPACE)[0][0][0] == "c00004#0"


def test_an_empty_source_is_refused(vectors, tmp_path):
    with pytest.raises(BadInput, match="no vectors"):
        rebuild(stored(tmp_path / "shards", vectors[:0], shards=1), None, tmp_path / "home", SETTINGS)


def test_a_dimension_that_codes_do_not_divide_is_refused(source, tmp_path):
    with pytest.raises(BadInput, match="code_dims"):
        rebuild(source, None, tmp_path, IndexSettings(most_flat=100, code_dims=5))


def test_a_warm_start_from_the_previous_index_is_as_good(built, source, queries, tmp_path):
    base = open_index(rebuild(source, None, tmp_path, SETTINGS))
    warm = open_index(rebuild(source, Linear(), tmp_path, SETTINGS, previous=base))
    assert warm.digest != built.digest and warm.facts["started_from"] == base.digest
    adapted = Linear().apply(queries)
    true = exact_neighbours(blocks_of(source, Linear()), adapted, 10)
    assert overlap(warm.search(adapted, 10, warm.space)[0], true) > 0.95


def test_allowed_rows_far_from_the_query_are_found_too(source, vectors, tmp_path, monkeypatch):
    monkeypatch.setattr("mangaassist_assets.lib.retrieval.index.EXACT_ROWS", 0)
    index = open_index(rebuild(source, None, tmp_path, SETTINGS))
    mask = np.zeros(N, bool)
    mask[np.argsort(vectors @ vectors[0])[:20]] = True  # the opposite end of the space
    rows, _ = index.search(vectors[:1], 10, SPACE, Allowed.of(mask))
    assert mask[rows[0]].all() and len(set(rows[0])) == 10


def test_a_few_allowed_rows_are_compared_exactly(built, source):
    mask = np.zeros(N, bool)
    mask[::50] = True
    own = Linear().apply(source.vectors(0, N).astype(np.float32))
    rows, _ = built.search(own[:3], 5, built.space, Allowed.of(mask))
    true = np.flatnonzero(mask)[np.argsort(-(own[:3] @ own[mask].T), axis=1)[:, :5]]
    assert overlap(rows, true) > 0.9


def test_an_index_that_was_cut_short_is_refused(source, tmp_path):
    path = rebuild(source, None, tmp_path, SETTINGS)
    target = path / "parts" / "00001" / "vectors.i8"
    target.write_bytes(target.read_bytes()[:-1])
    with pytest.raises(DamagedArtifact, match="vectors.i8"):
        open_index(path, verify=False)


def test_int8_rows_are_restored_within_half_a_step(vectors, tmp_path):
    small, scales = quantised(vectors)
    assert np.abs(small * scales[:, None] - vectors).max() <= scales.max() / 2 + 1e-7
    assert np.abs(small).max() == 127
    for part, own in enumerate((slice(0, 10), slice(10, 25))):
        (tmp_path / str(part)).mkdir()
        small[own].tofile(tmp_path / str(part) / "vectors.i8")
        scales[own].tofile(tmp_path / str(part) / "scales.f32")
    rows = np.array([24, 3, 10, 9, 3])
    assert np.array_equal(StoredVectors([tmp_path / "0", tmp_path / "1"], D).of(rows), small[rows] * scales[rows, None])


def test_the_nearest_list_is_the_nearest_of_all_when_every_group_is_looked_into(vectors):
    lists = clustered(np.random.default_rng(6), 60)
    centroids = Centroids(lists[[0, 20, 40, 50]], lists, np.array([0, 20, 40, 40, 60]))
    assert (centroids.nearest(vectors, 4) == (vectors @ lists.T).argmax(axis=1)).all()
    _, found = centroids.quantizer().search(vectors, 1)
    assert (found[:, 0] == (vectors @ lists.T).argmax(axis=1)).all()


def test_the_sample_is_the_same_for_the_same_seed_and_within_the_source(source):
    a, b, c = (draw_sample(source, 640, seed) for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert 577 <= len(a) <= 640
    assert len(draw_sample(source, 10**6, 0)) == N


def test_a_source_is_sent_to_workers_as_a_name(source):
    source.vectors(0, 100)
    assert len(pickle.dumps(source)) < 1000
    assert isinstance(source._store, VectorStore)
    across = source.vectors(900, 2100)
    assert np.array_equal(across, source._store.vectors(900, 2100))
    assert source.chunk_ids(999, 1001).to_pylist() == ["c00999#0", "c01000#0"]


def test_a_built_index_is_of_lists(built):
    assert isinstance(built, IvfIndex)
    assert built.facts["search"] == {"probes": 16, "candidates": 100}


def test_searching_every_list_is_as_good_as_comparing_with_every_row(source, queries, tmp_path):
    """Also where a query asks for more lists than the nearest groups hold."""
    index = open_index(rebuild(source, None, tmp_path, IndexSettings(most_flat=100, lists_per_root=20, probes=2000, candidates=N)))
    assert len(index._reached) > 16
    true = exact_neighbours(blocks_of(source, None), queries, 10)
    assert overlap(index.search(queries, 10, SPACE)[0], true) > 0.97
    index._probes = 300
    assert overlap(index.search(queries, 10, SPACE)[0], true) > 0.97


def test_a_build_leaves_the_vectors_of_its_source_alone(vectors, tmp_path):
    class InMemory:
        space, digest = SPACE, "memory"
        __len__ = staticmethod(lambda: N)
        chunk_ids = staticmethod(lambda start, stop: pa.array([str(i) for i in range(start, stop)]))
        vectors = staticmethod(lambda start, stop: given[start:stop])

    given = vectors.copy()
    index = open_index(rebuild(InMemory(), None, tmp_path, SETTINGS))
    assert np.array_equal(given, vectors)
    assert index.search(vectors[:5], 1, SPACE)[0][:, 0].tolist() == [0, 1, 2, 3, 4]
