"""Exports out, labels in, and what of them becomes a source of training messages."""

import csv
import datetime as dt
import io
import itertools
import json

import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.label_files import read_answers, write_export
from mangaassist_assets.lib.messages.label_inbox import INBOX, digest_of_inbox, import_labels, inbox_source, publish, take_in
from mangaassist_assets.lib.messages.labelling import label_messages, message_id
from mangaassist_assets.lib.messages.queue import Labelling, Queue
from mangaassist_assets.lib.messages.queue_state import Label
from mangaassist_assets.lib.messages.reading import Source, digest_of_sources
from mangaassist_assets.lib.messages.sampling import SAMPLE

NOW = dt.datetime(2026, 11, 23, 9, tzinfo=dt.UTC)
WEEK = dt.date(2026, 11, 16)
TEXTS = [
    "where is my parcel",
    "送料はいくらですか?",
    '=cmd|"/c calc"!A1 do you ship to norway',
    "-50% on box sets, still true?",
    'he said "hi", then left; ok',
    "'quoted already",
    "'=1+1",
    "is there a signing event on sunday",
]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def queue(home):
    """Eight texts: two of control, of all of them two wanted twice."""
    rows = [
        {"week": WEEK, "request_id": f"r{i}", "message_id": message_id(text), "text": text, "language": "en", "intent": "faq"}
        | {"confidence": 0.5, "model_digest": "m", "stratum": "control" if i < 2 else "uncertain", "cluster": None, "represents": 1}
        | {"inclusion_probability": 0.1}
        for i, text in enumerate(TEXTS)
    ]
    log = Queue(home / "queue", Labelling())
    log.accept(["faq", "promotion", "order_tracking"], at=NOW, by="label_queue")
    log.enqueue(pa.Table.from_pylist(rows, SAMPLE), at=NOW, by="label_queue")
    return log


def exported(queue, path, annotator="aiko"):
    items = queue.lease(annotator, 100, at=NOW)
    write_export(path, items, annotator)
    return items


def cells_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))


def fill(path, change=lambda row: row | {"intent": "faq"}):
    filled = [change(row) for row in cells_of(path)]
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, filled[0].keys())
        writer.writeheader()
        writer.writerows(filled)


def filled_by(queue, path, annotator="aiko", change=lambda row: row | {"intent": "faq"}):
    exported(queue, path, annotator)
    fill(path, change)
    return import_labels(queue, path, at=NOW, by=annotator)


# ── spreadsheets ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_filled_csv_comes_back_whole_whatever_the_texts_hold(queue, tmp_path):
    found = filled_by(queue, tmp_path / "aiko.csv")
    assert (found.taken, found.refused, found.beside) == (8, (), None)
    assert {item.text for item in queue.state().items.values() if item.labels} == set(TEXTS)


def test_a_spreadsheet_is_not_handed_formulas(queue, tmp_path):
    exported(queue, tmp_path / "aiko.csv")
    assert not [row["text"] for row in cells_of(tmp_path / "aiko.csv") if row["text"].startswith(("=", "+", "-", "@"))]


def test_predictions_stand_only_where_they_sway_no_measurement(queue, tmp_path):
    items = {item.item_id: item for item in exported(queue, tmp_path / "aiko.csv")}
    for row in cells_of(tmp_path / "aiko.csv"):
        assert row["predicted"] == ("" if items[row["item_id"]].is_blind else "faq")
        assert row["intent"] == row["secondary_intent"] == ""
    assert sum(item.is_blind for item in items.values()) in (2, 3, 4)


def test_importing_a_file_again_changes_nothing(queue, tmp_path):
    filled_by(queue, tmp_path / "aiko.csv")
    version = queue.state().version
    again = import_labels(queue, tmp_path / "aiko.csv", at=NOW, by="aiko")
    assert (again.taken, again.unchanged, again.refused, queue.state().version) == (0, 8, (), version)
    assert str(again) == "aiko.csv: 0 taken, 8 taken before"


def test_refused_rows_are_written_beside_with_the_reason_and_can_be_corrected_there(queue, tmp_path):
    path = tmp_path / "aiko.csv"

    numbers = itertools.count()

    def spoil(row):
        wrong = {0: {"intent": "refunds"}, 1: {"text": "something else"}, 2: {"item_id": "q0"}, 3: {"intent": ""}}
        return row | {"intent": "faq"} | wrong.get(next(numbers), {})

    found = filled_by(queue, path, change=spoil)
    assert (found.taken, found.empty) == (4, 1)
    assert [r.reason for r in found.refused] == ["unknown_intent", "edited_text", "unknown_item"]
    assert found.beside == tmp_path / "aiko.refused.csv"
    assert str(found) == (
        "aiko.csv: 4 taken, 3 refused (1 edited_text, 1 unknown_intent, 1 unknown_item; see aiko.refused.csv), 1 left empty"
    )
    refused = cells_of(found.beside)
    assert [row["row"] for row in refused] == ["2", "3", "4"] and "'refunds' is none of faq" in refused[0]["detail"]

    fill(found.beside, lambda row: row | {"intent": "faq"})
    assert import_labels(queue, found.beside, at=NOW, by="aiko").taken == 1  # the row whose intent was wrong


def test_a_corrected_file_takes_the_old_list_of_refusals_away(queue, tmp_path):
    path = tmp_path / "aiko.csv"
    found = filled_by(queue, path, change=lambda row: row | {"intent": "refunds"})
    assert len(found.refused) == 8 and found.beside.exists()
    fill(path)
    assert import_labels(queue, path, at=NOW, by="aiko").beside is None
    assert not found.beside.exists()


def test_a_second_intent_needs_a_first_and_equal_ones_are_one(queue, tmp_path):
    path = tmp_path / "aiko.csv"
    found = filled_by(queue, path, change=lambda row: row | {"secondary_intent": "faq"})
    assert [r.reason for r in found.refused] == ["empty_intent"] * 8
    fill(path, lambda row: row | {"intent": "faq"})
    import_labels(queue, path, at=NOW, by="aiko")
    assert {label for item in queue.state().items.values() for label in item.labels.values()} == {Label("faq", None)}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"text,intent\nhello,faq\n", "no column 'item_id'"),
        (b'item_id,annotator,text,intent,secondary_intent\n"open', "not CSV"),
        ("item_id,annotator,text,intent,secondary_intent\nq1,a,caf\u00e9,faq,".encode("latin-1"), "is not utf-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_one_line_with_its_remedy(queue, tmp_path, content, problem):
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=problem) as caught:
        import_labels(queue, path, at=NOW, by="aiko")
    assert "\n" not in str(caught.value)


# ── Label Studio ────────────────────────────────────────────────────────────────────────────────────────────────────


def annotated(task, intent, secondary=None):
    result = [{"from_name": "intent", "to_name": "text", "type": "choices", "value": {"choices": [intent]}}]
    if secondary:
        result.append({"from_name": "secondary_intent", "to_name": "text", "type": "choices", "value": {"choices": [secondary]}})
    return task | {"id": 1, "annotations": [{"was_cancelled": True, "result": []}, {"was_cancelled": False, "result": result}]}


def test_label_studio_tasks_hold_predictions_only_where_they_sway_no_measurement(queue, tmp_path):
    items = {item.item_id: item for item in exported(queue, tmp_path / "aiko.json")}
    for task in json.loads((tmp_path / "aiko.json").read_text("utf-8")):
        assert ("predictions" not in task) == items[task["data"]["item_id"]].is_blind
        assert task["data"]["text"] in TEXTS


def test_both_forms_of_label_studios_exports_are_read(queue, tmp_path):
    path = tmp_path / "aiko.json"
    exported(queue, path)
    tasks = json.loads(path.read_text("utf-8"))
    full = [annotated(task, "faq", "promotion") for task in tasks[:4]] + [task | {"annotations": []} for task in tasks[4:]]
    path.write_text(json.dumps(full), "utf-8")
    found = import_labels(queue, path, at=NOW, by="aiko")
    assert (found.taken, found.empty, found.refused) == (4, 4, ())
    small = [task["data"] | {"intent": "faq", "secondary_intent": {"choices": ["promotion", "x"]}, "id": 3} for task in tasks]
    path.write_text(json.dumps(small), "utf-8")
    found = import_labels(queue, path, at=NOW, by="aiko")
    assert (found.taken, found.unchanged) == (4, 4)
    assert {label for item in queue.state().items.values() for label in item.labels.values()} == {Label("faq", "promotion")}


@pytest.mark.parametrize("content", ["{", "{}", "[[[["])
def test_json_that_is_no_list_of_tasks_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(BadInput, match="Export it from Label Studio"):
        read_answers(tmp_path / "x.json")


def test_tasks_that_say_nothing_are_refused_one_by_one(tmp_path):
    odd = [
        3,
        {},
        {"data": []},
        {"data": {"item_id": "q1"}, "annotations": "none"},
        {"data": {"item_id": "q1"}, "annotations": [{"result": [7]}]},
    ]
    (tmp_path / "x.json").write_text(json.dumps(odd))
    answers, refused, empty = read_answers(tmp_path / "x.json")
    assert (answers, [r.reason for r in refused], empty) == ([], ["malformed_row"] * 3, 2)


# ── the inbox ───────────────────────────────────────────────────────────────────────────────────────────────────────


def settle(queue, home, tmp_path):
    """Everything labelled by two, who differ on what is wanted twice."""
    filled_by(queue, tmp_path / "aiko.csv")
    filled_by(queue, tmp_path / "ben.csv", "ben", lambda row: row | {"intent": "promotion"})
    publish(home, queue.state())


def test_an_empty_home_has_no_source(home):
    assert inbox_source(home) is None
    assert digest_of_inbox(home) == digest_of_inbox(home)


def test_settled_labels_become_a_source_and_conflicts_stay_out(queue, home, tmp_path):
    settle(queue, home, tmp_path)
    source = inbox_source(home)
    assert (source.name, source.licence, source.synthetic) == ("queue", "own", False)
    table = label_messages([source]).table
    conflicts = queue.state().conflicts()
    assert len(conflicts) == 2 and len(table) == 6
    assert set(table["split"].to_pylist()) == {"train"} and set(table["source"].to_pylist()) == {"queue"}
    assert not {item.text for item in conflicts} & set(table["text"].to_pylist())
    before = digest_of_sources([source])
    for item in conflicts:
        queue.adjudicate(item.item_id, Label("promotion", "faq"), at=NOW, by="chiyo", why="read again")
    publish(home, queue.state())
    assert len(label_messages([inbox_source(home)]).table) == 8
    assert digest_of_sources([inbox_source(home)]) != before


def test_publishing_again_writes_nothing_and_mends_what_a_kill_left(queue, home, tmp_path):
    settle(queue, home, tmp_path)
    path = home / INBOX / f"queue-{WEEK}.jsonl"
    stamp = path.stat().st_mtime_ns
    publish(home, queue.state())
    assert path.stat().st_mtime_ns == stamp
    whole = path.read_bytes()
    path.unlink()
    publish(home, queue.state())
    assert path.read_bytes() == whole


def test_labels_of_texts_near_a_golden_one_never_reach_training(queue, home, tmp_path):
    settle(queue, home, tmp_path)
    golden = tmp_path / "golden.csv"
    golden.write_text("text,intent,split\nIs there a signing event on Sunday?,faq,golden\nsee you,promotion,train\n")
    own = Source("own", ("golden.csv",), split="split", folder=tmp_path)
    result = label_messages([own, inbox_source(home)])
    assert "near_duplicate_of_golden" in result.counts["rejected_by_reason"]
    trained = [r["text"] for r in result.table.to_pylist() if r["split"] == "train"]
    assert "is there a signing event on sunday" not in trained


def test_finished_labels_from_elsewhere_are_read_and_unknown_intents_refused(queue, home, tmp_path):
    settle(queue, home, tmp_path)
    (home / INBOX / "old.csv").write_text(
        "text,intent,secondary_intent,split\ncan i pay by invoice,faq,,train\nmoney back,refunds,,train\n"
    )
    result = label_messages([inbox_source(home)])
    assert "can i pay by invoice" in result.table["text"].to_pylist()
    assert result.counts["rejected_by_reason"] == {"unknown_label": 1}


def test_a_filled_export_in_the_inbox_is_taken_once_and_is_no_source(queue, home):
    (home / INBOX).mkdir(parents=True)
    exported(queue, home / INBOX / "aiko.csv")
    fill(home / INBOX / "aiko.csv")
    before = digest_of_inbox(home)
    assert inbox_source(home) is None
    first = take_in(queue, home, at=NOW, by="label_queue")
    assert [(found.file, found.taken) for found in first] == [("aiko.csv", 8)]
    publish(home, queue.state())
    assert inbox_source(home).paths == (f"queue-{WEEK}.jsonl",)
    assert digest_of_inbox(home) == before, "what the graph does itself is no news to its sensor"
    assert [(found.taken, found.unchanged) for found in take_in(queue, home, at=NOW, by="label_queue")] == [(0, 8)]


def test_a_broken_file_in_the_inbox_does_not_stop_the_others(queue, home):
    (home / INBOX).mkdir(parents=True)
    (home / INBOX / "a.json").write_text("{")
    (home / INBOX / "empty.csv").write_text("")
    (home / INBOX / ".aiko.csv.123-abc.tmp").write_text("item_id")
    exported(queue, home / INBOX / "b.csv")
    fill(home / INBOX / "b.csv")
    found = take_in(queue, home, at=NOW, by="label_queue")
    assert [(f.file, f.taken, [r.reason for r in f.refused]) for f in found] == [("a.json", 0, ["unreadable_file"]), ("b.csv", 8, [])]
    again = take_in(queue, home, at=NOW, by="label_queue")
    assert [f.file for f in again] == ["a.json", "b.csv"], "the list of refusals is not taken for labels"


def test_news_for_the_sensor_are_new_exports_and_what_people_entered(queue, home, tmp_path):
    first = digest_of_inbox(home)
    filled_by(queue, tmp_path / "aiko.csv")
    second = digest_of_inbox(home)
    (home / INBOX).mkdir(parents=True)
    (home / INBOX / "ben.csv").write_text("item_id,annotator,text,intent,secondary_intent\n")
    assert len({first, second, digest_of_inbox(home)}) == 3
