"""Changes are served at once, replayed over a new index, and an index comes into service whole, warm, and revocable."""

from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput, Conflict, DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.retrieval.fold import fold
from mangaassist_assets.lib.retrieval.index import Allowed, build_flat, open_index
from mangaassist_assets.lib.retrieval.pointer import Pointed, Pointer, swap
from mangaassist_assets.lib.retrieval.segments import ChangeLog, LiveIndex
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, SpaceMismatch

D = 8
SPACE = EmbeddingSpace("tiny", "0" * 64, "mean", True, D)
BASE = np.eye(D, dtype=np.float32)[:5]
FRESH = np.eye(D, dtype=np.float32)[5:]


class Source:
    space, digest = SPACE, "source"

    def __len__(self):
        return len(BASE)

    def chunk_ids(self, start, stop):
        return pa.array([f"c{i}" for i in range(start, stop)])

    def vectors(self, start, stop):
        return BASE[start:stop]


class Reversal:
    """Mirrors the components: linear, easily followed."""

    digest, foldable = "c" * 64, True

    def apply(self, vectors):
        return np.ascontiguousarray(vectors[:, ::-1])

    def query_side(self, queries):
        return queries


@pytest.fixture
def log(tmp_path):
    return ChangeLog(tmp_path / "changes", SPACE)


@pytest.fixture
def base(tmp_path):
    return open_index(build_flat(Source(), None, tmp_path / "indexes"))


def nearest(live, vector, k=1):
    return [chunk_id for chunk_id, _ in live.find(vector[None], k, live.space)[0]]


def test_added_updated_and_deleted_chunks_are_served_at_once(base, log):
    before = LiveIndex(base, log, None)
    log.append(["new", "c1"], FRESH[:2], deleted=["c2"])
    assert nearest(before, BASE[2]) == ["c2"], "who holds an open one is answered as before"
    live = LiveIndex(base, log, None)
    assert nearest(live, FRESH[0]) == ["new"]
    assert nearest(live, FRESH[1]) == ["c1"], "the new vector counts"
    everything = nearest(live, np.ones(D, np.float32), k=10)
    assert sorted(everything) == ["c0", "c1", "c3", "c4", "new"]
    assert len(live) == 5
    assert dict(live.find(BASE[:1], 5, SPACE)[0])["c0"] == pytest.approx(1)


def test_a_later_change_of_the_same_chunk_wins(base, log):
    log.append(["a"], FRESH[:1])
    log.append([], np.empty((0, D)), deleted=["a"])
    log.append(["a", "c0"], FRESH[1:3])
    log.append([], np.empty((0, D)), deleted=["c0"])
    live = LiveIndex(base, log, None)
    assert nearest(live, FRESH[1]) == ["a"]
    assert sorted(nearest(live, np.ones(D, np.float32), k=10)) == ["a", "c1", "c2", "c3", "c4"]
    assert live.changes_upto == 4


def test_a_filter_holds_for_what_was_built_and_for_what_is_fresh(base, log):
    log.append(["new", "other", "c1"], FRESH, deleted=["c2"])
    live = LiveIndex(base, log, None)
    for wanted in (["c0", "c1", "c2", "c3", "new", "unknown"], ["other"], []):
        found = live.find(np.ones((1, D), np.float32), 10, SPACE, live.allowed(wanted))
        assert {chunk_id for chunk_id, _ in found[0]} == set(wanted) - {"c2", "unknown"}
    with pytest.raises(BadInput, match="each of the 8 rows"):
        live.find(BASE[:1], 1, SPACE, Allowed.of(np.ones(5, np.bool_)))


def test_changes_are_mapped_by_the_adapter_of_the_index(log, tmp_path, base):
    log.append(["new"], FRESH[:1])
    for index in (open_index(build_flat(Source(), Reversal(), tmp_path / "indexes")), fold(base, Reversal())):
        live = LiveIndex(index, log, Reversal())
        assert nearest(live, FRESH[0][::-1]) == ["new"]
        assert nearest(live, BASE[1][::-1]) == ["c1"]
        with pytest.raises(BadInput, match="mapped by another"):
            LiveIndex(index, log, None)


def test_a_query_of_another_space_is_refused(base, log):
    with pytest.raises(SpaceMismatch):
        LiveIndex(base, log, None).find(BASE[:1], 1, SPACE.adapted("1" * 64))


def test_only_changes_after_the_source_are_replayed(log, tmp_path):
    log.append(["old"], FRESH[:1])
    log.append(["newer"], FRESH[1:2])
    index = open_index(build_flat(Source(), None, tmp_path / "indexes", facts={"changes_upto": 1}))
    assert sorted(nearest(LiveIndex(index, log, None), np.ones(D, np.float32), k=10)) == ["c0", "c1", "c2", "c3", "c4", "newer"]


def test_changes_are_replayed_as_far_as_one_says_and_no_missing_one_is_passed_over(base, log):
    for name in ("one", "two", "three"):
        log.append([name], FRESH[:1])
    live = LiveIndex(base, log, None, upto=2)
    assert live.changes_upto == 2
    assert sorted(nearest(live, np.ones(D, np.float32), k=10)) == ["c0", "c1", "c2", "c3", "c4", "one", "two"]
    with pytest.raises(DamagedArtifact, match="change 4 is missing"):
        LiveIndex(base, log, None, upto=5)


@pytest.mark.parametrize(
    ("upserted", "vectors", "deleted", "problem"),
    [
        (["a", "a"], FRESH[:2], [], "repeats"),
        (["a"], FRESH[:1], ["a"], "repeats"),
        ([""], FRESH[:1], [], "empty"),
        (["a"], FRESH[:2], [], "shape"),
        (["a"], np.zeros((1, D), np.float32), [], "zero or not finite"),
        (["a"], np.full((1, D), np.nan, np.float32), [], "zero or not finite"),
    ],
)
def test_an_unusable_change_is_refused_and_leaves_nothing(log, tmp_path, upserted, vectors, deleted, problem):
    with pytest.raises(BadInput, match=problem):
        log.append(upserted, vectors, deleted)
    assert log.last == 0 and not (tmp_path / "changes").exists()


def append_some(folder, who):
    log = ChangeLog(folder, SPACE)
    for i in range(10):
        log.append([f"{who}-{i}"], FRESH[:1])


def test_processes_that_append_together_lose_nothing(tmp_path):
    context = get_context("fork")
    workers = [context.Process(target=append_some, args=(tmp_path, who)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    changes = list(ChangeLog(tmp_path, SPACE).after(0))
    assert [c.number for c in changes] == list(range(1, 31))
    assert {c.upserted[0] for c in changes} == {f"{who}-{i}" for who in range(3) for i in range(10)}
    assert len(list(tmp_path.iterdir())) == 30


def test_a_missing_or_torn_change_is_noticed(log, tmp_path, base):
    for i in range(3):
        log.append([f"n{i}"], FRESH[:1])
    torn = tmp_path / "changes" / "0000000003.parquet"
    content = torn.read_bytes()
    torn.write_bytes(content[:-9])
    with pytest.raises(DamagedArtifact, match="0000000003.parquet: not a readable change"):
        LiveIndex(base, log, None)
    torn.write_bytes(content)
    (tmp_path / "changes" / "0000000002.parquet").unlink()
    with pytest.raises(DamagedArtifact, match="change 2 is missing"):
        LiveIndex(base, log, None)


def test_pruned_changes_are_those_that_every_index_holds(log):
    for i in range(4):
        log.append([f"n{i}"], FRESH[:1])
    assert log.prune(2) == 2
    assert [c.number for c in log.after(2)] == [3, 4]
    assert log.prune(99) == 1 and log.append(["n9"], FRESH[:1]) == 5


# ── the pointer ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_swap_replays_changes_warms_and_keeps_the_index_before(base, log, tmp_path):
    pointer = Pointer(tmp_path / "indexes")
    with pytest.raises(MissingEvidence):
        pointer.folder()
    first = swap(pointer, base.path, log, None, BASE[:1], expected="")
    assert pointer.read() == Pointed(base.digest, "")
    log.append(["meanwhile"], FRESH[:1])
    adapted = build_flat(Source(), Reversal(), tmp_path / "indexes")
    second = swap(pointer, adapted, log, Reversal(), BASE[:1], expected=first.digest)
    assert pointer.folder() == adapted
    assert nearest(second, FRESH[0][::-1]) == ["meanwhile"]
    assert nearest(first, FRESH[0]) == ["c0"], "who still holds the old one is answered as before"
    assert pointer.rollback() == Pointed(first.digest, second.digest)
    assert pointer.rollback() == Pointed(second.digest, first.digest)


def test_a_damaged_index_does_not_come_into_service(base, log, tmp_path):
    pointer = Pointer(tmp_path / "indexes")
    swap(pointer, base.path, log, None, BASE[:1], expected="")
    other = build_flat(Source(), Reversal(), tmp_path / "indexes")
    (other / "vectors.f32").write_bytes(b"\0" * (other / "vectors.f32").stat().st_size)
    with pytest.raises(DamagedArtifact):
        swap(pointer, other, log, Reversal(), BASE[:1], expected=base.digest)
    assert pointer.read() == Pointed(base.digest, "")


def test_of_two_swaps_decided_on_the_same_state_one_loses(base, tmp_path):
    pointer = Pointer(tmp_path / "indexes")
    pointer.flip(base.digest, expected="")
    with pytest.raises(Conflict, match="decide anew"):
        pointer.flip("d" * 64, expected="")
    assert pointer.flip(base.digest, expected=base.digest) == Pointed(base.digest, ""), "a repetition keeps what is before"


def test_without_a_previous_index_there_is_no_way_back(base, tmp_path):
    pointer = Pointer(tmp_path / "indexes")
    with pytest.raises(MissingEvidence, match="no previous"):
        pointer.rollback()


def test_an_unreadable_pointer_is_damage_not_emptiness(tmp_path):
    (tmp_path / "current.json").write_text("{")
    with pytest.raises(DamagedArtifact):
        Pointer(tmp_path).read()


def test_a_sweep_keeps_the_index_that_serves_the_one_before_and_what_they_stand_on(base, log, tmp_path):
    pointer, home = Pointer(tmp_path / "indexes"), tmp_path / "indexes"
    folded, adapted = fold(base, Reversal()), build_flat(Source(), Reversal(), home)
    unused = build_flat(Source(), None, home, facts={"changes_upto": 7})
    pointer.flip(adapted.name.removeprefix("sha256-"), expected="")
    pointer.flip(folded.digest, expected=pointer.read().current)
    assert pointer.sweep(log) == 1
    assert not unused.exists() and base.path.exists()
    assert pointer.sweep(log) == 0
    assert nearest(LiveIndex(open_index(pointer.folder()), log, Reversal()), BASE[3][::-1]) == ["c3"]
