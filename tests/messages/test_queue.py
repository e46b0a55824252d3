"""The label queue: leases, blind double labels, conflicts, and a log that two writers and a killed one cannot spoil."""

import datetime as dt
import json
import subprocess
import sys
import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import BadInput, Conflict, DamagedArtifact, MangaAssistError, Unavailable
from mangaassist_assets.lib.messages.queue import Answer, Labelling, Queue
from mangaassist_assets.lib.messages.queue_state import QUEUE, SETTLED, ItemState, Label, current, glance
from mangaassist_assets.lib.messages.sampling import SAMPLE

NOW = dt.datetime(2026, 11, 23, 9, tzinfo=dt.UTC)
WEEK = dt.date(2026, 11, 16)
INTENTS = ("chitchat", "faq", "promotion")
HOURS = dt.timedelta(hours=1)


def sample_of(n_control=6, n_uncertain=14, *, week=WEEK, first=0):
    rows = []
    for i in range(first, first + n_control + n_uncertain):
        control = i < first + n_control
        rows.append(
            {"week": week, "request_id": f"r{i}", "message_id": f"{i:016x}", "text": f"text {i}", "language": "en", "intent": "faq"}
            | {"confidence": 0.5, "model_digest": "m", "stratum": "control" if control else "uncertain", "cluster": None, "represents": 1}
            | {"inclusion_probability": 0.1 if control else 0.4}
        )
    return pa.Table.from_pylist(rows, SAMPLE)


@pytest.fixture
def queue(tmp_path):
    """Ten items of a week, six of them control, two wanted twice."""
    log = Queue(tmp_path / "queue", Labelling(queue_per_week=10, lease_hours=72))
    log.accept(INTENTS, at=NOW, by="label_queue")
    log.enqueue(sample_of(), at=NOW, by="label_queue")
    return log


def answers(items, annotator, intent="faq", secondary=None):
    return [Answer(row, annotator, item.item_id, item.text, intent, secondary) for row, item in enumerate(items, 1)]


def answered(queue, annotator, intent="faq", *, count=100, at=NOW, secondary=None):
    items = queue.lease(annotator, count, at=at)
    return queue.label(answers(items, annotator, intent, secondary), at=at, by=annotator)


def rows(queue, at=NOW):
    return queue.state().table(at).to_pylist()


# ── queueing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_control_slice_is_queued_first_and_the_rest_as_far_as_room_is(queue):
    table = queue.state().table(NOW)
    assert table.schema == QUEUE
    assert table["stratum"].to_pylist() == ["control"] * 6 + ["uncertain"] * 4
    assert set(table["state"].to_pylist()) == {"waiting"}
    odds = {row["stratum"]: row["inclusion_probability"] for row in table.to_pylist()}
    assert odds["control"] == 0.1 and odds["uncertain"] == pytest.approx(0.4 * 4 / 14)


def test_a_stated_part_is_wanted_twice(queue):
    assert sorted(row["annotators"] for row in rows(queue)) == [1] * 8 + [2] * 2


def test_queueing_a_week_again_changes_nothing_and_a_week_has_room_for_so_many(queue):
    before = queue.state()
    assert queue.enqueue(sample_of(), at=NOW, by="label_queue").version == before.version
    assert queue.enqueue(sample_of(3, 2, first=100), at=NOW, by="label_queue").version == before.version  # the week's room is used up
    later = queue.enqueue(sample_of(3, 2, first=100, week=dt.date(2026, 11, 23)), at=NOW, by="label_queue")
    assert len(later.items) == 15


def test_a_text_is_queued_once_whatever_the_week(queue):
    again = queue.enqueue(sample_of(week=dt.date(2026, 11, 23)), at=NOW, by="label_queue")
    texts = [item.text for item in again.items.values()]
    assert len(texts) == len(set(texts)) == 20


def test_a_text_in_both_strata_is_queued_as_control(tmp_path):
    both = sample_of(1, 1).to_pylist()
    both[1] |= {"message_id": both[0]["message_id"], "text": both[0]["text"]}
    state = Queue(tmp_path).enqueue(pa.Table.from_pylist(both, SAMPLE), at=NOW, by="label_queue")
    assert [item.stratum for item in state.items.values()] == ["control"]


# ── leasing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_annotators_hold_different_items_but_for_those_wanted_twice(queue):
    first, second = queue.lease("aiko", 100, at=NOW), queue.lease("ben", 100, at=NOW)
    assert len(first) == 10
    assert {item.item_id for item in second} == {item.item_id for item in first if item.annotators == 2}
    assert queue.lease("chiyo", 100, at=NOW) == []
    assert queue.state().counts(NOW) == {"waiting": 0, "leased": 10, "labelled": 0, "conflict": 0, "adjudicated": 0}


def test_control_items_go_out_first_and_what_one_holds_comes_again(queue):
    first = queue.lease("aiko", 4, at=NOW)
    assert {item.stratum for item in first} == {"control"}
    again = queue.lease("aiko", 5, at=NOW + HOURS)
    assert [item.item_id for item in again][:4] == [item.item_id for item in first]
    assert again[0].leases["aiko"] == NOW + HOURS + dt.timedelta(hours=72)


def test_a_lease_that_ran_out_goes_to_another_and_its_holder_is_told(queue):
    items = queue.lease("aiko", 10, at=NOW)
    late = NOW + 73 * HOURS
    assert queue.state().counts(late)["leased"] == 0
    taken = queue.label(answers(items[:1], "aiko"), at=late, by="aiko")
    assert [refusal.reason for refusal in taken.refused] == ["expired_lease"]
    assert "export again" in taken.refused[0].detail
    assert len(queue.lease("ben", 10, at=late)) == 10


def test_what_the_model_answered_is_kept_from_control_and_double_items(queue):
    items = queue.state().items.values()
    assert {item.is_blind for item in items if item.stratum == "control" or item.annotators == 2} == {True}
    assert {item.is_blind for item in items if item.stratum == "uncertain" and item.annotators == 1} == {False}


# ── labelling ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_label_settles_an_item_two_that_agree_settle_a_double_one(queue):
    answered(queue, "aiko")
    assert queue.state().counts(NOW) == {"waiting": 2, "leased": 0, "labelled": 8, "conflict": 0, "adjudicated": 0}
    answered(queue, "ben")
    assert {row["state"] for row in rows(queue)} == {"labelled"}
    assert {row["intent"] for row in rows(queue)} == {"faq"}


def test_a_half_labelled_item_shows_no_label(queue):
    answered(queue, "aiko")
    half = [row for row in rows(queue) if row["annotators"] == 2]
    assert [(row["labels"], row["intent"]) for row in half] == [(1, None), (1, None)]


@pytest.mark.parametrize("second", [("promotion", None), ("faq", "promotion")])
def test_labels_that_differ_are_a_conflict_until_a_person_decides(queue, second):
    answered(queue, "aiko")
    answered(queue, "ben", second[0], secondary=second[1])
    conflicts = queue.state().conflicts()
    assert len(conflicts) == 2 and {row["intent"] for row in rows(queue) if row["state"] == "conflict"} == {None}
    decided = queue.adjudicate(conflicts[0].item_id, Label("promotion", None), at=NOW, by="chiyo", why="asks for a code")
    item = decided.items[conflicts[0].item_id]
    assert (item.state(NOW), item.outcome) == (ItemState.ADJUDICATED, Label("promotion", None))
    assert queue.lease("dai", 10, at=NOW) == []  # a conflict is not open to a third


def test_labels_entered_again_change_nothing(queue):
    items = queue.lease("aiko", 10, at=NOW)
    first = queue.label(answers(items, "aiko"), at=NOW, by="aiko")
    version = queue.state().version
    again = queue.label(answers(items, "aiko"), at=NOW + 100 * HOURS, by="aiko")
    assert (first.taken, first.unchanged, again.taken, again.unchanged, again.refused) == (10, 0, 0, 10, ())
    assert queue.state().version == version


def test_rows_that_cannot_be_taken_are_refused_with_a_reason_and_the_rest_is_taken(queue):
    items = queue.lease("aiko", 8, at=NOW)
    good = answers(items, "aiko")
    bad = [
        good[0]._replace(text="text edited"),
        good[1]._replace(intent="refunds"),
        good[2]._replace(secondary_intent="refunds"),
        good[3]._replace(item_id="q000000-0"),
        good[4],
        good[4],
        good[5]._replace(annotator="ben"),
        good[6],
    ]
    taken = queue.label(bad, at=NOW, by="aiko")
    assert [(r.answer.row, r.reason) for r in taken.refused] == [
        (1, "edited_text"),
        (2, "unknown_intent"),
        (3, "unknown_intent"),
        (4, "unknown_item"),
        (5, "duplicate"),
        (6, "not_leased"),
    ]
    assert taken.taken == 2
    changed = queue.label([good[6]._replace(intent="promotion")], at=NOW, by="aiko")
    assert [r.reason for r in changed.refused] == ["already_labelled"]


def test_an_intent_is_accepted_once_somebody_said_so(queue):
    items = queue.lease("aiko", 1, at=NOW)
    assert queue.label(answers(items, "aiko", "signing_event"), at=NOW, by="aiko").taken == 0
    queue.accept(["signing_event"], at=NOW, by="chiyo")
    assert queue.label(answers(items, "aiko", "signing_event"), at=NOW, by="aiko").taken == 1
    assert queue.accept(["signing_event", "faq", " "], at=NOW, by="chiyo").version == queue.state().version


@pytest.mark.parametrize(
    ("item", "label", "why", "problem"),
    [
        ("nothing", Label("faq", None), "x", "is no item"),
        (None, Label("faq", None), "x", "has no label yet"),
        (0, Label("refunds", None), "x", "'refunds' is no intent"),
        (0, Label("faq", "refunds"), "x", "'refunds' is no intent"),
        (0, Label("faq", None), " ", "why must be said"),
    ],
)
def test_a_decision_that_cannot_be_is_refused_in_one_line(queue, item, label, why, problem):
    answered(queue, "aiko", count=9)
    items = queue.state().items.values()
    bare, labelled = (next(i.item_id for i in items if bool(i.labels) is told) for told in (False, True))
    name = {None: bare, 0: labelled}.get(item, item)
    with pytest.raises(BadInput, match=problem) as caught:
        queue.adjudicate(name, label, at=NOW, by="chiyo", why=why)
    assert "\n" not in str(caught.value)


def test_a_settled_label_can_be_corrected_and_the_same_decision_twice_is_one_event(queue):
    answered(queue, "aiko", count=1)
    item = next(i for i in queue.state().items.values() if i.labels)
    first = queue.adjudicate(item.item_id, Label("promotion", None), at=NOW, by="chiyo", why="misread")
    assert first.items[item.item_id].outcome == Label("promotion", None)
    assert queue.adjudicate(item.item_id, Label("promotion", None), at=NOW, by="chiyo", why="misread").version == first.version


# ── the log ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_graph_did_is_told_from_what_people_did(queue):
    assert queue.state().by_people == ()
    answered(queue, "aiko", count=1)
    assert queue.state().by_people == (3, 4)
    assert glance(queue.folder) == (frozenset(INTENTS), (3, 4)) == (queue.state().intents, queue.state().by_people)


def test_a_writer_who_was_overtaken_decides_anew(queue):
    class Late(Queue):
        def state(self):
            state = current(self.folder)
            if "seen" not in self.__dict__:
                self.__dict__["seen"] = True
                queue.lease("ben", 10, at=NOW)  # somebody is faster
            return state

    late = Late(queue.folder, queue.settings)
    assert len(late.lease("aiko", 10, at=NOW)) == 2  # those wanted twice


def test_a_writer_who_is_always_overtaken_gives_up_in_words(queue, monkeypatch):
    monkeypatch.setattr("mangaassist_assets.lib.messages.queue.append", lambda *_: False)
    with pytest.raises(Conflict, match="Try again"):
        queue.lease("aiko", 1, at=NOW)


def test_a_missing_or_damaged_event_is_refused(queue):
    answered(queue, "aiko", count=1)
    whole = (queue.folder / "000002.json").read_bytes()
    (queue.folder / "000002.json").write_bytes(whole[:50])
    with pytest.raises(DamagedArtifact, match="event 2 cannot be read"):
        queue.state()
    with pytest.raises(DamagedArtifact, match="event 2 cannot be read"):
        glance(queue.folder)
    (queue.folder / "000002.json").unlink()
    for look in (current, glance):
        with pytest.raises(DamagedArtifact, match="event 2 is missing"):
            look(queue.folder)


def test_what_a_killed_writer_left_beside_is_no_event(queue):
    before = queue.state()
    (queue.folder / ".000003.json.99999999-0.tmp").write_text('{"kind"')
    assert queue.state() == before


def test_a_file_system_without_hard_links_is_named(queue, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(Unavailable, match="hard links; set MANGAASSIST_HOME"):
        queue.lease("aiko", 1, at=NOW)


@pytest.mark.parametrize("attempt", [lambda q: q.lease(" ", 1, at=NOW), lambda q: q.lease("aiko", 1, at=dt.datetime(2026, 1, 1))])
def test_a_name_and_a_time_with_a_zone_are_needed(queue, attempt):
    with pytest.raises(BadInput):
        attempt(queue)


WRITER = """
import sys, pathlib, datetime as dt
from mangaassist_assets.lib.messages.queue import Answer, Queue, Labelling
queue, name = Queue(pathlib.Path(sys.argv[1]), Labelling(queue_per_week=40)), sys.argv[2]
now = dt.datetime(2026, 11, 23, 9, tzinfo=dt.UTC)
print("ready", flush=True)
sys.stdin.readline()
taken = 0
for _ in range(8):
    items = queue.lease(name, 3, at=now)
    taken += queue.label([Answer(1, name, i.item_id, i.text, "faq", None) for i in items], at=now, by=name).taken
print(taken)
"""


def test_processes_that_race_never_label_an_item_more_often_than_is_wanted(tmp_path):
    queue = Queue(tmp_path / "queue", Labelling(queue_per_week=40))
    queue.accept(INTENTS, at=NOW, by="label_queue")
    queue.enqueue(sample_of(20, 20), at=NOW, by="label_queue")
    command = [sys.executable, "-c", WRITER, str(queue.folder)]
    writers = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in ("aiko", "ben")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    entered = 0
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        entered += int(out)
    items = queue.state().items.values()
    assert sum(len(item.labels) for item in items) == entered > 0
    assert all(len(item.labels) <= item.annotators for item in items)


STEPS = st.tuples(
    st.sampled_from(["aiko", "ben", "chiyo"]), st.sampled_from(["lease", "faq", "promotion", "wait", "decide"]), st.integers(1, 4)
)


@given(st.lists(STEPS, min_size=3, max_size=12))
@settings(max_examples=15, deadline=None)
def test_whatever_people_do_labels_are_wanted_leases_are_single_and_settled_stays_settled(tmp_path_factory, steps):
    queue = Queue(tmp_path_factory.mktemp("queue"), Labelling(queue_per_week=5, double_share=0.4))
    queue.accept(INTENTS, at=NOW, by="label_queue")
    queue.enqueue(sample_of(2, 3), at=NOW, by="label_queue")
    now, settled = NOW, {}
    for who, what, count in steps:
        if what == "wait":
            now += 50 * HOURS
        elif what == "decide":
            for item in queue.state().conflicts()[:count]:
                queue.adjudicate(item.item_id, Label("chitchat", None), at=now, by=who, why="read again")
        else:
            items = queue.lease(who, count, at=now)
            if what != "lease":
                assert not queue.label(answers(items, who, what), at=now, by=who).refused
        state = queue.state()
        for item in state.items.values():
            assert len(item.labels) <= item.annotators
            assert len(set(item.labels) | set(item.live(now))) <= item.annotators
            assert (item.outcome is not None) == (item.state(now) in SETTLED)
            assert settled.setdefault(item.item_id, item.outcome) in (None, item.outcome)
            settled[item.item_id] = item.outcome
        assert sum(state.counts(now).values()) == 5


def test_three_years_of_labelling_are_folded_fast_enough_for_a_sensor(tmp_path):
    tmp_path.joinpath("queue").mkdir()
    queue = Queue(tmp_path / "queue", Labelling())
    items, number = 200, 0
    for week in range(156):
        day = dt.date(2023, 11, 27) + dt.timedelta(weeks=week)
        rows_ = [
            {
                "item_id": f"{week}-{i}",
                "week": day.isoformat(),
                "message_id": f"{week}-{i}",
                "text": "where is my parcel " * 3,
                "predicted": "faq",
            }
            | {"confidence": 0.5, "stratum": "control", "inclusion_probability": 0.1, "annotators": 1}
            for i in range(items)
        ]
        names = [row["item_id"] for row in rows_]
        events = [
            {"kind": "queued", "items": rows_},
            {"kind": "leased", "annotator": "aiko", "until": NOW.isoformat(), "items": names},
            {"kind": "labelled", "labels": [[name, "aiko", "faq", None] for name in names]},
        ]
        for event in events:
            number += 1
            queue.folder.joinpath(f"{number:06d}.json").write_text(
                json.dumps({"version": number, "at": NOW.isoformat(), "by": "x"} | event)
            )
    began = time.process_time()
    assert len(queue.state().items) == 156 * items
    folded = time.process_time()
    assert len(glance(queue.folder)[1]) == number
    assert folded - began < 1.0 and time.process_time() - folded < 0.15  # 0.2 and 0.02 s


def test_every_error_is_one_line(queue):
    for attempt in (lambda: queue.adjudicate("x", Label("faq", None), at=NOW, by="a", why="b"), lambda: queue.lease("", 1, at=NOW)):
        with pytest.raises(MangaAssistError) as caught:
            attempt()
        assert "\n" not in str(caught.value)
