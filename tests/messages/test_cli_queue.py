"""`mangaassist queue`, as typed."""

import csv
import datetime as dt
import io
import json
from types import SimpleNamespace

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from mangaassist_assets import cli_queue
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.label_inbox import INBOX
from mangaassist_assets.lib.messages.labelling import message_id
from mangaassist_assets.lib.messages.queue import Labelling, Queue
from mangaassist_assets.lib.messages.sampling import SAMPLE

NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory whose home has ten queued texts, five of them wanted twice."""
    settings = SimpleNamespace(home=tmp_path / "home", labelling=Labelling(double_share=0.5))
    monkeypatch.setattr(cli_queue, "current", lambda: settings)
    monkeypatch.chdir(tmp_path)
    queue = Queue(settings.home / "queue", settings.labelling)
    rows = [
        {"week": dt.date(2026, 11, 16), "request_id": f"r{i}", "message_id": message_id(f"text {i}"), "text": f"text {i}", "language": "en"}
        | {"intent": "faq", "confidence": 0.5, "model_digest": "m", "stratum": "uncertain", "cluster": 0, "represents": 1}
        | {"inclusion_probability": 0.1}
        for i in range(10)
    ]
    queue.accept(["faq", "promotion"], at=NOW, by="label_queue")
    queue.enqueue(pa.Table.from_pylist(rows, SAMPLE), at=NOW, by="label_queue")
    return tmp_path


def typed(*words):
    return CliRunner().invoke(cli_queue.queue, list(words))


def told(*words):
    answer = typed(*words, "--json")
    return answer.exit_code, json.loads(answer.stdout)


def fill(path, intent="faq"):
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(row | {"intent": intent} for row in rows)


def test_a_week_of_labelling_from_export_to_adjudication(folder):
    code, first = told("export", "aiko.csv", "--annotator", "aiko")
    assert (code, first["items"]) == (0, 10)
    answer = typed("export", "ben.csv", "--annotator", "ben")
    assert answer.exit_code == 0 and "5 messages, leased to ben until" in answer.stdout and "queue import ben.csv" in answer.stdout
    fill(folder / "aiko.csv")
    fill(folder / "ben.csv", "promotion")
    assert told("import", "aiko.csv", "--by", "aiko")[1]["taken"] == 10
    answer = typed("import", "ben.csv", "--by", "ben")
    assert (
        answer.exit_code == 0 and "ben.csv: 5 taken." in answer.stdout and "5 conflict" in answer.stdout and "adjudicate" in answer.stdout
    )
    code, status = told("status")
    assert len(status["conflicts"]) == 5 and status["agreement"][0]["n"] == 5 and status["states"]["labelled"] == 5
    shown = typed("status")
    assert "Conflicts" in shown.stdout and "aiko: faq; ben: promotion" in shown.stdout
    for conflict in status["conflicts"]:
        answer = typed("adjudicate", conflict["item_id"], "promotion", "--secondary", "faq", "--why", "asks for a code", "--by", "chiyo")
        assert answer.exit_code == 0
    assert "no conflict left" in answer.stdout
    published = (folder / "home" / INBOX / "queue-2026-11-16.jsonl").read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["intent"] for line in published) == ["faq"] * 5 + ["promotion"] * 5


def test_refused_rows_make_the_exit_code_one_and_the_rest_is_taken(folder):
    typed("export", "aiko.csv", "--annotator", "aiko", "--count", "3")
    fill(folder / "aiko.csv", "signing_event")
    code, report = told("import", "aiko.csv")
    assert (code, report["taken"], len(report["refused"]), report["refused_file"]) == (1, 0, 3, "aiko.refused.csv")
    code, report = told("import", "aiko.csv", "--new-intent", "signing_event")
    assert (code, report["taken"], report["refused_file"]) == (0, 3, None)
    assert not (folder / "aiko.refused.csv").exists()


def test_nothing_open_is_said_and_is_not_done(folder):
    told("export", "aiko.csv", "--annotator", "aiko")
    told("export", "ben.json", "--annotator", "ben")
    answer = typed("export", "chiyo.csv", "--annotator", "chiyo")
    assert answer.exit_code == 1 and "Nothing is open to chiyo: 0 waiting, 10 leased" in answer.stdout
    assert not (folder / "chiyo.csv").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["export", "labels.xlsx"], "End the name in .csv or .json"),
        (["export", "nowhere/labels.csv"], "its folder does not exist"),
        (["import", "missing.csv"], "cannot be read"),
        (["adjudicate", "q0", "faq", "--why", "x"], "is no item of the queue"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leases_nothing(folder, words, problem):
    answer = typed(*words)
    assert isinstance(answer.exception, BadInput) and problem in str(answer.exception) and "\n" not in str(answer.exception)
    assert told("status")[1]["states"]["waiting"] == 10


def test_an_empty_queue_names_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_queue, "current", lambda: SimpleNamespace(home=tmp_path, labelling=Labelling()))
    answer = typed("status")
    assert isinstance(answer.exception, BadInput) and "mangaassist run" in str(answer.exception)
