"""Chunks that differ from what an index was built from are found, logged once and served; only where there are many is it rebuilt."""

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.retrieval import differences, swapping
from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.differences import difference, most_changed
from mangaassist_assets.lib.retrieval.index import blocks_of, build_flat, exact_neighbours, open_index
from mangaassist_assets.lib.retrieval.pointer import Pointed, Pointer
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings, rebuild
from mangaassist_assets.lib.retrieval.segments import ChangeLog, LiveIndex
from mangaassist_assets.lib.retrieval.sources import ShardSource
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace
from mangaassist_assets.lib.retrieval.vectors import shard_of, write_shard

D, N = 32, 400  # so that 20 changes are served beside the index
SPACE = EmbeddingSpace("tiny", "0" * 64, "mean", True, D)
SETTINGS = IndexSettings(most_flat=100, part_rows=150, lists_per_root=1.0)
IDENTITY = Adapter.identity(D)
LINEAR = Adapter("linear", D, {"weight": (np.eye(D) + 0.05 * np.random.default_rng(9).standard_normal((D, D))).astype(np.float32)})
MLP = Adapter(
    "mlp",
    D,
    {
        name: 0.1 * np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        for name, shape in {"out": (D, 4), "into": (4, D), "bias": (4,)}.items()
    },
)


def unit(seed, n):
    drawn = np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


class Shop:
    """A catalogue of vectors by chunk id, as shards on a disk, and the indexes that serve it."""

    def __init__(self, folder):
        self.folder, self.home = folder / "vectors", folder / "indexes"
        self.chunks = {f"c{i:04d}#0": vector for i, vector in enumerate(unit(1, N))}
        self.pointer, self.log = Pointer(self.home), ChangeLog.of(self.home, SPACE)

    @property
    def source(self):
        for shard in range(2):
            ids = sorted(chunk_id for chunk_id in self.chunks if shard_of(chunk_id, 2) == shard)
            table = pa.table({"chunk_id": ids, "digest": ["d"] * len(ids)})
            write_shard(self.folder, shard, 2, SPACE, table, [np.stack([self.chunks[chunk_id] for chunk_id in ids])])
        return ShardSource(self.folder, 2)

    def swap(self, adapter=IDENTITY, settings=SETTINGS):
        return swapping.swap_index(self.source, adapter, unit(5, 20), self.home, settings)

    def change(self, seed, n=3):
        """Some chunks get other vectors, as many are new, as many are gone; returns how many that are."""
        ids = [f"c{i:04d}#0" for i in range(40 * seed, 40 * seed + 2 * n)]
        self.chunks |= dict(zip(ids[:n], unit(seed + 100, n), strict=True))
        self.chunks |= {f"new{seed}-{i}#0": vector for i, vector in enumerate(unit(seed + 200, n))}
        for chunk_id in ids[n:]:
            del self.chunks[chunk_id]
        return 3 * n

    def live(self, adapter=None, upto=None):
        return LiveIndex(open_index(self.pointer.folder()), self.log, adapter, upto=upto)

    def check(self, adapter=None):
        """What serves finds the chunks of the catalogue that a comparison with all their vectors finds, and no other."""
        source, queries = self.source, unit(6, 20)
        asked = queries if adapter is None else adapter.apply(queries)
        true = exact_neighbours(blocks_of(source, adapter), asked, 10)
        live, ids = self.live(adapter), source.chunk_ids(0, len(source)).to_pylist()
        assert len(live) == len(source)
        found = [[chunk_id for chunk_id, _ in answer] for answer in live.find(asked, 10, live.space)]
        assert np.mean([len(set(f) & {ids[row] for row in t}) / 10 for f, t in zip(found, true.tolist(), strict=True)]) > 0.98
        own = np.stack(list(self.chunks.values()))
        answers = live.find(own if adapter is None else adapter.apply(own), 1, live.space)
        assert [answer[0][0] for answer in answers] == list(self.chunks)


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def test_new_changed_and_deleted_chunks_are_logged_once_and_served_beside_the_index(shop):
    first = shop.swap()
    assert (first.strategy, first.changed, first.changes_upto, first.rows) == ("ivf", 0, 0, N)
    again = shop.swap()
    assert (again.strategy, again.changed, again.digest) == ("changes", 0, first.digest)
    logged = shop.change(1)
    second = shop.swap()
    assert (second.strategy, second.changed, second.changes_upto, second.digest) == ("changes", logged, 1, first.digest)
    assert second.recall_at_10 is None
    shop.check()
    third = shop.swap()
    assert (third.changed, third.changes_upto) == (0, 1), "a second run, such as one after a kill, logs nothing"
    [change] = shop.log.after(0)
    assert sorted(change.deleted) == [f"c{i:04d}#0" for i in (43, 44, 45)]
    assert sorted(change.upserted) == ["c0040#0", "c0041#0", "c0042#0", "new1-0#0", "new1-1#0", "new1-2#0"]


def test_a_change_that_is_taken_back_is_a_change(shop):
    shop.swap()
    before = dict(shop.chunks)
    shop.change(1, 2)
    shop.swap()
    shop.chunks = before
    assert shop.swap().changed == 6
    shop.check()
    assert shop.swap().changed == 0


def test_where_much_has_changed_since_the_build_it_is_rebuilt_and_what_no_index_needs_goes(shop):
    first = shop.swap()
    for seed, served in ((1, 9), (2, 18)):
        shop.change(seed)
        found = shop.swap()
        assert found.digest == first.digest
        assert sum(len(change.upserted) + len(change.deleted) for change in shop.log.after(0)) == served
    shop.change(3)
    second = shop.swap()
    assert (second.strategy, second.changed, second.changes_upto) == ("ivf", 0, 2)
    shop.check()
    shop.pointer.sweep(shop.log)
    assert [change.number for change in shop.log.after(0)] == [1, 2], "the index before stands on them"
    shop.change(4, 1)
    assert shop.swap().changes_upto == 3
    shop.change(5, 7)
    third = shop.swap()
    assert (third.strategy, third.changes_upto) == ("ivf", 3)
    assert shop.pointer.read() == Pointed(third.digest, second.digest)
    shop.pointer.sweep(shop.log)
    assert [change.number for change in shop.log.after(2)] == [3]
    assert [path.name for path in (shop.home / "changes").iterdir()] == ["0000000003.parquet"]
    shop.check()


def test_after_a_rollback_the_index_before_serves_what_it_served_and_then_follows_the_catalogue_again(shop):
    first = shop.swap()
    shop.change(1)
    upto = shop.swap().changes_upto
    then = dict(shop.chunks)
    shop.change(2, 10)
    second = shop.swap()
    assert second.strategy == "ivf"
    shop.change(3, 2)
    shop.swap()
    shop.pointer.rollback()
    live = shop.live(upto=upto)
    assert live.digest == first.digest and len(live) == len(then)
    assert [answer[0][0] for answer in live.find(np.stack(list(then.values())), 1, SPACE)] == list(then)
    shop.swap()
    shop.check()


def test_a_new_adapter_is_folded_over_the_index_that_is_there_and_its_changes(shop, monkeypatch):
    first = shop.swap()
    monkeypatch.setattr(swapping, "rebuild", lambda *_, **__: pytest.fail("nothing has to be built"))
    logged = shop.change(1)
    second = shop.swap(LINEAR)
    assert (second.strategy, second.changed, second.changes_upto, second.refused) == ("folded", logged, 1, "")
    assert shop.pointer.read() == Pointed(second.digest, first.digest)
    shop.check(LINEAR)
    logged = shop.change(2)
    third = shop.swap(LINEAR)
    assert (third.strategy, third.changed, third.digest) == ("changes", logged, second.digest)
    shop.check(LINEAR)


def test_what_serves_in_the_space_of_an_adapter_that_cannot_be_folded_takes_changes_too(shop):
    first = shop.swap(MLP)
    assert first.strategy == "ivf" and "not linear" in first.refused
    shop.change(1)
    second = shop.swap(MLP)
    assert (second.strategy, second.digest) == ("changes", first.digest)
    shop.check(MLP)
    third = shop.swap(LINEAR)
    assert (third.strategy, third.changed) == ("folded", 0)
    shop.check(LINEAR)


def test_other_settings_another_encoder_or_a_small_catalogue_mean_a_rebuild(shop, monkeypatch):
    first = shop.swap()
    shop.change(1)
    other = IndexSettings(most_flat=100, part_rows=150, lists_per_root=2.0)
    second = shop.swap(settings=other)
    assert second.strategy == "ivf" and second.digest != first.digest
    monkeypatch.setattr(f"{__name__}.SPACE", EmbeddingSpace("other", "1" * 64, "mean", True, D))
    third = shop.swap(settings=other)
    assert third.strategy == "ivf" and third.digest != second.digest
    shop.chunks = dict(list(shop.chunks.items())[:90])
    assert shop.swap(settings=other).strategy == "flat"
    shop.chunks |= {"new#0": unit(7, 1)[0]}
    assert shop.swap(settings=other).strategy == "flat"


def test_changes_of_another_encoder_that_a_rollback_leaves_behind_mean_a_rebuild(shop):
    shop.swap()
    other = EmbeddingSpace("other", "1" * 64, "mean", True, D)
    ChangeLog.of(shop.home, other).append(["a"], unit(1, 1))
    assert (shop.swap().strategy, shop.log.last) == ("ivf", 1)
    shop.check()


@pytest.mark.parametrize("damage", ["index", "vectors", "log"])
def test_what_is_damaged_is_rebuilt(shop, damage):
    first = shop.swap()
    shop.change(1)
    shop.swap()
    if damage == "index":
        (shop.pointer.folder() / "manifest.json").unlink()
    if damage == "vectors":
        path = shop.pointer.folder() / "parts" / "00000" / "vectors.i8"
        path.write_bytes(bytes(path.stat().st_size))
    if damage == "log":
        (shop.home / "changes" / "0000000001.parquet").write_bytes(b"torn")
    found = shop.swap()
    assert found.strategy == "ivf" and found.digest != first.digest
    shop.check()


def test_the_difference_is_that_of_a_comparison_row_by_row(shop):
    index, log = open_index(rebuild(shop.source, None, shop.home, SETTINGS)), shop.log
    rng = np.random.default_rng(3)
    served = dict(shop.chunks)
    for round_ in range(4):
        for chunk_id in rng.choice(sorted(shop.chunks), 3, replace=False):
            if rng.random() < 0.5:
                del shop.chunks[chunk_id]
            else:
                shop.chunks[chunk_id] = unit(int(rng.integers(1000)), 1)[0]
        shop.chunks[f"c{rng.integers(N):04d}#0"] = unit(50 + round_, 1)[0]
        found = difference(index, log, shop.source)
        changed = [i for i, v in shop.chunks.items() if i not in served or not np.array_equal(served[i].astype("<f2"), v.astype("<f2"))]
        assert sorted(found.upserted) == sorted(changed)
        assert found.deleted == sorted(set(served) - set(shop.chunks))
        stored = {i: shop.chunks[i].astype("<f2") for i in found.upserted}
        assert all(np.array_equal(stored[i], v) for i, v in zip(found.upserted, found.vectors, strict=True))
        log.append(found.upserted, found.vectors, found.deleted)
        served = dict(shop.chunks)


def test_as_many_changes_as_fit_into_a_query_are_served_and_not_one_more(shop, monkeypatch):
    assert (most_changed(30_000), most_changed(1_000_000)) == (1_500, differences.MOST_CHANGED)
    index = open_index(rebuild(shop.source, None, shop.home, SETTINGS))
    assert most_changed(N) == 20
    shop.chunks |= dict(zip(sorted(shop.chunks)[:20], unit(8, 20), strict=True))
    found = difference(index, shop.log, shop.source)
    assert len(found) == 20
    shop.log.append(found.upserted, found.vectors, found.deleted)
    assert len(difference(index, shop.log, shop.source)) == 0
    shop.chunks |= {"one-more#0": unit(9, 1)[0]}
    assert difference(index, shop.log, shop.source) is None


def test_an_exact_index_and_its_changes_answer_as_one_that_is_built_anew(shop):
    before = open_index(build_flat(shop.source, None, shop.home))
    shop.change(1)
    found = difference(before, shop.log, shop.source)
    shop.log.append(found.upserted, found.vectors, found.deleted)
    live, anew = LiveIndex(before, shop.log, None), open_index(build_flat(shop.source, None, shop.home))
    for served, built in zip(live.find(unit(6, 20), N, SPACE), anew.find(unit(6, 20), N, SPACE), strict=True):
        assert [chunk_id for chunk_id, _ in served] == [chunk_id for chunk_id, _ in built]
        assert [score for _, score in served] == pytest.approx([score for _, score in built], abs=1e-6)
