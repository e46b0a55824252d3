"""Only what is missing or has changed is embedded, and a killed run goes on at the chunk where it stopped."""

import hashlib
import multiprocessing
import os
import signal
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput, Conflict, DamagedArtifact
from mangaassist_assets.lib.retrieval import embedding
from mangaassist_assets.lib.retrieval.chunking import embedded_text
from mangaassist_assets.lib.retrieval.embedding import embed_chunks, embed_on_workers, embed_shard
from mangaassist_assets.lib.retrieval.encoders import unit_rows
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace
from mangaassist_assets.lib.retrieval.vectors import open_shards, shard_path

N = 300
ENCODER = '''
import hashlib, os, signal
import numpy as np
from mangaassist_assets.lib.retrieval.encoders import unit_rows
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace

class Toy:
    """Vectors from a hash of the text; kills its process, as an operator would, before the call `dies_at`."""
    space = EmbeddingSpace("toy", "0" * 64, "mean", True, 8)

    def __init__(self, dies_at=None):
        self.texts, self.calls, self.dies_at = [], 0, dies_at

    def encode(self, texts, *, queries=False):
        if self.calls == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1
        self.texts += texts
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        return unit_rows(np.array([np.random.default_rng(seed).normal(size=8) for seed in seeds], np.float32))
'''
Toy = {}
exec(ENCODER, Toy)
Toy = Toy["Toy"]


def chunks_of(names, text="text of"):
    names = list(names)
    return pa.table(
        {
            "chunk_id": names,
            "digest": [hashlib.sha256(f"{text} {name}".encode()).hexdigest() for name in names],
            "title": ["Title"] * len(names),
            "text": [f"{text} {name}" for name in names],
        },
        schema=pa.schema([(c, pa.string()) for c in ("chunk_id", "digest", "title", "text")]),
    )


CHUNKS = chunks_of(f"d{n:03d}#0" for n in range(N))


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files of all chunks, embedded in one go into three shards."""
    folder = tmp_path_factory.mktemp("whole")
    embed_chunks(CHUNKS, Toy(), folder, shards=3)
    return content(folder)


def test_every_chunk_has_the_vector_of_its_title_and_text(tmp_path):
    encoder = Toy()
    seen = []
    store = embed_chunks(CHUNKS, encoder, tmp_path, shards=3, progress=lambda *step: seen.append(step))
    assert len(store) == N and sorted(store.ids["chunk_id"].to_pylist()) == CHUNKS["chunk_id"].to_pylist()
    row = int(store.lookup(["d017#0"])[0])
    expected = Toy().encode([embedded_text("Title", "text of d017#0")]).astype(np.float16)
    np.testing.assert_array_equal(store.vectors(row, row + 1), expected)
    assert seen[-1][0] == seen[-1][1] and sum(done == all_ for done, all_ in seen) == 3


def test_nothing_is_embedded_twice_and_unchanged_shards_are_not_written(tmp_path, whole):
    embed_chunks(CHUNKS, Toy(), tmp_path, shards=3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
    encoder = Toy()
    embed_chunks(CHUNKS.take(np.arange(N)[::-1]), encoder, tmp_path, shards=3)
    assert encoder.texts == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")} == before
    assert content(tmp_path) == whole


def test_changed_and_new_chunks_are_embedded_and_gone_ones_dropped_with_the_bytes_of_a_fresh_run(tmp_path):
    embed_chunks(CHUNKS, Toy(), tmp_path / "grown", shards=3)
    new = pa.concat_tables([CHUNKS.slice(5), chunks_of(["d003#0"], "another text"), chunks_of(["e#0"])])
    encoder = Toy()
    embed_chunks(new, encoder, tmp_path / "grown", shards=3)
    assert sorted(encoder.texts) == ["Title. another text d003#0", "Title. text of e#0"]
    embed_chunks(new, Toy(), tmp_path / "fresh", shards=3)
    assert content(tmp_path / "grown") == content(tmp_path / "fresh")


def test_another_number_of_shards_takes_the_vectors_over(tmp_path, whole):
    encoder = Toy()
    embed_chunks(CHUNKS, Toy(), tmp_path, shards=2)
    embed_chunks(CHUNKS, encoder, tmp_path, shards=3)
    assert encoder.texts == []
    assert content(tmp_path) == whole


def test_another_space_embeds_everything_again(tmp_path):
    embed_chunks(CHUNKS, Toy(), tmp_path, shards=1)
    other = Toy()
    other.space = EmbeddingSpace("toy", "1" * 64, "mean", True, 8)
    assert embed_chunks(CHUNKS, other, tmp_path, shards=1).space == other.space
    assert len(other.texts) == N


def killed(folder, dies_at):
    embed_chunks(CHUNKS, Toy(dies_at), folder, shards=3)


def test_a_run_killed_after_each_batch_resumes_there_and_ends_with_the_same_bytes(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(embedding, "BATCH", 50)
    fork = multiprocessing.get_context("fork")
    for _ in range(3):
        process = fork.Process(target=killed, args=(tmp_path, 2))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    encoder = Toy()
    embed_chunks(CHUNKS, encoder, tmp_path, shards=3)
    assert len(encoder.texts) <= N - 3 * 50  # what three killed runs had made was kept
    assert content(tmp_path) == whole


@pytest.mark.parametrize(
    ("tear", "kept"),
    [(lambda ids, halves: os.truncate(ids, ids.stat().st_size - 9), 39), (lambda ids, halves: os.truncate(halves, 6 * 16 + 5), 6)],
)
def test_a_torn_journal_costs_only_its_torn_end(tmp_path, whole, tear, kept, monkeypatch):
    class Stops(Toy):
        def encode(self, texts, *, queries=False):
            if self.calls == 2:
                raise OSError(28, "No space left on device")
            return super().encode(texts)

    monkeypatch.setattr(embedding, "BATCH", 20)
    with pytest.raises(OSError, match="No space"):
        embed_shard(CHUNKS, Stops(), tmp_path, 0, 3)
    path = shard_path(tmp_path, 0, 3)
    tear(path / embedding.JOURNAL_IDS, path / embedding.JOURNAL_VECTORS)
    encoder = Toy()
    shard = embed_shard(CHUNKS, encoder, tmp_path, 0, 3)
    assert len(encoder.texts) == shard.n - kept
    embed_chunks(CHUNKS, Toy(), tmp_path, shards=3)
    assert content(tmp_path) == whole


def test_a_vector_that_is_no_direction_is_refused_and_what_was_made_before_it_stays(tmp_path):
    class Broken(Toy):
        def encode(self, texts, *, queries=False):
            return np.full((len(texts), 8), np.nan, np.float32) if self.calls else super().encode(texts)

    with pytest.raises(BadInput, match="not finite"):
        embed_shard(CHUNKS, Broken(), tmp_path, 0, 1)
    encoder = Toy()
    embed_shard(CHUNKS, encoder, tmp_path, 0, 1)
    assert len(encoder.texts) == N - embedding.BATCH


def test_a_damaged_shard_a_double_id_and_a_second_process_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "LOCK_WAIT_S", 0.05)
    embed_chunks(CHUNKS, Toy(), tmp_path, shards=1)
    with pytest.raises(BadInput, match="1 chunk ids come twice"):
        embed_shard(pa.concat_tables([CHUNKS, CHUNKS.slice(0, 1)]), Toy(), tmp_path, 0, 1)
    with embedding._locked(shard_path(tmp_path, 0, 1)), pytest.raises(Conflict, match="another process"):
        embed_shard(CHUNKS, Toy(), tmp_path, 0, 1)
    vectors = next(tmp_path.rglob("*.f16"))
    vectors.write_bytes(bytes(vectors.stat().st_size))
    with pytest.raises(DamagedArtifact):
        embed_shard(CHUNKS.slice(1), Toy(), tmp_path, 0, 1)


def test_no_chunks_at_all_make_empty_shards(tmp_path):
    store = embed_chunks(CHUNKS.slice(0, 0), Toy(), tmp_path, shards=2)
    assert len(store) == 0 and store.vectors().shape == (0, 8)
    assert open_shards(tmp_path).lookup(["a"]).tolist() == [-1]


def test_worker_processes_make_the_same_bytes(tmp_path, whole, monkeypatch):
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "toy_encoder_of_a_test.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(str(modules))
    from toy_encoder_of_a_test import Toy as Importable

    embed_on_workers(CHUNKS, partial(Importable), tmp_path / "made", shards=3, workers="local:2")
    assert content(tmp_path / "made") == whole


def test_rows_of_zeros_are_not_divided_by_nothing():
    assert unit_rows(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]
