"""Shards hold what they were given, whole or not at all, and are read as one array."""

import json

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace
from mangaassist_assets.lib.retrieval.vectors import IDS, open_shard, open_shards, shard_of, shard_path, write_shard

SPACE = EmbeddingSpace("toy", "0" * 64, "mean", True, 4)


def ids_of(names):
    return pa.table({"chunk_id": list(names), "digest": [f"d-{name}" for name in names]}, schema=IDS)


def unit(rows, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path):
    for shard, names in enumerate(["abc", "", "de"]):
        write_shard(tmp_path, shard, 3, SPACE, ids_of(names), [unit(len(names), shard)])
    return tmp_path


def test_shards_are_read_as_one_array_of_halves(folder):
    store = open_shards(folder)
    everything = np.vstack([unit(3, 0), unit(2, 2)]).astype(np.float16)
    assert len(store) == 5 and store.space == SPACE and store.starts.tolist() == [0, 3, 3, 5]
    assert store.ids["chunk_id"].to_pylist() == list("abcde")
    np.testing.assert_array_equal(store.vectors(), everything)
    np.testing.assert_array_equal(store.vectors(2, 4), everything[2:4])
    np.testing.assert_array_equal(np.vstack(list(store.blocks(2))), everything)
    assert store.vectors(1, 3).base is not None
    assert store.vectors(5, 9).shape == (0, 4)
    assert store.lookup(["e", "nobody", "a"]).tolist() == [4, -1, 0]
    assert [shard.vectors.flags.writeable for shard in store.shards if shard.n] == [False, False]


def test_the_same_vectors_have_the_same_bytes_and_digest_however_they_were_blocked(tmp_path):
    vectors = unit(7)
    one = write_shard(tmp_path / "one", 0, 1, SPACE, ids_of("abcdefg"), [vectors])
    two = write_shard(tmp_path / "two", 0, 1, SPACE, ids_of("abcdefg"), [vectors[:2], vectors[2:]])
    assert one.digest == two.digest
    assert (one.path / "manifest.json").read_bytes() == (two.path / "manifest.json").read_bytes()


def test_a_reader_keeps_what_it_opened_while_the_shard_is_replaced(folder):
    before = open_shards(folder)
    held = before.vectors(0, 3)
    write_shard(folder, 0, 3, SPACE, ids_of("abz"), [unit(3, 9)])
    np.testing.assert_array_equal(held, unit(3, 0).astype(np.float16))
    assert open_shards(folder).ids["chunk_id"].to_pylist() == list("abzde")
    assert open_shards(folder).digest != before.digest
    assert len(list(shard_path(folder, 0, 3).iterdir())) == 3


@pytest.mark.parametrize(("value", "word"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "zero")])
def test_a_vector_that_is_no_direction_is_refused_by_the_name_of_its_chunk_and_the_shard_stays(folder, value, word):
    vectors = unit(3, 5)
    vectors[1] = value
    with pytest.raises(BadInput, match=f"chunk y.*{word}"):
        write_shard(folder, 0, 3, SPACE, ids_of("xyz"), [vectors[:1], vectors[1:]])
    assert open_shards(folder).ids["chunk_id"].to_pylist() == list("abcde")
    assert len(list(shard_path(folder, 0, 3).iterdir())) == 3


@pytest.mark.parametrize("blocks", [[unit(2)], [unit(4)], [unit(3)[:, :3]], [np.ones(4, np.float32)]])
def test_vectors_that_do_not_fit_their_chunks_are_refused(tmp_path, blocks):
    with pytest.raises(BadInput):
        write_shard(tmp_path, 0, 1, SPACE, ids_of("abc"), blocks)


def test_a_file_cut_short_missing_or_altered_is_told(folder):
    path = shard_path(folder, 2, 3)
    vectors = next(path.glob("*.f16"))
    content = vectors.read_bytes()
    vectors.write_bytes(bytes(len(content)))
    with pytest.raises(DamagedArtifact, match="SHA-256"):
        open_shard(path).check()
    vectors.write_bytes(content[:-2])
    with pytest.raises(DamagedArtifact, match="has 14 bytes instead of 16"):
        open_shards(folder)
    vectors.unlink()
    with pytest.raises(DamagedArtifact, match="is missing"):
        open_shards(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("space"),
        lambda m: m.update(n=7),
        lambda m: m.update(files={"../out.f16": {"bytes": 1, "sha256": ""}, "ids.parquet": {"bytes": 1, "sha256": ""}}),
        lambda m: m.update(files={}),
        lambda m: m.update(files=[]),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(folder, change):
    path = shard_path(folder, 0, 3) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedArtifact):
        open_shards(folder)


def test_a_set_that_is_not_complete_or_not_of_one_space_is_refused(folder, tmp_path_factory):
    with pytest.raises(MissingEvidence):
        open_shards(tmp_path_factory.mktemp("empty"))
    with pytest.raises(MissingEvidence):
        open_shards(folder, 4)
    write_shard(folder, 1, 3, SPACE.adapted("f" * 64), ids_of(""), [])
    with pytest.raises(BadInput, match="several embedding spaces"):
        open_shards(folder)
    write_shard(folder, 0, 2, SPACE, ids_of("a"), [unit(1)])
    with pytest.raises(BadInput, match="shards out of 2, 3"):
        open_shards(folder)


def test_a_chunk_s_shard_is_the_same_everywhere():
    assert [shard_of(f"ms-{n:04d}#0", 16) for n in range(6)] == [shard_of(f"ms-{n:04d}#0", 16) for n in range(6)]
    assert shard_of("ms-0001#0", 16) == 3
    counts = np.bincount([shard_of(str(n), 4) for n in range(2000)])
    assert counts.min() > 400
